//! Deletion files: which rows of a fragment are deleted, in Lance's own format.
//!
//! Those that relance writes into a live table hold the migration's id in their name.

use bytes::Bytes;
use lance::Dataset;
use lance_io::object_store::ObjectStore;
use lance_table::format::{DeletionFile, DeletionFileType};
use lance_table::io::deletion::{DELETIONS_DIR, deletion_file_path, read_deletion_file};
use object_store::path::Path;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::storage::files;
use crate::storage::names::new_deletion_number;

/// Names that are tried for one deletion file: the store refuses those that are there already.
const NAMES_MAX: u32 = 1_000;

/// A deletion file, and what it has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deleted {
    /// The file, as a fragment names it.
    pub file: DeletionFile,
    /// The hash of the rows in it.
    pub hash: Digest,
}

/// Which name a deletion file gets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Naming {
    /// That of a fragment of the table, as of a version of it.
    Of {
        /// The fragment.
        fragment: u64,
        /// The version that it was made from.
        version: u64,
    },
    /// That of a staged file, whose fragment has no number yet: what stands for the version is random.
    Staged,
}

impl Naming {
    /// The fragment's number in the name.
    fn fragment(self) -> u64 {
        match self {
            Self::Of { fragment, .. } => fragment,
            Self::Staged => STAGED,
        }
    }

    /// The next version to try, which Lance reads for nothing but the file's name
    /// (lance-table 14 `src/io/deletion.rs`).
    fn version(self) -> u64 {
        match self {
            Self::Of { version, .. } => version,
            Self::Staged => Uuid::new_v4().as_u64_pair().0 >> 1,
        }
    }
}

/// The directory of the deletion files of the table at `root`.
pub(crate) fn directory(root: &Path) -> Path {
    root.clone().join(DELETIONS_DIR)
}

/// The deleted rows of the fragment `fragment` of the table at `root`.
///
/// # Errors
/// `Failed`, when the file is gone or cannot be read.
pub(crate) async fn read(
    store: &ObjectStore,
    root: &Path,
    fragment: u64,
    deletions: Option<&DeletionFile>,
) -> Result<RoaringBitmap> {
    let Some(file) = deletions else {
        return Ok(RoaringBitmap::new());
    };
    let read = read_deletion_file(fragment, file, root, store).await;
    let deleted = read.doing(|| format!("read the deleted rows of fragment {fragment}"))?;
    Ok(RoaringBitmap::from(&deleted))
}

/// The deleted rows in a deletion file of relance's, which are those that were written.
///
/// # Errors
/// `Mismatch`, when it is gone, cannot be read, or holds others.
pub(crate) async fn read_back(
    store: &ObjectStore,
    root: &Path,
    fragment: u64,
    deleted: &Deleted,
) -> Result<RoaringBitmap> {
    let name = || name(fragment, &deleted.file);
    let rows = read(store, root, fragment, Some(&deleted.file)).await;
    let rows = rows.map_err(|error| {
        Error::mismatch(format!("the deletion file {} cannot be read back", name()))
            .caused_by(error)
    })?;
    let count = deleted.file.num_deleted_rows.map(|count| count as u64);
    if hash_of(&rows) == deleted.hash && count.is_none_or(|count| count == rows.len()) {
        return Ok(rows);
    }
    Err(Error::mismatch(format!("the deletion file {} holds other rows than were written", name())))
}

/// The hash of `rows`, whatever their bitmap is made of.
fn hash_of(rows: &RoaringBitmap) -> Digest {
    let mut hash = Xxh3::new();
    for row in rows {
        hash.update(&row.to_le_bytes());
    }
    Digest::of(&hash)
}

/// Writes `deleted` as the deleted rows of a fragment of the table at `root`, for the migration `id`, into
/// a file that was not there before, and reads it back; durable when it comes back.
///
/// # Errors
/// `Failed`, when it cannot be written; `Mismatch`, when it does not read back as it was written.
pub(crate) async fn write(
    store: &ObjectStore,
    root: &Path,
    naming: Naming,
    deleted: &RoaringBitmap,
    id: &str,
) -> Result<Deleted> {
    let fragment = naming.fragment();
    let mut bytes = Vec::with_capacity(deleted.serialized_size());
    let doing = || format!("write the deleted rows of fragment {fragment}");
    deleted.serialize_into(&mut bytes).doing(doing)?;
    let (files, bytes) = (files::of(store), Bytes::from(bytes));
    for _ in 0..NAMES_MAX {
        let file = DeletionFile {
            read_version: naming.version(),
            id: new_deletion_number(id),
            file_type: DeletionFileType::Bitmap,
            num_deleted_rows: usize::try_from(deleted.len()).ok(),
            base_id: None,
        };
        let path = deletion_file_path(root, fragment, &file);
        if !files.put_new(&path, bytes.clone()).await? {
            continue;
        }
        files.sync(vec![path], false).await?;
        let written = Deleted { file, hash: hash_of(deleted) };
        read_back(store, root, fragment, &written).await?;
        return Ok(written);
    }
    Err(Error::failed(format!("cannot {}: {NAMES_MAX} names were there already", doing())))
}

/// The fragment number under which the deleted rows of staged fragments are kept: an overwrite gives
/// fragments new numbers each time, so that theirs cannot be part of the name.
pub(crate) const STAGED: u64 = 0;

/// Copies the staged deletion file `deleted` of `staging` for the fragment `fragment` of `to`.
///
/// # Errors
/// `Mismatch`, when it is not what was staged; `Failed`, when it cannot be written.
pub(crate) async fn adopt(
    staging: &Dataset,
    deleted: &Deleted,
    fragment: u64,
    to: &Dataset,
    id: &str,
) -> Result<Deleted> {
    let store = staging.object_store(None).await.doing(|| "open a table's store".to_owned())?;
    let root = staging.branch_location().path;
    let rows = read_back(&store, &root, STAGED, deleted).await?;
    let written = write_for(to, fragment, &rows, id).await?;
    if written.hash == deleted.hash {
        return Ok(written);
    }
    Err(Error::mismatch(format!("the deleted rows of fragment {fragment} changed on their way")))
}

/// Writes `rows` as the deleted rows of the fragment `fragment` of `to`, for the migration `id`.
///
/// # Errors
/// Those of [`write`].
pub(crate) async fn write_for(
    to: &Dataset,
    fragment: u64,
    rows: &RoaringBitmap,
    id: &str,
) -> Result<Deleted> {
    let store = to.object_store(None).await.doing(|| "open a table's store".to_owned())?;
    let naming = Naming::Of { fragment, version: to.version_id() };
    write(&store, &to.branch_location().path, naming, rows, id).await
}

/// Where `file` of the fragment `fragment` of `dataset` lies.
pub(crate) fn path(dataset: &Dataset, fragment: u64, file: &DeletionFile) -> Path {
    deletion_file_path(&dataset.branch_location().path, fragment, file)
}

/// The name of `file` of the fragment `fragment`.
pub(crate) fn name(fragment: u64, file: &DeletionFile) -> String {
    let path = deletion_file_path(&Path::default(), fragment, file);
    path.filename().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3,000 of one table, which 16 random bits alone would have put over each other 68 times.
    #[tokio::test]
    async fn no_deletion_file_is_put_over_another() {
        let (store, root) = (ObjectStore::memory(), Path::from("t.lance"));
        let mut written = std::collections::HashMap::new();
        let namings = [Naming::Staged, Naming::Of { fragment: 7, version: 3 }]
            .into_iter()
            .cycle()
            .take(3_000);
        for (naming, row) in namings.zip(0_u32..) {
            let rows = RoaringBitmap::from_iter([row]);
            let deleted = write(&store, &root, naming, &rows, "0123456789ab").await.unwrap();
            let name = (naming.fragment(), name(naming.fragment(), &deleted.file));
            assert!(written.insert(name, (deleted, rows)).is_none());
        }
        for ((fragment, _), (deleted, rows)) in &written {
            assert_eq!(read_back(&store, &root, *fragment, deleted).await.unwrap(), *rows);
        }
    }

    #[tokio::test]
    async fn a_deletion_file_that_holds_other_rows_is_a_mismatch() {
        let (store, root) = (ObjectStore::memory(), Path::from("t.lance"));
        let rows = |rows: [u32; 2]| RoaringBitmap::from_iter(rows);
        let id = "0123456789ab";
        let one = write(&store, &root, Naming::Staged, &rows([1, 2]), id).await.unwrap();
        let two = write(&store, &root, Naming::Staged, &rows([1, 3]), id).await.unwrap();
        let exchanged = Deleted { file: two.file, ..one };
        let error = read_back(&store, &root, STAGED, &exchanged).await.unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Mismatch);
    }
}
