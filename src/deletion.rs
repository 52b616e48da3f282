//! Deletion files: which rows of a fragment are deleted, in Lance's own format.
//!
//! Those that relance writes into a live table hold the migration's id in their name.

use lance::Dataset;
use lance_io::object_store::ObjectStore;
use lance_table::format::{DeletionFile, DeletionFileType};
use lance_table::io::deletion::{DELETIONS_DIR, deletion_file_path, read_deletion_file};
use object_store::path::Path;
use roaring::RoaringBitmap;
use uuid::Uuid;

use crate::datafile;
use crate::error::{Context, Result};

/// Bits of a deletion file's number that are not the migration's id, which has 48.
const FREE_BITS: u32 = 16;

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

/// Writes `deleted` as the deleted rows of the fragment `fragment` of the table at `root`, for the
/// migration `id`; durable when it comes back.
///
/// # Errors
/// `Failed`, when it cannot be written.
pub(crate) async fn write(
    store: &ObjectStore,
    root: &Path,
    fragment: u64,
    version: u64,
    deleted: &RoaringBitmap,
    id: &str,
) -> Result<DeletionFile> {
    let file = DeletionFile {
        read_version: version,
        id: new_number(id),
        file_type: DeletionFileType::Bitmap,
        num_deleted_rows: usize::try_from(deleted.len()).ok(),
        base_id: None,
    };
    let path = deletion_file_path(root, fragment, &file);
    let mut bytes = Vec::with_capacity(deleted.serialized_size());
    deleted.serialize_into(&mut bytes).doing(|| format!("write {path}"))?;
    store.put(&path, &bytes).await.doing(|| format!("write {path}"))?;
    datafile::sync(store, vec![path], false).await?;
    Ok(file)
}

/// The fragment number under which the deleted rows of staged fragments are kept: an overwrite gives
/// fragments new numbers each time, so that theirs cannot be part of the name.
pub(crate) const STAGED: u64 = 0;

/// Copies the deletion file `file` of the fragment `number` of `from` for the fragment `fragment` of `to`.
///
/// # Errors
/// `Failed`, when it cannot be read or written.
pub(crate) async fn adopt(
    from: &Dataset,
    file: &DeletionFile,
    number: u64,
    fragment: u64,
    to: &Dataset,
    id: &str,
) -> Result<DeletionFile> {
    let store = |dataset: &Dataset| {
        let dataset = dataset.clone();
        async move { dataset.object_store(None).await.doing(|| "open a table's store".to_owned()) }
    };
    let (source, target) = (store(from).await?, store(to).await?);
    let rows = read(&source, &from.branch_location().path, number, Some(file)).await?;
    let root = to.branch_location().path;
    write(&target, &root, fragment, to.version_id(), &rows, id).await
}

/// Where `file` of the fragment `fragment` of `dataset` lies.
pub(crate) fn path(dataset: &Dataset, fragment: u64, file: &DeletionFile) -> Path {
    deletion_file_path(&dataset.branch_location().path, fragment, file)
}

/// Whether `name` is a deletion file of the migration `id`.
pub(crate) fn is_of(name: &str, id: &str) -> bool {
    let number = name.split('.').next().and_then(|stem| stem.rsplit('-').next());
    let number = number.and_then(|number| number.parse::<u64>().ok());
    number.is_some_and(|number| Some(number >> FREE_BITS) == number_of(id))
}

/// The name of `file` of the fragment `fragment`.
pub(crate) fn name(fragment: u64, file: &DeletionFile) -> String {
    let path = deletion_file_path(&Path::default(), fragment, file);
    path.filename().unwrap_or_default().to_owned()
}

fn new_number(id: &str) -> u64 {
    let (_, random) = Uuid::new_v4().as_u64_pair();
    let free = random & ((1 << FREE_BITS) - 1);
    number_of(id).unwrap_or_default() << FREE_BITS | free
}

fn number_of(id: &str) -> Option<u64> {
    u64::from_str_radix(id, 16).ok().filter(|number| *number < 1 << (u64::BITS - FREE_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_they_are() {
        let file = DeletionFile {
            read_version: 7,
            id: new_number("0123456789ab"),
            file_type: DeletionFileType::Bitmap,
            num_deleted_rows: Some(1),
            base_id: None,
        };
        let name = name(12, &file);
        assert!(name.starts_with("12-7-"), "{name}");
        assert!(is_of(&name, "0123456789ab"));
        assert!(!is_of(&name, "0123456789ac"));
        assert!(!is_of("12-7-99.arrow", "0123456789ab"));
    }
}
