//! Gathers the facts that the planner needs.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance_file::version::ConcreteFileVersion;
use lance_index::{frag_reuse::FRAG_REUSE_INDEX_NAME, mem_wal::MEM_WAL_INDEX_NAME};
use lance_table::{
    feature_flags::can_write_dataset, format::Fragment, io::commit::ManifestNamingScheme,
};
use xxhash_rust::xxh3::Xxh3;

use crate::chunk::{Origin, Signature, SourceFragment};
use crate::error::{Doing, Result};
use crate::plan::{Facts, IndexFacts, TableState, requests::Commits};
use crate::{location::Location, table::open::indices_of};

/// Gathers what the planner needs to know of `dataset`, of whose `indices` the caller knows.
///
/// # Errors
/// `Failed`, when a deletion file or the index list cannot be read.
pub(crate) async fn facts(
    location: &Location,
    dataset: &Dataset,
    indices: Vec<IndexFacts>,
) -> Result<Facts> {
    let manifest = dataset.manifest();
    Ok(Facts {
        table: location.table().to_owned(),
        version: dataset.version_id(),
        schema: dataset.schema().clone(),
        field_id_max: manifest.max_field_id(),
        storage_version: manifest.data_storage_format.lance_file_format(),
        file_versions: file_versions(dataset),
        fragments: source_fragments(dataset).await?,
        staged: Vec::new(),
        indices,
        state: state(dataset).await?,
        in_store: location.directory().is_none(),
        commits: if location.has_unknown_commits() { Commits::Untried } else { Commits::Safe },
        speaks_s3: location.speaks_s3(),
        free_bytes: location.directory().and_then(|place| fs4::available_space(place).ok()),
    })
}

/// The storage versions of the data files of `dataset`, as manifests write them.
fn file_versions(dataset: &Dataset) -> BTreeSet<String> {
    let files = dataset.iter_fragments().flat_map(|fragment| &fragment.files);
    let versions = files.map(|file| (file.file_major_version, file.file_minor_version));
    let versions: BTreeSet<_> = versions.collect();
    let named = |(major, minor)| match ConcreteFileVersion::from_data_file_numbers(major, minor) {
        Ok(known) => known.to_manifest_string().to_owned(),
        Err(_) => format!("{major}.{minor}"),
    };
    versions.into_iter().map(named).collect()
}

async fn state(dataset: &Dataset) -> Result<TableState> {
    let manifest = dataset.manifest();
    let indices = indices_of(dataset).await?;
    Ok(TableState {
        mem_wal: indices.iter().any(|index| index.name == MEM_WAL_INDEX_NAME),
        stable_row_ids: manifest.uses_stable_row_ids(),
        non_reusable_field_ids: manifest.uses_non_reusable_field_ids(),
        overlays: manifest.fragments.iter().any(|fragment| !fragment.overlays.is_empty()),
        tagged_fragment_reuse: indices
            .iter()
            .any(|index| index.name == FRAG_REUSE_INDEX_NAME && index.index_version != 0),
        unknown_writer_flags: !can_write_dataset(manifest.writer_feature_flags),
        detachable: dataset.manifest_location().naming_scheme == ManifestNamingScheme::V2,
    })
}

/// The fragments of `dataset`, in row order.
///
/// # Errors
/// `Failed`, when a fragment's rows have to be counted and cannot be.
pub(crate) async fn source_fragments(dataset: &Dataset) -> Result<Vec<SourceFragment>> {
    let fragments = dataset.get_fragments();
    stream::iter(fragments)
        .map(|fragment| async move {
            let metadata = fragment.metadata();
            let doing = || format!("count the rows of fragment {}", metadata.id);
            let rows = match metadata.num_rows() {
                Some(rows) => rows,
                None => fragment.count_rows(None).await.doing(doing)?,
            };
            let physical_rows = match metadata.physical_rows {
                Some(rows) => rows,
                None => fragment.physical_rows().await.doing(doing)?,
            };
            let (id, deletions) = (metadata.id, metadata.deletion_file.clone());
            let origin = Origin { id, signature: signature(metadata), deletions };
            let sizes = metadata.files.iter().filter_map(|file| file.file_size_bytes.get());
            let (rows, physical_rows) = (rows as u64, physical_rows as u64);
            Ok(SourceFragment { origin, rows, physical_rows, bytes: sizes.map(u64::from).sum() })
        })
        .buffered(16)
        .try_collect()
        .await
}

/// What a fragment's values depend on: which files, which columns of them, how long they are. It is kept in
/// the journal: a hash of the fragment's number, its rows, and each file's name, base path and fields; all
/// numbers as 8 little-endian bytes, what may be missing and what has a length after one more of them.
fn signature(fragment: &Fragment) -> Signature {
    let mut hash = Xxh3::new();
    let mut add = |number: u64| hash.update(&number.to_le_bytes());
    let maybe = |number: Option<u64>| [u64::from(number.is_some()), number.unwrap_or_default()];
    add(fragment.id);
    maybe(fragment.physical_rows.map(|rows| rows as u64)).into_iter().for_each(&mut add);
    for file in &fragment.files {
        add(file.path.len() as u64);
        file.path.bytes().for_each(|byte| add(u64::from(byte)));
        maybe(file.base_id.map(u64::from)).into_iter().for_each(&mut add);
        add(file.fields.len() as u64);
        // Fields that are gone have negative numbers.
        file.fields.iter().for_each(|field| add(u64::from(field.cast_unsigned())));
    }
    Signature(format!("{:032x}", hash.digest128()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_table::format::DataFile;
    use xxhash_rust::xxh3::xxh3_128;

    #[test]
    fn what_a_signature_is_of_is_fixed() {
        let mut fragment = Fragment::new(3);
        fragment.physical_rows = Some(10);
        let mut file = DataFile::new_unstarted("ab", ConcreteFileVersion::V2_1);
        file.fields = vec![0, -2].into();
        fragment.files.push(file);
        let field = u64::from(u32::MAX - 1);
        let numbers = [3, 1, 10, 2, u64::from(b'a'), u64::from(b'b'), 0, 0, 2, 0, field];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let wanted = Signature(format!("{:032x}", xxh3_128(&bytes)));
        assert_eq!(signature(&fragment), wanted);
        fragment.files[0].base_id = Some(0);
        assert_ne!(signature(&fragment), wanted);
    }
}
