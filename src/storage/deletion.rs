//! Deletion files: which rows of a fragment are deleted, in Lance's own format.
//!
//! Those that relance writes into a live table hold the migration's id in their name.

use bytes::Bytes;
use lance_io::object_store::ObjectStore;
use lance_table::format::{DeletionFile, DeletionFileType};
use lance_table::io::deletion::{DELETIONS_DIR, deletion_file_path, read_deletion_file};
use object_store::path::Path;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Doing, Error, Result};
use crate::storage::{files, names::new_deletion_number};
use crate::transform::digest::Digest;

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
    /// That of a fragment of the table, made from a version of it.
    Of { fragment: u64, version: u64 },
    /// That of a staged file, whose fragment has no number yet: what stands for the version is random.
    Staged,
}

impl Naming {
    /// The fragment's number in the name, and the version to try next, which Lance reads for nothing but the name
    /// (lance-table 14 `src/io/deletion.rs`).
    fn numbers(self) -> (u64, u64) {
        match self {
            Self::Of { fragment, version } => (fragment, version),
            Self::Staged => (STAGED, Uuid::new_v4().as_u64_pair().0 >> 1),
        }
    }
}

/// The fragment number under which the deleted rows of staged fragments are kept: an overwrite gives
/// fragments new numbers each time, so that theirs cannot be part of the name.
pub(crate) const STAGED: u64 = 0;

/// The deletion files of the table at `root`.
#[derive(Debug, Clone)]
pub(crate) struct Deletions {
    store: ObjectStore,
    root: Path,
}

impl Deletions {
    pub(crate) fn of(store: &ObjectStore, root: &Path) -> Self {
        Self { store: store.clone(), root: root.clone() }
    }

    /// Where `file` of the fragment `fragment` lies.
    pub(crate) fn path(&self, fragment: u64, file: &DeletionFile) -> Path {
        deletion_file_path(&self.root, fragment, file)
    }

    /// The deleted rows of the fragment `fragment`, whose deletion file is `file`.
    ///
    /// # Errors
    /// `Failed`, when the file is gone or cannot be read.
    pub(crate) async fn read(
        &self,
        fragment: u64,
        file: Option<&DeletionFile>,
    ) -> Result<RoaringBitmap> {
        let Some(file) = file else { return Ok(RoaringBitmap::new()) };
        let read = read_deletion_file(fragment, file, &self.root, &self.store).await;
        let rows = read.doing(|| format!("read the deleted rows of fragment {fragment}"))?;
        Ok(RoaringBitmap::from(&rows))
    }

    /// The deleted rows in a deletion file of relance's, which are those that were written.
    ///
    /// # Errors
    /// `Mismatch`, when it is gone, cannot be read, or holds others.
    pub(crate) async fn read_back(
        &self,
        fragment: u64,
        deleted: &Deleted,
    ) -> Result<RoaringBitmap> {
        let name = || name(fragment, &deleted.file);
        let rows = self.read(fragment, Some(&deleted.file)).await.map_err(|error| {
            Error::mismatch(format!("the deletion file {} cannot be read back", name()))
                .caused_by(error)
        })?;
        let count = deleted.file.num_deleted_rows.map(|count| count as u64);
        if hash_of(&rows) == deleted.hash && count.is_none_or(|count| count == rows.len()) {
            return Ok(rows);
        }
        let what = format!("the deletion file {} holds other rows than were written", name());
        Err(Error::mismatch(what))
    }

    /// Writes `rows` as the deleted rows of a fragment, for the migration `id`, into a file that was not there
    /// before, and reads it back; durable when it comes back.
    ///
    /// # Errors
    /// `Failed`, when it cannot be written; `Mismatch`, when it does not read back as it was written.
    pub(crate) async fn write(
        &self,
        naming: Naming,
        rows: &RoaringBitmap,
        id: &str,
    ) -> Result<Deleted> {
        let (fragment, _) = naming.numbers();
        let mut bytes = Vec::with_capacity(rows.serialized_size());
        let doing = || format!("write the deleted rows of fragment {fragment}");
        rows.serialize_into(&mut bytes).doing(doing)?;
        let (files, bytes) = (files::of(&self.store), Bytes::from(bytes));
        for _ in 0..NAMES_MAX {
            let file = DeletionFile {
                read_version: naming.numbers().1,
                id: new_deletion_number(id),
                file_type: DeletionFileType::Bitmap,
                num_deleted_rows: usize::try_from(rows.len()).ok(),
                base_id: None,
            };
            let path = self.path(fragment, &file);
            if !files.put_new(&path, bytes.clone()).await? {
                continue;
            }
            files.sync(vec![path], false).await?;
            let written = Deleted { file, hash: hash_of(rows) };
            self.read_back(fragment, &written).await?;
            return Ok(written);
        }
        Err(Error::failed(format!("cannot {}: {NAMES_MAX} names were there already", doing())))
    }

    /// Copies the deletion file `staged` of a staged fragment, which is one of these, to those of `to`.
    ///
    /// # Errors
    /// `Mismatch`, when it is not what was staged; `Failed`, when it cannot be written.
    pub(crate) async fn copy_staged(
        &self,
        staged: &Deleted,
        to: &Self,
        naming: Naming,
        id: &str,
    ) -> Result<Deleted> {
        let rows = self.read_back(STAGED, staged).await?;
        let written = to.write(naming, &rows, id).await?;
        if written.hash == staged.hash {
            return Ok(written);
        }
        let (fragment, _) = naming.numbers();
        let what = format!("the deleted rows of fragment {fragment} changed on their way");
        Err(Error::mismatch(what))
    }
}

/// The directory of the deletion files of the table at `root`.
pub(crate) fn directory(root: &Path) -> Path {
    root.clone().join(DELETIONS_DIR)
}

/// The name of `file` of the fragment `fragment`.
pub(crate) fn name(fragment: u64, file: &DeletionFile) -> String {
    let path = deletion_file_path(&Path::default(), fragment, file);
    path.filename().unwrap_or_default().to_owned()
}

/// The hash of `rows`, whatever their bitmap is made of.
fn hash_of(rows: &RoaringBitmap) -> Digest {
    let mut hash = Xxh3::new();
    for row in rows {
        hash.update(&row.to_le_bytes());
    }
    Digest::of(&hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3,000 of one table, which 16 random bits alone would have put over each other 68 times.
    #[tokio::test]
    async fn no_deletion_file_is_put_over_another() {
        let deletions = Deletions::of(&ObjectStore::memory(), &Path::from("t.lance"));
        let mut written = std::collections::HashMap::new();
        let namings = [Naming::Staged, Naming::Of { fragment: 7, version: 3 }];
        for (row, naming) in (0_u32..3_000).zip(namings.into_iter().cycle()) {
            let rows = RoaringBitmap::from_iter([row]);
            let deleted = deletions.write(naming, &rows, "0123456789ab").await.unwrap();
            let (fragment, _) = naming.numbers();
            let name = (fragment, name(fragment, &deleted.file));
            assert!(written.insert(name, (deleted, rows)).is_none());
        }
        for ((fragment, _), (deleted, rows)) in &written {
            assert_eq!(deletions.read_back(*fragment, deleted).await.unwrap(), *rows);
        }
    }

    #[tokio::test]
    async fn a_deletion_file_that_holds_other_rows_is_a_mismatch() {
        let deletions = Deletions::of(&ObjectStore::memory(), &Path::from("t.lance"));
        let rows = |rows: [u32; 2]| RoaringBitmap::from_iter(rows);
        let id = "0123456789ab";
        let one = deletions.write(Naming::Staged, &rows([1, 2]), id).await.unwrap();
        let two = deletions.write(Naming::Staged, &rows([1, 3]), id).await.unwrap();
        let exchanged = Deleted { file: two.file, ..one };
        let error = deletions.read_back(STAGED, &exchanged).await.unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Mismatch);
    }
}
