//! How much is held and done at once: every limit in bytes and of concurrency, in one place, each with its reason.
//!
//! What grows with the data is bounded by [`MemoryPlan`], which is derived from `--memory`. The constants below it
//! are sizes of a single read, write or page: what was measured to be fastest, however much memory there is; all
//! of them together are held a few times for each worker, and stay below what the plan leaves.

use crate::settings::Settings;

/// Where the bytes of `--memory` go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// Record batches in flight, of all tasks together: half of it.
    pub batches: u64,
    /// Pages that tasks hold beside their batches, all together: the other half.
    pub tasks: u64,
    /// Values of one open file that wait for their page to be full: a quarter, since they came out of batches that
    /// are counted no more.
    pub open_pages: u64,
    /// Bytes that Lance reads ahead for one scan: an eighth, since a few scans run at once, and at most
    /// [`READ_AHEAD_MAX`].
    pub read_ahead: u64,
    /// Keys of rows that others moved, of which it is known what a producer gave: a quarter. Beyond, they are computed
    /// again.
    pub moved_keys: u64,
    /// Files that were sent to a store and are verified here, if it confirms them: a quarter, in place of as many batches.
    pub sent: u64,
    /// What a join holds of both sides while it sorts them: a quarter, since reading and writing go on beside it.
    pub sorts: u64,
    /// Tasks at once for each processor that may work.
    workers: usize,
    /// Small tasks at once for each of them, and other ones.
    small_tasks: usize,
    large_tasks: usize,
}

/// What a scan reads ahead at most: more is no faster on a disk or in a bucket, as measured.
const READ_AHEAD_MAX: u64 = 64 << 20;

/// A task that holds no more than this waits for the store most of the time: several are done for each worker.
const SMALL_TASK_BYTES: u64 = 8 << 20;
const SMALL_TASKS_A_WORKER: usize = 4;
/// The same in an object store, which answers many requests at once, and each of them late.
const STORE_TASKS_A_WORKER: usize = 16;
/// Larger tasks in an object store: while one reads back, others read and write.
const STORE_LARGE_TASKS_A_WORKER: usize = 4;

/// What the largest task holds, about: a second one at once adds 80 to 150 MB to the peak, as measured.
pub(crate) const TASK_BYTES_MAX: u64 = 128 << 20;

impl MemoryPlan {
    pub(crate) fn of(settings: &Settings) -> Self {
        let memory = settings.memory_bytes;
        Self {
            batches: memory / 2,
            tasks: memory / 2,
            open_pages: memory / 4,
            read_ahead: (memory / 8).min(READ_AHEAD_MAX),
            moved_keys: memory / 4,
            sent: 0,
            sorts: memory / 4,
            workers: settings.workers,
            small_tasks: SMALL_TASKS_A_WORKER,
            large_tasks: 1,
        }
    }

    /// The same for a table in an object store, if it is `in_store`.
    pub(crate) fn for_store(self, in_store: bool) -> Self {
        if !in_store {
            return self;
        }
        let (small_tasks, large_tasks) = (STORE_TASKS_A_WORKER, STORE_LARGE_TASKS_A_WORKER);
        let half = self.batches / 2;
        Self { small_tasks, large_tasks, batches: half, sent: half, ..self }
    }

    /// Whether a task that holds `held` bytes may join `running` others, which hold `in_use`. One may in any case.
    pub(crate) fn admits(self, held: u64, running: usize, in_use: u64) -> bool {
        let share = if held <= SMALL_TASK_BYTES { self.small_tasks } else { self.large_tasks };
        running == 0 || (running < self.workers * share && in_use + held <= self.tasks)
    }

    /// Whether it is memory that keeps one of the tasks that wait from joining `running` others: a worker is free.
    pub(crate) fn holds_up(self, waiting: usize, running: usize) -> bool {
        waiting > 0 && running < self.workers
    }

    /// Fragments that are looked at side by side before anything is staged; `small`, when all of them are.
    pub(crate) fn fragments_at_once(self, small: bool) -> usize {
        self.workers * if small { self.small_tasks } else { self.large_tasks }
    }
}

/// Bytes of files that are read and written on one thread: most of their time would go into waking others.
pub(crate) const SMALL_FILE_BYTES: u64 = 1 << 20;

/// Bytes of a page of one column at most, which is Lance's default, and at least.
pub(crate) const PAGE_BYTES: (u64, u64) = (8 << 20, 64 << 10);
/// Bytes of a fragment, on average, below which several are put together row by row: their pages would make a slow
/// table.
pub(crate) const COPIED_FRAGMENT_BYTES_MIN: u64 = 8 << 20;

/// Bytes of a batch of constants: with more, the memory of those that were freed by another thread adds up before it
/// is used again, as measured; with less, it takes longer.
pub(crate) const CONSTANT_BATCH_BYTES: u64 = 64 << 10;
/// Bytes of constants that are encoded to see how large they are then.
pub(crate) const CONSTANT_TRIAL_BYTES: u64 = 1 << 20;
/// Bytes of constants that are encoded at once, where that does not make them small; a longer column is put together
/// from parts.
pub(crate) const CONSTANT_PART_BYTES: u64 = 16 << 20;
/// Bytes of encoded constants that are kept for other files, all together; and what those of one number of rows take
/// beside their own bytes, which are a few hundred where they are no vectors: a footer that was read, and a store.
pub(crate) const CONSTANTS_KEPT_BYTES: usize = 32 << 20;
pub(crate) const CONSTANTS_EACH_BYTES: usize = 16 << 10;
/// Bytes of a file of constants of which others get copies, and which is compared with those byte by byte.
pub(crate) const REPEATED_FILE_BYTES: u64 = 64 << 10;
/// Rows of a staged file that is compared with a file of constants byte by byte: beyond, it is decoded.
pub(crate) const REPEATED_FILE_ROWS: u64 = 64 << 10;

/// Rows of a batch that is transformed where it was read, since handing it over takes longer.
pub(crate) const TRANSFORMED_HERE_ROWS: usize = 8_192;
/// Batches that are decoded ahead of what takes them.
pub(crate) const DECODED_AHEAD: usize = 2;

/// Lance's caches: enough for footers and manifests, small beside the batches in flight.
pub(crate) const INDEX_CACHE_BYTES: usize = 256 << 20;
pub(crate) const METADATA_CACHE_BYTES: usize = 64 << 20;

/// Batches of a chunk that are decoded ahead.
pub(crate) const SCAN_DECODED_AHEAD: usize = 4;
/// Batches that are asked of a fragment at once: many enough that finding a page again costs little, few enough that
/// little of a large page is held.
pub(crate) const BATCHES_A_READ: u32 = 8;
/// Reads of a fragment that are begun at once. Each has a buffer of its own: Lance gives a read more than its
/// buffer holds only if nothing that is asked for earlier waits to be used; of two reads that share one, each
/// can wait for what the other has taken, forever, where a page is larger than what is left.
pub(crate) const READS_AHEAD: usize = 2;
/// Fragments of a chunk whose footers are read ahead.
pub(crate) const FRAGMENTS_OPENED_AHEAD: usize = 4;
/// The same of small ones in a store, and batches of them that are decoded ahead: each waits for its answers, and holds little.
pub(crate) const SMALL_FRAGMENTS_AHEAD: usize = 16;

/// Bytes of the parts of an upload: as many more after each hundred parts; a file that is smaller is one request
/// (lance-io 14 `src/object_writer.rs`).
pub(crate) const PART_BYTES: u64 = 5 << 20;
/// Bytes of a part that a store copies inside itself: at least, since S3 takes no smaller ones but the last; about, where the
/// part is read as well, which is held; and about, where it is not.
pub(crate) const PART_COPY_BYTES_MIN: u64 = 5 << 20;
pub(crate) const SEEN_PART_COPY_BYTES: u64 = 12 << 20;
pub(crate) const UNSEEN_PART_COPY_BYTES: u64 = 32 << 20;
/// Such parts at once.
pub(crate) const PART_COPIES_AT_ONCE: usize = 64;
/// Objects of one page of a store's listing.
pub(crate) const LISTED_AT_ONCE: u64 = 1_000;

/// Versions of a table that are opened at once, to see who committed them or what they name.
pub(crate) const VERSIONS_AT_ONCE: usize = 8;

/// Deletion files that are read or written at once: small objects, whose time is a store's answer.
pub(crate) const DELETION_FILES_AT_ONCE: usize = 16;
/// Batches of one scan that are transformed at once: one while the one before it is digested.
pub(crate) const TRANSFORMS_AT_ONCE: usize = 2;

/// Rows of a batch where rows are only looked at: beyond, handing batches around costs nothing beside what is in them.
pub(crate) const LOOK_ROWS: u32 = 8192;
/// Bytes of a page, and of its values on the average, up to which values are shown in a sample: more are not read to
/// show a few letters.
pub(crate) const SHOWN_BYTES: (u64, u64) = (16 << 20, 16 << 10);
/// Rows of a batch where each value is compared with another one: two of each are held.
pub(crate) const COMPARE_ROWS: u32 = 2048;
/// Rows that are read at once by their addresses, each from a page of its own.
pub(crate) const ADDRESSED_ROWS: u32 = 1024;

/// A file is read by one request while the largest pages of its columns have at most so many bytes together:
/// they are held at the same time.
pub(crate) const READ_AT_ONCE_PAGE_BYTES: u64 = 16 << 20;
/// Bytes of each request otherwise, for few columns and for more: every request has to find its place in each
/// page again, which costs the more, the smaller requests are.
pub(crate) const FEW_COLUMNS: usize = 8;
pub(crate) const DECODED_READ_BYTES: (u64, u64) = (8 << 20, 16 << 20);

/// Bytes that are read ahead from a store: pages are Lance's own size, and read one after the other.
pub(crate) const STORE_AHEAD_BYTES: u64 = 8 << 20;
/// Bytes that are read at once, and how many reads are begun ahead: a disk's page cache is best read in
/// small pieces of memory that are used again, a store's answers take their time.
pub(crate) const DISK_PACE: (u64, usize) = (1 << 20, 3);
pub(crate) const STORE_PACE: (u64, usize) = (8 << 20, 6);
/// Two pieces with at most so many bytes between them are one read: Lance fills up to 63 between buffers.
pub(crate) const READ_GAP_BYTES: u64 = 4 << 10;
/// Reads of at most so many bytes stay on the thread that asks: to hand them to another one takes longer.
pub(crate) const READ_HERE_BYTES: u64 = 256 << 10;
/// Bytes of a request that is begun before it is asked for, at most.
pub(crate) const READ_AHEAD_REQUEST_BYTES: u64 = 16 << 20;

/// Reads of fewer bytes get memory that is not kept.
pub(crate) const UNPOOLED_BYTES: usize = 64 << 10;
/// Bytes of free blocks that are kept, at most.
pub(crate) const FREE_BLOCKS_BYTES: usize = 32 << 20;
/// Reads in progress, at most.
pub(crate) const READS_BACK_AT_ONCE: usize = 2;
/// Bytes that the file's writer may keep for itself: those just written are read when as many more were.
pub(crate) const UNWRITTEN_BYTES: u64 = 64 << 10;

/// Bytes that are read at once, of one blob or of several that follow each other.
pub(crate) const BLOB_READ_BYTES: u64 = 8 << 20;
/// Reads at once, for one batch.
pub(crate) const BLOB_READS_AT_ONCE: usize = 4;
/// Bytes after which a sidecar of several blobs is closed.
pub(crate) const BLOB_PACK_BYTES: u64 = 1 << 30;

/// Bytes of a write. The kernel caches a larger write in larger pieces of memory, which are rarely free: a virtual
/// machine gets them from its host, at a sixth of the speed (measured with `dd bs=256K` against `bs=2M`).
pub(crate) const DISK_WRITE_BYTES: usize = 256 << 10;
/// Bytes that wait for more before they are written.
pub(crate) const DISK_SMALL_WRITE_BYTES: usize = 32 << 10;
/// Bytes after which other tasks have their turn.
pub(crate) const DISK_TURN_BYTES: usize = 1 << 20;
/// Bytes after which the disk is given a head start.
pub(crate) const DISK_SYNC_EVERY_BYTES: usize = 64 << 20;
/// Small files that are written, read or looked at at once for one chunk in an object store.
pub(crate) const STORE_FILES_AT_ONCE: usize = 8;
/// Files that are synced at once: a disk takes many in hardly more time than one.
pub(crate) const SYNCS_AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(memory_bytes: u64) -> MemoryPlan {
        MemoryPlan::of(&Settings { memory_bytes, workers: 16, ..Settings::default() })
    }

    #[test]
    fn what_is_held_stays_within_the_memory() {
        let default = plan(512 << 20);
        assert_eq!((default.batches, default.tasks), (256 << 20, 256 << 20));
        assert_eq!((default.open_pages, default.read_ahead), (128 << 20, 64 << 20));
        assert_eq!(plan(128 << 20).read_ahead, 16 << 20);
        assert_eq!(plan(64 << 30).read_ahead, READ_AHEAD_MAX);
    }

    #[test]
    fn as_many_chunks_are_in_progress_as_there_is_memory_for() {
        let plan = plan(512 << 20);
        let tasks = |held: u64| (0_usize..100).find(|n| !plan.admits(held, *n, held * *n as u64));
        // However large it is, one is.
        let mib = |count: u64| tasks(count << 20);
        assert_eq!([mib(1_000), mib(256), mib(100), mib(9)], [Some(1), Some(1), Some(2), Some(16)]);
        assert_eq!([mib(8), mib(1), mib(0)], [Some(32), Some(64), Some(64)]);
        // One of 256 MiB leaves no room for others, and workers free.
        assert!(plan.holds_up(3, 1) && !plan.holds_up(0, 1) && !plan.holds_up(3, 16));
    }
}
