//! The staging table as the journal: what is committed to it is done, and nothing else is.
//!
//! It is a Lance table beside the live one. Its fragments are the staged ones, whose files lie in the live table's
//! `data/` (its last base path), and whose deletion files lie in its own directory; its table config holds the header,
//! the lease and one record a chunk. Every checkpoint is one strict commit, so a run that lost its lease finds out.

mod beat;
mod checkpoint;
mod config;
mod open;
mod record;
mod show;
mod tidy;
mod wreck;

use crate::chunk::{Chunk, ChunkId, Signature, signatures};
pub(crate) use crate::journal::record::{
    ChunkRecord, Header, LEASE_TIME, LastSeen, Lease, Life, StagedFile, Undo,
};
pub(crate) use crate::journal::wreck::{Opened, Wreck, clear_unversioned};
pub(crate) use crate::journal::{open::locked, show::deleted_rows};
use crate::plan::catchup::{Follows, Need, Standing, need};
use crate::{clock::StoreTime, journal::beat::Beats, plan::Strategy, storage::names::is_data_file};
use chrono::{DateTime, Utc};
use lance::Dataset;
use lance_core::datatypes::Schema;
use lance_table::format::Fragment;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The layout of what is written here. Another layout is not resumed.
pub(crate) const LAYOUT: u32 = 5;

/// The journal of one migration, at the version that this run last wrote or read.
#[derive(Debug)]
pub(crate) struct Journal {
    staging: Arc<Dataset>,
    header: Header,
    lease: Lease,
    /// The target schema, if it is known. Lance numbers the fields of a new table itself: in storage they
    /// have the target's ids from the first checkpoint on.
    schema: Option<Schema>,
    records: BTreeMap<ChunkId, ChunkRecord>,
    /// As they are in the staging table.
    fragments: BTreeMap<ChunkId, Vec<Fragment>>,
    /// The lease of the last checkpoint that was tried.
    attempted: Option<Lease>,
    /// Files that were put since the last checkpoint: nobody else knows of them.
    fresh: Vec<String>,
    /// Files that nothing names any more once the next checkpoint is written.
    doomed: Vec<String>,
    time: Arc<StoreTime>,
    /// What shows that this run is alive.
    beats: Option<Beats>,
}

impl Journal {
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The target schema, if it is known: a run that died before its first checkpoint did not tell.
    pub(crate) fn schema(&self) -> Option<&Schema> {
        self.schema.as_ref()
    }

    /// Tells the target schema, if it is not known. Durable with the next checkpoint.
    pub(crate) fn expect_schema(&mut self, schema: &Schema) {
        self.schema.get_or_insert_with(|| schema.clone());
    }

    fn follows(&self) -> Follows {
        if self.header.strategy == Strategy::Columns {
            Follows::Aligned
        } else if self.header.request.filter.is_some() {
            Follows::Unmapped
        } else {
            Follows::Mapped
        }
    }

    /// The chunks that are done, in row order.
    pub(crate) fn records(&self) -> impl Iterator<Item = &ChunkRecord> {
        self.records.values()
    }

    /// The record of `chunk`, if it is done.
    pub(crate) fn record(&self, chunk: ChunkId) -> Option<&ChunkRecord> {
        self.records.get(&chunk)
    }

    /// The staged fragments of `chunk`, as they are in the staging table.
    pub(crate) fn fragments(&self, chunk: ChunkId) -> &[Fragment] {
        self.fragments.get(&chunk).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn staging(&self) -> &Arc<Dataset> {
        &self.staging
    }

    /// All staged fragments, in row order, as they are in the staging table.
    pub(crate) fn all_fragments(&self) -> Vec<Fragment> {
        self.fragments.values().flatten().cloned().collect()
    }

    pub(crate) fn need(&self, chunk: &Chunk, now: DateTime<Utc>) -> Need {
        let standing = self.records.get(&chunk.id).map(|record| Standing {
            origins: &record.origins,
            rows: record.rows,
            verified: record.verified.is_some(),
            verifiable: record.is_verifiable(),
            modified: record.files.iter().map(|file| file.modified).min(),
        });
        need(chunk, standing, self.follows(), now)
    }

    /// The runs of source fragments that are staged.
    pub(crate) fn runs(&self) -> Vec<Vec<Signature>> {
        self.records.values().map(|record| signatures(&record.origins)).collect()
    }

    /// Takes in what was staged for a chunk, in place of what there was. Durable with the next checkpoint.
    pub(crate) fn put(&mut self, record: ChunkRecord, mut fragments: Vec<Fragment>) {
        // That of the live table is the last one.
        let base = self.staging.manifest().base_paths.keys().max().copied();
        for file in fragments.iter_mut().flat_map(|fragment| &mut fragment.files) {
            file.base_id = file.base_id.or(base);
        }
        let chunk = record.chunk;
        let names = |record: ChunkRecord| record.files.into_iter().map(|file| file.name);
        let new: HashSet<_> = names(record.clone()).collect();
        let old = self.records.insert(chunk, record);
        let old: HashSet<_> = old.into_iter().flat_map(names).collect();
        self.fresh.extend(new.difference(&old).cloned());
        self.doomed.extend(old.difference(&new).cloned());
        self.fragments.insert(chunk, fragments);
    }

    /// The files that were put since the last checkpoint.
    pub(crate) fn take_fresh(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// Has `files` removed after the next checkpoint: nothing names them.
    pub(crate) fn doom(&mut self, files: impl IntoIterator<Item = String>) {
        self.doomed.extend(files);
    }

    /// The files that nothing names since the last checkpoint.
    pub(crate) fn take_doomed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.doomed)
    }

    /// Forgets `chunk`: its files are not what they were. Durable with the next checkpoint.
    pub(crate) fn forget(&mut self, chunk: ChunkId) {
        if let Some(record) = self.records.remove(&chunk) {
            self.doomed.extend(record.files.into_iter().map(|file| file.name));
        }
        self.fragments.remove(&chunk);
    }

    /// Forgets every chunk. Durable with the next checkpoint.
    pub(crate) fn forget_all(&mut self) {
        self.records.clear();
        self.fragments.clear();
    }

    /// Has the files of `chunk` verified again. Durable with the next checkpoint.
    pub(crate) fn distrust(&mut self, chunk: ChunkId) {
        if let Some(record) = self.records.get_mut(&chunk) {
            record.verified = None;
        }
    }

    /// Moves the journal to another version of the source, cut into `chunks`: what was staged for the same source
    /// fragments is kept, under its new place; the rest is forgotten. Durable with the next checkpoint.
    pub(crate) fn move_to(&mut self, source_version: u64, chunks: &[Chunk]) {
        let old = std::mem::take(&mut self.records);
        let mut old_fragments = std::mem::take(&mut self.fragments);
        let by_run = old.into_values().map(|record| (signatures(&record.origins), record));
        let mut by_run: HashMap<Vec<Signature>, ChunkRecord> = by_run.collect();
        for chunk in chunks {
            let Some(record) = by_run.remove(&chunk.signatures()) else { continue };
            let fragments = old_fragments.remove(&record.chunk).unwrap_or_default();
            self.fragments.insert(chunk.id, fragments);
            self.records.insert(chunk.id, ChunkRecord { chunk: chunk.id, ..record });
        }
        let gone = by_run.into_values().flat_map(|record| record.files);
        self.doomed.extend(gone.map(|file| file.name));
        self.header.source_version = source_version;
        self.header.chunks = chunks.len() as u64;
        self.header.rows = chunks.iter().map(Chunk::rows).sum();
    }
}

/// The name of the file of `staged` that the migration `id` wrote.
pub(crate) fn own_file<'a>(staged: &'a Fragment, id: &str) -> Option<&'a str> {
    let mut names = staged.files.iter().map(|file| file.path.as_str());
    names.find(|name| is_data_file(name, id))
}
