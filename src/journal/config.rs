//! What the journal writes into the config of its table, and whether it reads as it was written.

use crate::error::{Doing, Error, Result};
use crate::journal::record::{ChunkRecord, Header, Lease};
use crate::{chunk::ChunkId, storage::names::is_data_file};
use lance::Dataset;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};

pub(super) const KEY_HEADER: &str = "relance.header";
pub(super) const KEY_LEASE: &str = "relance.lease";
pub(super) const KEY_CHUNK: &str = "relance.chunk.";
/// Says that the staging table has the target schema.
pub(super) const KEY_SCHEMA: &str = "relance.schema";

/// Fails when `text` does not read as `header`: nobody could go on with such a journal, or drop it.
pub(super) fn expect_readable(text: &str, header: &Header) -> Result<()> {
    let wrong = |how: &str| Error::failed(format!("the request {how}; this is a bug in relance"));
    match serde_json::from_str::<Header>(text) {
        Ok(read) if read == *header => Ok(()),
        Ok(_) => Err(wrong("does not read back as it is")),
        Err(error) => Err(wrong("cannot be read back").caused_by(error)),
    }
}

/// Whether `id` is one that relance gives a migration: what it names is found by it, and an empty one would
/// match everything.
pub(crate) fn is_id(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Fails unless every name and number is one that relance writes: files are removed by what stands here.
pub(super) fn validate(header: &Header, records: &BTreeMap<ChunkId, ChunkRecord>) -> Result<()> {
    let damaged = |what: &str| Error::refused(format!("the journal is damaged: {what}"));
    let undone = header.undo.as_ref().map(|undo| undo.id.as_str());
    if !is_id(&header.id) || undone.is_some_and(|id| !is_id(id)) {
        return Err(damaged("its migration's id is none"));
    }
    let own = |name: &str| is_data_file(name, &header.id) && !name.contains(['/', '\\']);
    for record in records.values() {
        let known = |name: &String| record.files.iter().any(|file| file.name == *name);
        let names = record.files.iter().all(|file| own(&file.name));
        let deleted = record.deletions.keys().all(known) && record.deleted <= record.rows;
        if !names || !deleted || !record.beside.keys().all(known) {
            let chunk = record.chunk;
            return Err(damaged(&format!("chunk {chunk} names files that are not its own")));
        }
    }
    Ok(())
}

/// Whether `staging` is the journal of the migration `id`.
pub(super) fn is_of(staging: &Dataset, id: &str) -> bool {
    let there: Result<Header> = from_config(&staging.manifest().config, KEY_HEADER);
    there.is_ok_and(|there| there.id == id)
}

/// The newest version of `staging`, and who runs the migration there; `None`, when that is not the journal of the
/// migration `id` any more: another run may have dropped it, and another migration may stand in its place, at the
/// same version.
pub(super) async fn newest_of(staging: &Dataset, id: &str) -> Result<Option<(Dataset, Lease)>> {
    let mut newest = staging.clone();
    match newest.checkout_latest().await {
        Ok(()) if is_of(&newest, id) => {}
        Ok(()) => return Ok(None),
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error).doing(|| "read the journal".to_owned()),
    }
    let lease = from_config(&newest.manifest().config, KEY_LEASE).ok();
    Ok(lease.map(|lease| (newest, lease)))
}

pub(super) fn chunk_key(chunk: ChunkId) -> String {
    format!("{KEY_CHUNK}{:08}", chunk.0)
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).doing(|| "write the journal as JSON".to_owned())
}

pub(super) fn from_config<T: DeserializeOwned>(
    config: &HashMap<String, String>,
    key: &str,
) -> Result<T> {
    let text = config.get(key).ok_or_else(|| {
        let what = format!("the staging table is not a journal of relance's: it has no `{key}`");
        Error::refused(what).with_advice("if nobody needs it, drop that table with LanceDB")
    })?;
    serde_json::from_str(text).doing(|| format!("read `{key}` of the journal"))
}
