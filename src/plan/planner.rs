//! Plans a request: the target, the strategy, the chunks, the indices, and what they cost.

use std::sync::Arc;

use arrow::datatypes::Schema as ArrowSchema;
use chrono::{DateTime, Utc};

use crate::chunk::{CHUNK_BYTES_MAX, Chunk, ChunkLimits, cut, store_chunk_bytes};
use crate::error::{Error, Result};
use crate::plan::choice::{choose, version_of_new_files};
use crate::plan::cost::tried_bytes;
use crate::plan::{
    Plan, check, cost::Cost, facts::Facts, indices::fates, request::Request,
    requests::StoreEstimate, strategy::Strategy,
};
use crate::schema::{sql::Sql, target::Target};
use crate::settings::ROWS_PER_FILE;
use crate::storage_version::abilities;

/// A run of small fragments that get one file each is closed after so many rows: longer ones gain nothing.
const COLUMNS_CHUNK_ROWS: u64 = 1 << 17;
/// Fragments of a chunk of `columns` in an object store, at most: chunks are done side by side, and what takes time
/// there are the requests that each fragment needs.
const STORE_CHUNK_FRAGMENTS: usize = 8;

impl Plan {
    /// Plans `request` on a table of these `facts`.
    ///
    /// # Errors
    /// `Usage`, for a request that no table could take; `Refused`, for one that this table cannot.
    pub(crate) fn choose(facts: &Facts, request: &Request, now: DateTime<Utc>) -> Result<Self> {
        request.validate()?;
        let Facts { schema, field_id_max, .. } = facts;
        let (changes, if_exists) = (&request.changes, request.if_exists);
        let mut target = Target::derive(schema, *field_id_max, changes, if_exists, now)?;
        let filter = filter_of(facts, request)?;
        let storage_version = version_of_new_files(facts, request)?;
        let has_blob_v2 = abilities(facts.storage_version).has_blob_v2;
        if !has_blob_v2 && abilities(storage_version).has_blob_v2 {
            target.promote_blobs(facts.field_id_max)?;
        }
        let choice = choose(facts, request, &target)?;
        let strategy = choice.strategy;
        let indices = fates(facts, request, &target, strategy);
        let others = choice.possible.iter().filter(|other| **other != strategy);
        let others = others.map(|other| {
            let indices = fates(facts, request, &target, *other);
            (*other, Cost::of(facts, &target, *other, &indices))
        });
        let cost = Cost::of(facts, &target, strategy, &indices);
        let chunks = chunks(facts, request, strategy);
        let tried = tried_bytes(facts, &target, request.preflight);
        let mut plan = Self {
            table: facts.table.clone(),
            version: facts.version,
            strategy,
            before: facts.schema.clone(),
            storage_version,
            storage_version_before: facts.storage_version,
            store: None,
            cost,
            others: others.collect(),
            rows: facts.rows(),
            fragments: facts.fragments.len() as u64,
            written: match strategy {
                Strategy::Rewrite => (0..target.columns.len()).collect(),
                Strategy::Columns => target.derived().collect(),
                Strategy::Nothing | Strategy::Metadata => Vec::new(),
            },
            chunks,
            target,
            choice,
            filter,
            indices,
            findings: Vec::new(),
            skipped_values: Vec::new(),
            producer_trials: Vec::new(),
            join_trials: Vec::new(),
            request: request.clone(),
        };
        plan.store = facts.in_store.then(|| StoreEstimate::of(facts, &plan, tried));
        check::run(facts, request, &plan)?;
        Ok(plan)
    }
}

fn chunks(facts: &Facts, request: &Request, strategy: Strategy) -> Vec<Chunk> {
    let rows_max = match strategy {
        Strategy::Nothing | Strategy::Metadata => return Vec::new(),
        Strategy::Columns => COLUMNS_CHUNK_ROWS,
        Strategy::Rewrite => request.rows_per_file.unwrap_or(ROWS_PER_FILE),
    };
    let spread = facts.in_store && strategy == Strategy::Columns;
    let fragments = if spread { STORE_CHUNK_FRAGMENTS } else { usize::MAX };
    let bytes = if facts.in_store { store_chunk_bytes(facts.bytes()) } else { CHUNK_BYTES_MAX };
    let limits = ChunkLimits { rows: rows_max, bytes, fragments };
    cut(&facts.fragments, &facts.staged, limits)
}

/// The condition of `--where`, over the source's columns.
fn filter_of(facts: &Facts, request: &Request) -> Result<Option<Arc<Sql>>> {
    let Some(text) = &request.filter else { return Ok(None) };
    let filter = Sql::parse_filter(text, &ArrowSchema::from(&facts.schema));
    let filter = filter.map_err(|error| Error::usage(format!("--where: {error}")).caused_by(error));
    Ok(Some(Arc::new(filter?)))
}
