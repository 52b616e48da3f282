//! Every name that carries a migration's id, and its check. A name holds the id before the file's first byte
//! is written, so that whatever a killed run left behind can be told from everybody else's.

use object_store::path::Path;
use uuid::Uuid;

/// The folder of beats in a staging table's.
pub(crate) const BEATS: &str = "_relance";

/// The folder, in a staging table's, of what came from elsewhere.
pub(crate) const PARTS: [&str; 2] = [BEATS, "parts"];

/// Bits of a deletion file's number that are not the migration's id, which has 48.
const FREE_BITS: u32 = 16;

/// A new name of a data file of the migration `id`. It begins with 24 random bits, as Lance's own names do,
/// so that an object store spreads the files over its partitions.
pub(crate) fn new_data_file(id: &str) -> String {
    new_file(id)
}

/// What stands in the place of an id in the name of an object that is there for a moment, to see whether it can be written.
const PROBE: &str = "probe";

/// A new name of such an object, among data files.
pub(crate) fn new_probe() -> String {
    new_file(PROBE)
}

/// Whether `name` is that of one, which may be left by a run that died.
pub(crate) fn is_probe(name: &str) -> bool {
    is_data_file(name, PROBE)
}

fn new_file(id: &str) -> String {
    let random = Uuid::new_v4().simple().to_string();
    let (bits, rest) = random.split_at(6);
    let bits = u32::from_str_radix(bits, 16).unwrap_or_default();
    let rest = rest.get(..16).unwrap_or(rest);
    format!("{bits:024b}-relance-{id}-{rest}.lance")
}

/// Whether `name` is a data file of the migration `id`.
pub(crate) fn is_data_file(name: &str, id: &str) -> bool {
    let stem = name.strip_suffix(".lance").unwrap_or_default();
    stem.contains(&format!("-relance-{id}-"))
}

/// Whether the object at `path` in a table's folder is of the migration `id`: a data file or a sidecar of one, a deletion file, a
/// transaction, or a file of an index.
pub(crate) fn is_of(path: &Path, id: &str) -> bool {
    let name = path.filename().unwrap_or_default();
    is_data_file(&data_file_of(path), id)
        || is_deletion_file(name, id)
        || is_uuid(name.strip_suffix(".txn").unwrap_or_default(), id)
        || path
            .parts()
            .any(|part| Uuid::try_parse(part.as_ref()).is_ok() && is_uuid(part.as_ref(), id))
}

/// The name of the data file that the object at `location` is, or is a sidecar of: those are in a folder of
/// its name.
pub(crate) fn data_file_of(location: &Path) -> String {
    let name = location.filename().unwrap_or_default();
    if location.extension() != Some("blob") {
        return name.to_owned();
    }
    let folder = location.parts().rev().nth(1);
    folder.map(|folder| format!("{}.lance", folder.as_ref())).unwrap_or_default()
}

/// The name of a data file without `.lance`, which is that of its sidecars' folder.
pub(crate) fn stem(name: &str) -> &str {
    name.strip_suffix(".lance").unwrap_or(name)
}

/// Where the sidecars of the data file `file` lie.
pub(crate) fn sidecars_of(file: &Path) -> Path {
    directory_of(file).join(stem(file.filename().unwrap_or_default()))
}

/// The directory that `file` lies in.
pub(crate) fn directory_of(file: &Path) -> Path {
    let parts: Vec<_> = file.parts().collect();
    let directory = parts.split_last().map_or(&[][..], |(_, directory)| directory);
    directory.iter().cloned().collect()
}

/// A new number of a deletion file of the migration `id`, which it begins with.
pub(crate) fn new_deletion_number(id: &str) -> u64 {
    let (_, random) = Uuid::new_v4().as_u64_pair();
    let free = random & ((1 << FREE_BITS) - 1);
    number_of(id).unwrap_or_default() << FREE_BITS | free
}

/// Whether `name` is a deletion file of the migration `id`.
pub(crate) fn is_deletion_file(name: &str, id: &str) -> bool {
    let number = name.split('.').next().and_then(|stem| stem.rsplit('-').next());
    let number = number.and_then(|number| number.parse::<u64>().ok());
    number.is_some_and(|number| Some(number >> FREE_BITS) == number_of(id))
}

fn number_of(id: &str) -> Option<u64> {
    u64::from_str_radix(id, 16).ok().filter(|number| *number < 1 << (u64::BITS - FREE_BITS))
}

/// A new id of a transaction or an index of the migration `id`, which it ends with. Lance names files after
/// it.
pub(crate) fn new_uuid(id: &str) -> Uuid {
    let random = Uuid::new_v4();
    let text = random.simple().to_string();
    let kept = text.len().saturating_sub(id.len());
    let named = text.get(..kept).map(|random| format!("{random}{id}"));
    named.and_then(|text| Uuid::try_parse(&text).ok()).unwrap_or(random)
}

/// Whether `uuid` is that of a transaction or an index of the migration `id`.
pub(crate) fn is_uuid(uuid: &str, id: &str) -> bool {
    uuid.ends_with(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789ab";
    const OTHER: &str = "0123456789ac";

    #[test]
    fn data_files_tell_whose_they_are() {
        let name = new_data_file(ID);
        assert!(is_data_file(&name, ID));
        assert!(!is_data_file(&name, OTHER));
        assert!(!is_data_file("101100101101010011010110a1b2c3d4e5f6a7b8c9d0e1f2a3.lance", ID));
        assert_ne!(name, new_data_file(ID));
        assert!(is_probe(&new_probe()) && !is_probe(&name) && !is_data_file(&new_probe(), ID));
        let sidecar = sidecars_of(&Path::from("data").join(name.as_str())).join("1.blob");
        assert_eq!(data_file_of(&sidecar), name);
    }

    #[test]
    fn deletion_files_tell_whose_they_are() {
        let name = format!("12-7-{}.bin", new_deletion_number(ID));
        assert!(is_deletion_file(&name, ID));
        assert!(!is_deletion_file(&name, OTHER));
        assert!(!is_deletion_file("12-7-99.arrow", ID));
    }

    #[test]
    fn uuids_tell_whose_they_are() {
        let uuid = new_uuid(ID);
        assert!(is_uuid(&uuid.to_string(), ID));
        assert!(is_uuid(&uuid.simple().to_string(), ID));
        assert!(!is_uuid(&Uuid::nil().to_string(), ID));
        assert_ne!(uuid, new_uuid(ID));
    }

    #[test]
    fn objects_of_a_table_tell_whose_they_are() {
        let (table, uuid) = (Path::from("db/t.lance"), new_uuid(ID));
        let data = table.clone().join("data");
        for ours in [
            data.clone().join(new_data_file(ID)),
            sidecars_of(&data.clone().join(new_data_file(ID))).join("1.blob"),
            table.clone().join("_deletions").join(format!("1-7-{}.bin", new_deletion_number(ID))),
            table.clone().join("_transactions").join(format!("7-{uuid}.txn")),
            table.clone().join("_indices").join(uuid.to_string()).join("index.idx"),
        ] {
            assert!(is_of(&ours, ID) && !is_of(&ours, OTHER), "{ours}");
        }
        let others = data.join("101100101101010011010110a1b2c3d4e5f6a7b8c9d0e1f2a3.lance");
        assert!(!is_of(&others, ID) && !is_of(&table.join(ID), ID));
    }
}
