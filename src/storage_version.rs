//! What data files of each storage version can do. Every module that depends on it asks here.

use lance_file::version::{ConcreteFileVersion, LanceFileVersion};

/// What data files of one storage version can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a column of the table below")]
pub(crate) struct Abilities {
    /// Lance still writes such files, and puts new columns into files beside them.
    pub is_writable: bool,
    /// A file says everything that is needed to decode it, so that its pages can be read without Lance's reader
    /// of fragments.
    pub reads_directly: bool,
    /// A page is read when its rows are decoded; otherwise all pages that are asked for are read at once.
    pub reads_lazily: bool,
    /// A page needs nothing but its own buffers, so that it can be copied into another file.
    pub has_whole_pages: bool,
    /// Blob columns are blob v2; otherwise they are blob v1.
    pub has_blob_v2: bool,
    /// Maps, and structs as the items of fixed-size lists (lance-file 14 `src/versions/v2_1/mod.rs`).
    pub has_maps: bool,
    /// A null struct is told apart from a struct of nulls.
    pub keeps_null_structs: bool,
    /// The oldest client that reads it, from the table of versions in Lance's documentation of the format.
    pub oldest_client: Option<&'static str>,
}

const LEGACY: Abilities = Abilities {
    is_writable: false,
    reads_directly: false,
    reads_lazily: false,
    has_whole_pages: false,
    has_blob_v2: false,
    has_maps: false,
    keeps_null_structs: false,
    oldest_client: None,
};
/// It keeps some of what is needed to decode a page outside of the page.
const V2_0: Abilities =
    Abilities { is_writable: true, oldest_client: Some("pylance 0.16"), ..LEGACY };
const V2_1: Abilities = Abilities {
    reads_directly: true,
    reads_lazily: true,
    has_whole_pages: true,
    keeps_null_structs: true,
    oldest_client: Some("pylance 0.38"),
    ..V2_0
};
const V2_2: Abilities =
    Abilities { has_blob_v2: true, has_maps: true, oldest_client: Some("pylance 2.0"), ..V2_1 };
/// It is not stable yet. Its pages may still change, so none is copied.
const V2_3: Abilities = Abilities { has_whole_pages: false, ..V2_2 };

/// The version from which on [`has_maps`](Abilities::has_maps) holds.
pub(crate) const FIRST_WITH_MAPS: &str = "2.2";

/// What data files of `version` can do.
pub(crate) const fn abilities(version: ConcreteFileVersion) -> Abilities {
    match version {
        ConcreteFileVersion::V1 => LEGACY,
        ConcreteFileVersion::V2_0 => V2_0,
        ConcreteFileVersion::V2_1 => V2_1,
        ConcreteFileVersion::V2_2 => V2_2,
        ConcreteFileVersion::V2_3 => V2_3,
    }
}

/// The version of new files in a table of `version`.
pub(crate) const fn of_new_files(version: ConcreteFileVersion) -> ConcreteFileVersion {
    if abilities(version).is_writable { version } else { ConcreteFileVersion::V2_1 }
}

/// The version that is called `name`, if files of it can be asked for: it is stable, and Lance writes it.
pub(crate) fn named(name: &str) -> Option<ConcreteFileVersion> {
    let stable = name.parse::<LanceFileVersion>().ok().filter(|version| !version.is_unstable());
    stable.map(LanceFileVersion::resolve).filter(|version| abilities(*version).is_writable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stable_versions_that_lance_writes_can_be_asked_for() {
        assert_eq!(named("2.0"), Some(ConcreteFileVersion::V2_0));
        assert_eq!(named("2.2"), Some(ConcreteFileVersion::V2_2));
        for other in ["0.1", "2.3", "next", "9.9", ""] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn a_newer_version_loses_nothing_but_copied_pages() {
        use ConcreteFileVersion as Version;
        let all = [Version::V1, Version::V2_0, Version::V2_1, Version::V2_2, Version::V2_3];
        for pair in all.windows(2) {
            let (old, new) = (abilities(pair[0]), abilities(pair[1]));
            assert!(new.is_writable >= old.is_writable && new.reads_directly >= old.reads_directly);
            assert!(new.has_blob_v2 >= old.has_blob_v2 && new.has_maps >= old.has_maps);
            assert!(new.keeps_null_structs >= old.keeps_null_structs);
        }
        let first = all.into_iter().find(|version| abilities(*version).has_maps);
        assert_eq!(first.map(Version::to_manifest_string), Some(FIRST_WITH_MAPS));
    }
}
