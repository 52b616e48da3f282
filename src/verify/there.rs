//! Whether the files that were staged lie in the table's folder as they were when they were verified, and whatever else a version
//! names.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use object_store::{ObjectMeta, path::Path};

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::journal::{Journal, StagedFile};
use crate::limits::DELETION_FILES_AT_ONCE;
use crate::storage::deletion;
use crate::storage::files::DataFiles;
use crate::storage::names::data_file_of;
use crate::table::open::{data_files_of, indices_of};

/// The chunks whose staged files are not as they were when they were verified: they have to be verified again
/// first.
///
/// # Errors
/// `Mismatch`, naming the file, when one is gone.
pub(crate) async fn touched(live: &Dataset, journal: &Journal) -> Result<Vec<ChunkId>> {
    let there = staged_files(live, journal).await?;
    let mut touched = Vec::new();
    for record in journal.records() {
        for file in &record.files {
            match there.get(&file.name) {
                None => {
                    let (name, chunk) = (&file.name, record.chunk);
                    return Err(Error::mismatch(format!(
                        "the staged file {name} of chunk {chunk} is gone: something other than relance \
                         removed it. Not swapped"
                    ))
                    .with_advice("`resume` stages it again"));
                }
                Some(now) if now != file => touched.push(record.chunk),
                Some(_) => {}
            }
        }
    }
    touched.dedup();
    Ok(touched)
}

/// Every staged file of `journal` that is in the folder of `live`, by name.
///
/// # Errors
/// `Failed`, when they cannot be listed.
pub(crate) async fn staged_files(
    live: &Dataset,
    journal: &Journal,
) -> Result<HashMap<String, StagedFile>> {
    let (files, directory) = (data_files_of(live).await?, live.data_dir());
    let listed = files.list_whole(&directory, &journal.header().id).await?;
    look_again(&files, &directory, journal, joined(files.as_ref(), &directory, listed)).await
}

/// The files `there`, where those that differ from `journal` by their tags alone are as the store tells of each by itself.
async fn look_again(
    files: &Arc<dyn DataFiles>,
    directory: &Path,
    journal: &Journal,
    mut there: HashMap<String, StagedFile>,
) -> Result<HashMap<String, StagedFile>> {
    let recorded = journal.records().flat_map(|record| &record.files);
    let unclear = recorded
        .filter(|file| there.get(&file.name).is_some_and(|now| now.differs_by_tag_alone(file)));
    let looks = unclear.map(|file| {
        let (files, path) = (Arc::clone(files), directory.clone().join(file.name.as_str()));
        async move { Ok((&file.name, files.head(&path).await?)) }.boxed()
    });
    let looks: Vec<_> = looks.collect();
    let mut looks = stream::iter(looks).buffered(DELETION_FILES_AT_ONCE);
    while let Some((name, meta)) = looks.try_next().await? {
        if let Some(file) = there.get_mut(name) {
            let sidecars = file.sidecars.take();
            *file = StagedFile::of(files.as_ref(), name, meta, sidecars);
        }
    }
    Ok(there)
}

/// The data files among what was `listed` below `directory`, by name, each with the mark of its sidecars.
fn joined(
    files: &dyn DataFiles,
    directory: &Path,
    listed: Vec<ObjectMeta>,
) -> HashMap<String, StagedFile> {
    let mut sidecars: HashMap<String, Vec<ObjectMeta>> = HashMap::new();
    let mut found = Vec::new();
    for meta in listed {
        let name = meta.location.filename().unwrap_or_default().to_owned();
        // A copy of it elsewhere below is none.
        if meta.location == directory.clone().join(name.as_str()) {
            found.push((name, meta));
        } else if meta.location.extension() == Some("blob") {
            sidecars.entry(data_file_of(&meta.location)).or_default().push(meta);
        }
    }
    let found = found.into_iter().map(|(name, meta)| {
        let mark = sidecars.remove(&name).and_then(|told| files.mark(&told));
        let file = StagedFile::of(files, &name, meta, mark);
        (name, file)
    });
    found.collect()
}

/// Fails when a file is gone that `dataset` names in its own folder, or when a staged one is another than `journal` says: it may have
/// been written over since the last look. On a disk that is seen of sidecars alone: what a disk tells of a file changes with its
/// names and owners too.
///
/// # Errors
/// `Mismatch` then, naming the file; `Failed`, when it cannot be looked.
pub(super) async fn expect_there(journal: &Journal, dataset: &Dataset) -> Result<()> {
    let of_table = data_files_of(dataset).await?;
    let files = of_table.as_ref();
    let root = dataset.branch_location().path;
    let version = dataset.version_id();
    let gone = |what: &str, name: &str| {
        Error::mismatch(format!("version {version} names the {what} {name}, which is gone"))
    };
    let (data_dir, deletions_dir) = (dataset.data_dir(), deletion::directory(&root));
    let deletes = dataset.iter_fragments().any(|fragment| fragment.deletion_file.is_some());
    let listing =
        async { if deletes { listed(files, &deletions_dir).await } else { Ok(HashMap::new()) } };
    let (data, deletions) = futures::try_join!(listed(files, &data_dir), listing)?;
    for fragment in dataset.iter_fragments() {
        let mut own = fragment.files.iter().filter(|file| file.base_id.is_none());
        if let Some(file) = own.find(|file| !data.contains_key(&file.path)) {
            return Err(gone("data file", &file.path));
        }
        if let Some(file) = fragment.deletion_file.as_ref().filter(|file| file.base_id.is_none()) {
            let name = deletion::name(fragment.id, file);
            if !deletions.contains_key(&name) {
                return Err(gone("deletion file", &name));
            }
        }
    }
    let told = data.into_values().map(|meta| files.as_told(meta)).collect();
    let now = joined(files, &data_dir, told);
    let now = look_again(&of_table, &data_dir, journal, now).await?;
    let mut staged = journal.records().flat_map(|record| &record.files);
    let is_another = |file: &&StagedFile| {
        now.get(&file.name).is_some_and(|now| {
            if files.has_tags() { now != *file } else { now.sidecars != file.sidecars }
        })
    };
    if let Some(file) = staged.find(is_another) {
        let name = &file.name;
        let message =
            format!("version {version} names {name}, which was written over after it was verified");
        return Err(Error::mismatch(message));
    }
    expect_index_files(dataset, files).await
}

async fn expect_index_files(dataset: &Dataset, files: &dyn DataFiles) -> Result<()> {
    let indices = indices_of(dataset).await?;
    for index in indices.iter().filter(|index| index.base_id.is_none()) {
        let directory = dataset.indices_dir().join(index.uuid.to_string());
        let there = listed(files, &directory).await?;
        let mut wanted = index.files.iter().flatten();
        if let Some(file) = wanted.find(|file| !there.contains_key(&file.path)) {
            let (version, name, index) = (dataset.version_id(), &file.path, &index.name);
            return Err(Error::mismatch(format!(
                "version {version} names the file {name} of index `{index}`, which is gone"
            )));
        }
    }
    Ok(())
}

/// What is below `directory`, by its name relative to it.
async fn listed(files: &dyn DataFiles, directory: &Path) -> Result<HashMap<String, ObjectMeta>> {
    let listed = files.list_below(directory).await?;
    let relative = listed.into_iter().filter_map(|meta| {
        let parts: Vec<_> = meta.location.prefix_match(directory)?.collect();
        Some((parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/"), meta))
    });
    Ok(relative.collect())
}
