//! Indices over what is staged, built before it is swapped in.

use std::collections::{BTreeMap, HashMap};

use lance::Dataset;
use lance_table::format::IndexMetadata;
use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::plan::{Plan, fragment_ids::FragmentIds};
use crate::table::open::{data_files_of, indices_of};

/// Indices over what is staged, built before it is swapped in.
#[derive(Debug, Default)]
pub(crate) struct Prebuilt {
    pub indices: Vec<IndexMetadata>,
    /// Their files, as they lay in the store when they were built.
    pub index_files: IndexFiles,
    /// The staged file of each fragment that they were built over, by its id.
    pub files: HashMap<u64, String>,
    pub numbering: FragmentIds,
}

impl Prebuilt {
    /// Fails when files of the indices, in the folder of `live`, are not as they were when they were built.
    ///
    /// # Errors
    /// `Mismatch` then; `Failed`, when they cannot be listed.
    pub(crate) async fn expect_files(&self, live: &Dataset) -> Result<()> {
        if self.indices.is_empty() || index_files(live, &self.indices).await? == self.index_files {
            return Ok(());
        }
        Err(Error::mismatch(
            "files of the indices that were built for the swap are not as they were: something other \
             than relance touched them",
        ))
    }

    /// The indices, over those fragments of `prepared` that they were built over, as of `version`.
    pub(crate) fn fitting(&self, prepared: &Dataset, version: u64) -> Vec<IndexMetadata> {
        let there: RoaringBitmap = prepared
            .iter_fragments()
            .filter(|fragment| {
                let file = fragment.files.last().map(|file| &file.path);
                file.is_some() && file == self.files.get(&fragment.id)
            })
            .filter_map(|fragment| u32::try_from(fragment.id).ok())
            .collect();
        let indices = self.indices.iter().cloned().map(|mut index| {
            index.fragment_bitmap = index.fragment_bitmap.map(|built| built & &there);
            index.dataset_version = version;
            index
        });
        // One that covers nothing any more is built again after the swap.
        let covers = |index: &IndexMetadata| {
            index.fragment_bitmap.as_ref().is_none_or(|covered| !covered.is_empty())
        };
        indices.filter(covers).collect()
    }
}

/// The files of prepared indices, as they lay in the store when they were built.
pub(crate) type IndexFiles = BTreeMap<String, (u64, String)>;

/// What the store has of the files of `indices`, which are made durable: by name, the size, and what tells one
/// content from another.
///
/// # Errors
/// `Failed`, when they cannot be listed.
pub(crate) async fn index_files(live: &Dataset, indices: &[IndexMetadata]) -> Result<IndexFiles> {
    let files = data_files_of(live).await?;
    let mut all = IndexFiles::new();
    for index in indices {
        let directory = live.indices_dir().join(index.uuid.to_string());
        let listed = files.list_below(&directory).await?;
        let paths = listed.iter().map(|meta| meta.location.clone()).collect();
        files.sync(paths, false).await?;
        for meta in listed {
            let mark = format!("{} {:?}", meta.last_modified, meta.e_tag);
            all.insert(meta.location.to_string(), (meta.size, mark));
        }
    }
    Ok(all)
}

/// The indices of `prepared` on columns that are kept under another name: they are built again on the new ones.
///
/// # Errors
/// `Failed`, when the index list cannot be read.
pub(crate) async fn left_behind(prepared: &Dataset, plan: &Plan) -> Result<Vec<IndexMetadata>> {
    let rebuilds = plan.rebuilds();
    let moved = |name: &String| {
        let mut moved = rebuilds.iter().filter(|rebuild| rebuild.name == *name);
        moved.any(|rebuild| plan.target.kept_beside.contains(&rebuild.column))
    };
    if plan.target.kept_beside.is_empty() {
        return Ok(Vec::new());
    }
    let there = indices_of(prepared).await?;
    Ok(there.iter().filter(|one| moved(&one.name)).cloned().collect())
}
