//! The last look before the swap, at everything that it will publish, as it lies in the store; and the first
//! look after it.
//!
//! What is published is joined to what was staged by the names of files, never by position.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::{Dataset, dataset::transaction::Operation};
use lance_core::datatypes::Schema;
use lance_table::format::{DataFile, Fragment, IndexMetadata, Manifest};
use lance_table::io::manifest::{read_manifest, read_manifest_indexes};

use crate::chunk::ChunkId;
use crate::error::{Doing as _, Error, Result};
use crate::guard::guarded;
use crate::journal::{Journal, own_file};
use crate::limits::DELETION_FILES_AT_ONCE;
use crate::plan::{Plan, Strategy};
use crate::schema::rules::same_field;
use crate::storage::deletion::Deleted;
use crate::table::open::{data_files_of, deletions_of, indices_of, store_of};
use crate::table::row_version;
use crate::verify::there::expect_there;

/// What a version is made of.
pub(crate) struct Published {
    fragments: Vec<Fragment>,
    schema: Schema,
}

/// What was planned and staged: what may be published, and nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intent<'a> {
    /// The live table before.
    pub live: &'a Dataset,
    pub plan: &'a Plan,
    pub journal: &'a Journal,
}

/// A staged file, and the record that it is in.
struct Meant<'a> {
    /// Whether a row of it lives: Lance leaves out a fragment of which none does.
    lives: bool,
    chunk: ChunkId,
    fragment: &'a Fragment,
    deleted: Option<&'a Deleted>,
    source: Option<u64>,
}

/// Compares the version that was swapped in with what was staged, and looks for every file that it names.
///
/// # Errors
/// `Mismatch`, naming what differs or is gone.
pub(crate) async fn inspect_swapped(intent: Intent<'_>, swapped: &Dataset) -> Result<()> {
    let fragments = swapped.fragments().as_ref().clone();
    let published = Published { fragments, schema: swapped.schema().clone() };
    compare(intent, &published)?;
    let deletions = expect_deletions(swapped, intent.journal, &published);
    let there = expect_there(intent.journal, swapped);
    futures::try_join!(deletions, there).map(|((), ())| ())
}

/// Compares what is published with what was planned and staged.
///
/// # Errors
/// `Mismatch`, naming the file or the fragment, on any difference: it may not be published.
pub(crate) fn compare(intent: Intent<'_>, published: &Published) -> Result<()> {
    let Intent { live, plan, journal } = intent;
    expect_schema(plan, &published.schema)?;
    if row_version::restamped(&published.fragments, live.version_id() + 1)?.is_some() {
        return Err(differs("rows bear the number of a version that the table never had"));
    }
    match plan.strategy {
        Strategy::Nothing => {}
        Strategy::Metadata => {
            let (then, now) = (live.fragments(), &published.fragments);
            let (mut pairs, wanted) = (then.iter().zip(now), wanted_fields(plan));
            if then.len() != now.len() || !pairs.all(|(then, now)| same_rows(then, now, &wanted)) {
                return Err(differs("its fragments are not those of the table"));
            }
        }
        Strategy::Columns => {
            let wanted = wanted_fields(plan);
            expect_beside(live, journal, &published.fragments, &wanted)?;
        }
        Strategy::Rewrite => expect_staged(journal, &published.fragments)?,
    }
    expect_rows(plan, journal, &published.fragments)
}

/// Whether a fragment that is published holds the rows of `then`, in its files. One whose columns all went is
/// named no more by Lance, and columns that went are marked in the others.
fn same_rows(then: &Fragment, now: &Fragment, wanted: &HashSet<i32>) -> bool {
    let held = |one: &Fragment| (one.id, one.physical_rows, one.deletion_file.clone());
    held(then) == held(now) && keeps_files(then, &now.files.iter().collect::<Vec<_>>(), wanted)
}

/// Whether `files` are some of those of `then`, and all that hold a field that is `wanted`.
fn keeps_files(then: &Fragment, files: &[&DataFile], wanted: &HashSet<i32>) -> bool {
    let place = |file: &DataFile| (file.path.clone(), file.base_id, file.file_size_bytes.get());
    let there: HashSet<_> = then.files.iter().map(place).collect();
    let kept: HashSet<_> = files.iter().map(|file| place(file)).collect();
    let needed = then.files.iter().filter(|file| file.fields.iter().any(|id| wanted.contains(id)));
    kept.is_subset(&there) && needed.map(place).all(|file| kept.contains(&file))
}

/// The ids of the fields that `plan` keeps of the table's own.
fn wanted_fields(plan: &Plan) -> HashSet<i32> {
    let pairs = plan.target.schema.fields.iter().zip(&plan.target.columns);
    let kept = pairs.filter(|(_, column)| column.is_kept()).map(|(field, _)| field.clone());
    let kept = Schema { fields: kept.collect(), ..Schema::default() };
    kept.fields_pre_order().map(|field| field.id).collect()
}

fn differs(what: &str) -> Error {
    Error::mismatch(format!("what the swap publishes is not what was staged: {what}"))
}

fn expect_schema(plan: &Plan, found: &Schema) -> Result<()> {
    let wanted = &plan.target.schema;
    let same = wanted.fields.len() == found.fields.len() && wanted.metadata == found.metadata;
    let mut pairs = wanted.fields.iter().zip(&found.fields);
    if same && pairs.all(|(one, other)| same_field(one, other) && one.metadata == other.metadata) {
        return Ok(());
    }
    Err(differs("its schema is another one"))
}

fn expect_rows(plan: &Plan, journal: &Journal, fragments: &[Fragment]) -> Result<()> {
    let left_out: u64 = journal.records().map(|record| record.left_out).sum();
    let wanted = plan.rows.saturating_sub(left_out);
    // Where a manifest does not tell how many rows are deleted, files are as they were.
    let found = fragments.iter().map(|one| one.num_rows().map(|rows| rows as u64));
    match found.sum::<Option<u64>>() {
        Some(found) if found != wanted => {
            Err(differs(&format!("it has {found} rows, the source {wanted}")))
        }
        _ => Ok(()),
    }
}

/// The staged files, by name.
fn meant(journal: &Journal) -> Result<HashMap<&str, Meant<'_>>> {
    let id = &journal.header().id;
    let mut all = HashMap::new();
    for record in journal.records() {
        for fragment in journal.fragments(record.chunk) {
            let name = own_file(fragment, id);
            let name =
                name.ok_or_else(|| differs(&format!("chunk {} has no file", record.chunk)))?;
            let deleted = record.deletions.get(name);
            let meant = Meant {
                lives: !is_all_deleted(fragment, deleted),
                chunk: record.chunk,
                fragment,
                deleted,
                source: record.beside.get(name).copied(),
            };
            if all.insert(name, meant).is_some() {
                return Err(differs(&format!("{name} is staged twice")));
            }
        }
    }
    Ok(all)
}

/// Whether `file` is the one that was `staged`, named as in its own table.
fn is_staged(file: &DataFile, staged: &DataFile) -> bool {
    *file == DataFile { base_id: None, ..staged.clone() }
}

fn is_all_deleted(fragment: &Fragment, deleted: Option<&Deleted>) -> bool {
    let count = deleted.and_then(|deleted| deleted.file.num_deleted_rows);
    count.is_some() && count == fragment.physical_rows
}

/// Every staged file of which a row lives is published once, in row order, with the rows deleted that are.
fn expect_staged(journal: &Journal, fragments: &[Fragment]) -> Result<()> {
    let id = &journal.header().id;
    let mut left = meant(journal)?;
    let mut last = None;
    let mut numbers = HashSet::new();
    for fragment in fragments {
        let name = own_file(fragment, id).unwrap_or_default();
        let number = fragment.id;
        let meant = left.remove(name);
        let meant = meant
            .ok_or_else(|| differs(&format!("fragment {number} has a file that was not staged")))?;
        let ([file], [staged]) = (fragment.files.as_slice(), meant.fragment.files.as_slice())
        else {
            return Err(differs(&format!("fragment {number} has not one file")));
        };
        let same =
            is_staged(file, staged) && fragment.physical_rows == meant.fragment.physical_rows;
        let deletes = fragment.deletion_file.is_some() == meant.deleted.is_some();
        // A plain overwrite gets its numbers from Lance, when it lands.
        let numbered = numbers.insert(number) || number == 0;
        if !same || !deletes || !numbered || last > Some(meant.chunk) {
            let chunk = meant.chunk;
            return Err(differs(&format!(
                "fragment {number} is not the file {name} of chunk {chunk}"
            )));
        }
        last = Some(meant.chunk);
    }
    left.retain(|_, meant| meant.lives);
    expect_none_left(&left)?;
    expect_order(journal, fragments)
}

/// The rows of the table are in the order of the chunks, and of the files in them.
fn expect_order(journal: &Journal, fragments: &[Fragment]) -> Result<()> {
    let id = &journal.header().id;
    let there: Vec<&str> = fragments.iter().filter_map(|one| own_file(one, id)).collect();
    let published: HashSet<&str> = there.iter().copied().collect();
    let files = journal.records().flat_map(|record| &record.files);
    let wanted = files.map(|file| file.name.as_str()).filter(|name| published.contains(name));
    if wanted.eq(there) {
        return Ok(());
    }
    Err(differs("its files are in another order"))
}

fn expect_none_left(left: &HashMap<&str, Meant<'_>>) -> Result<()> {
    let Some((name, meant)) = left.iter().next() else { return Ok(()) };
    Err(differs(&format!("the file {name} of chunk {} is missing", meant.chunk)))
}

/// Every fragment of `live` is published, with the file that was staged beside its own, and with the same rows
/// deleted.
fn expect_beside(
    live: &Dataset,
    journal: &Journal,
    fragments: &[Fragment],
    wanted: &HashSet<i32>,
) -> Result<()> {
    let id = &journal.header().id;
    let mut left = meant(journal)?;
    if live.iter_fragments().map(|one| one.id).ne(fragments.iter().map(|one| one.id)) {
        return Err(differs("its fragments are not those of the table"));
    }
    for (now, fragment) in live.iter_fragments().zip(fragments) {
        let number = now.id;
        let name = own_file(fragment, id).unwrap_or_default();
        let meant = left.remove(name);
        let beside = meant.as_ref().and_then(|meant| meant.source);
        if beside != Some(number) {
            let message = format!("fragment {number} has a file that was staged for another one");
            return Err(differs(&message));
        }
        let staged = meant.and_then(|meant| meant.fragment.files.last());
        let own = fragment.files.last().filter(|file| file.path == name);
        let same_own = own.zip(staged).is_some_and(|(own, staged)| is_staged(own, staged));
        let others: Vec<&DataFile> =
            fragment.files.iter().filter(|file| file.path != name).collect();
        if !same_own
            || !keeps_files(now, &others, wanted)
            || now.deletion_file != fragment.deletion_file
            || now.physical_rows != fragment.physical_rows
        {
            return Err(differs(&format!(
                "fragment {number} is not what the table has and {name}"
            )));
        }
    }
    expect_none_left(&left)
}

/// Reads each deletion file back that relance wrote for the swap, in the folder of `live`.
///
/// # Errors
/// `Mismatch`, naming the file, when it does not hold the rows that were written.
pub(crate) async fn expect_deletions(
    live: &Dataset,
    journal: &Journal,
    published: &Published,
) -> Result<()> {
    let deletions = &deletions_of(live).await?;
    let id = &journal.header().id;
    let meant = meant(journal)?;
    let reads = published.fragments.iter().filter_map(|fragment| {
        let deleted = meant.get(own_file(fragment, id)?)?.deleted?;
        let file = fragment.deletion_file.clone()?;
        let wanted = Deleted { file, hash: deleted.hash };
        let read = async move { deletions.read_back(fragment.id, &wanted).await.map(drop) };
        Some(read.boxed())
    });
    let reads: Vec<_> = reads.collect();
    stream::iter(reads).buffer_unordered(DELETION_FILES_AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Makes the commit of `version` durable, where the store is a disk: its manifest, its transaction, and the
/// folders that hold them. Lance leaves that to the system.
///
/// # Errors
/// `Failed`, when the disk reports an error.
pub(crate) async fn sync_commit(version: &Dataset) -> Result<()> {
    let transaction = version.manifest().transaction_file.as_ref();
    let transaction = transaction.map(|name| version.transactions_dir().join(name.as_str()));
    let manifest = version.manifest_location().path.clone();
    let written = transaction.into_iter().chain([manifest]).collect();
    data_files_of(version).await?.sync(written, false).await
}

/// Reads the manifest of `version`, a prepared one, as it lies in the store. Beside the indices of `live`, it has
/// the `new_indices`.
///
/// # Errors
/// `Mismatch`, when it cannot be read, or is not what was written.
pub(crate) async fn read_prepared(
    version: &Arc<Dataset>,
    new_indices: &[IndexMetadata],
    live: &Dataset,
) -> Result<Published> {
    let store = store_of(version).await?;
    let location = version.manifest_location();
    let doing = format!("read the prepared version {} back", location.path);
    let read = guarded(&doing, async {
        let manifest = read_manifest(&store, &location.path, None).await.doing(|| doing.clone())?;
        let indices = read_manifest_indexes(&store, location, &manifest).await;
        Ok((manifest, indices.doing(|| doing.clone())?))
    });
    let (manifest, indices) = read
        .await
        .map_err(|error| differs("the prepared version cannot be read").caused_by(error))?;
    if !is_same(&manifest, version.manifest()) {
        return Err(differs("the prepared version is not the one that was written"));
    }
    expect_new_indices(live, &indices, new_indices).await?;
    Ok(Published { fragments: manifest.fragments.as_ref().clone(), schema: manifest.schema })
}

/// The indices `found` are those of `live`, or some of them, and the `new` ones, over the same fragments. What
/// was meant comes from memory: Lance reads the index list of a version from the file that is looked at here.
async fn expect_new_indices(
    live: &Dataset,
    found: &[IndexMetadata],
    new: &[IndexMetadata],
) -> Result<()> {
    let known = indices_of(live).await?;
    let same = |one: &IndexMetadata, other: &IndexMetadata| {
        one.uuid == other.uuid
            && one.name == other.name
            && one.fields == other.fields
            && one.fragment_bitmap == other.fragment_bitmap
    };
    let there = new.iter().all(|new| found.iter().any(|found| same(found, new)));
    let strange = found.iter().any(|found| {
        let uuid = |other: &IndexMetadata| other.uuid == found.uuid;
        !new.iter().any(uuid) && !known.iter().any(uuid)
    });
    if there && !strange {
        return Ok(());
    }
    Err(differs("its indices are not those that were built for it"))
}

fn is_same(found: &Manifest, meant: &Manifest) -> bool {
    found.fragments == meant.fragments
        && found.schema == meant.schema
        && found.schema.metadata == meant.schema.metadata
        && found.version == meant.version
        && found.config == meant.config
        && found.table_metadata == meant.table_metadata
        && found.base_paths == meant.base_paths
        && found.data_storage_format == meant.data_storage_format
        && found.max_fragment_id == meant.max_fragment_id
        && found.next_row_id == meant.next_row_id
        && found.writer_feature_flags == meant.writer_feature_flags
        && found.reader_feature_flags == meant.reader_feature_flags
}

/// What `operation` publishes on `live`, where it names that itself.
///
/// # Errors
/// `Failed`, for an operation that relance does not swap with.
#[allow(clippy::wildcard_enum_match_arm, reason = "the operations that a swap is")]
pub(crate) fn of_operation(live: &Dataset, operation: &Operation) -> Result<Published> {
    match operation {
        Operation::Overwrite { fragments, schema, .. }
        | Operation::Merge { fragments, schema, .. } => {
            Ok(Published { fragments: fragments.clone(), schema: schema.clone() })
        }
        Operation::Project { schema, .. } => {
            Ok(Published { fragments: live.fragments().as_ref().clone(), schema: schema.clone() })
        }
        other => {
            let name = other.name();
            Err(Error::failed(format!("a swap is no {name}; this is a bug in relance")))
        }
    }
}
