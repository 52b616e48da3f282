//! Looking: status of a database's migrations, and the live table against its rollback point.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use lance::Dataset;
use lance_core::datatypes::Schema;

use crate::chunk::{Chunk, ChunkId};
use crate::error::{Context, Error, Result};
use crate::history;
use crate::journal::{ChunkRecord, Journal, Lease, Life, Opened, Seen, Wreck};
use crate::phase::Phase;
use crate::plan::{Plan, Request};
use crate::process::ProcessId;
use crate::progress::{Amount, Event};
use crate::run::Migration;
use crate::run::report::{PinStatus, PointStatus, StagedStatus, TableStatus, Verified};
use crate::run::swap::PROPERTY_REQUEST;
use crate::source::{ScanLimits, Source};
use crate::table;
use crate::transform::digest::Digest;
use crate::transform::pool::{Digests, Pool};
use crate::transform::{Transform, batch_bytes};
use crate::{Change, database};

/// Rows of a batch when whole tables are compared.
const BATCH_ROWS: u32 = 8192;
const IO_BUFFER_BYTES: u64 = 32 << 20;

impl Migration {
    /// What is staged of the table, and where it can be rolled back to. Writes nothing.
    ///
    /// # Errors
    /// `Failed`, when the table is not there or cannot be read.
    pub async fn status(&self) -> Result<TableStatus> {
        database::expect_table(&self.location).await?;
        let opener = self.opener();
        let live = opener.live().await?;
        let staged = match Opened::look(&opener).await? {
            Opened::Journal(journal) => Some(self.staged_status(&live, &journal).await?),
            Opened::Wreck(wreck) => Some(self.wreck_status(&wreck)),
            Opened::Nothing => None,
        };
        let points = history::rollback_points(&live).await?;
        let staged_id = staged.as_ref().map(|staged| staged.id.as_str());
        let pins = history::strays(&live, &points, staged_id).await?;
        let mut rollback_points = Vec::new();
        for point in points {
            let Some(swapped) = point.swapped else {
                continue;
            };
            let since = history::count_since(&live, &point.id, swapped).await?;
            let nulls = self.nulls_since(&live, swapped).await;
            rollback_points.push(PointStatus::of(&point, swapped, since, nulls));
        }
        let pins = pins.into_iter().map(|pin| PinStatus { id: pin.id, version: pin.version });
        Ok(TableStatus {
            table: self.location.table().to_owned(),
            version: live.version_id(),
            staged,
            rollback_points,
            pins: pins.collect(),
        })
    }

    /// What can be told of a staging table that is no journal.
    fn wreck_status(&self, wreck: &Wreck) -> StagedStatus {
        let (lease, now) = (wreck.lease.as_ref(), self.clock.now());
        let running = wreck.is_running(now, &ProcessId::current());
        let abort = self.command("abort");
        let why = format!("{}; {abort} drops it", wreck.why);
        StagedStatus {
            id: wreck.id.clone().unwrap_or_else(|| "unknown".to_owned()),
            state: if running { "running" } else { "unreadable" },
            phase: lease.map_or(Phase::Plan, |lease| lease.phase),
            began: lease.map_or(now, |lease| lease.beat),
            seen: lease.map_or(now, |lease| lease.beat),
            host: lease.map_or_else(|| "unknown".to_owned(), |lease| lease.process.host.clone()),
            swap: None,
            problem: Some(why),
            source_version: 0,
            changes: Vec::new(),
            chunks_done: 0,
            chunks: 0,
            rows_done: 0,
            rows: 0,
        }
    }

    async fn staged_status(&self, live: &Dataset, journal: &Journal) -> Result<StagedStatus> {
        let (header, lease) = (journal.header(), journal.lease());
        let point = history::rollback_point(live, &header.id).await?;
        let swapped = point.and_then(|point| point.swapped);
        let seen = journal.last_seen().await.unwrap_or(lease.beat);
        let told = self.life_told(lease, seen);
        let running = told == Life::Alive;
        let state = match swapped {
            _ if told == Life::Unknown => "running or died",
            _ if running && lease.phase == Phase::Hold => "held",
            _ if running => "running",
            Some(_) => "swapped",
            None if lease.phase == Phase::Hold => "held",
            None => "interrupted",
        };
        let tried = told == Life::Dead && lease.phase == Phase::Swap && !lease.released;
        let swap = match swapped {
            Some(version) => Some(format!("landed as version {version}; `resume` tidies up")),
            None if tried => Some("did not land; `resume` tries again".to_owned()),
            None => None,
        };
        Ok(StagedStatus {
            id: header.id.clone(),
            state,
            phase: lease.phase,
            began: header.began,
            seen,
            host: lease.process.host.clone(),
            swap,
            problem: None,
            source_version: header.source_version,
            changes: header.request.changes.iter().map(Change::text).collect(),
            chunks_done: journal.records().count() as u64,
            chunks: header.chunks,
            rows_done: journal.records().map(ChunkRecord::rows_left).sum(),
            rows: header.rows,
        })
    }

    /// What can be told at once of the run that has `lease` and was last `seen`. The own clock will do:
    /// nothing is decided by it, and nothing may be written.
    fn life_told(&self, lease: &Lease, seen: DateTime<Utc>) -> Life {
        match lease.life(&ProcessId::current()) {
            told @ (Life::Alive | Life::Dead) => told,
            Life::Unknown => match Seen::of(self.clock.now() - seen) {
                Seen::Lately => Life::Alive,
                Seen::LongAgo => Life::Dead,
                Seen::InTheFuture => Life::Unknown,
            },
        }
    }

    /// Compares every value of the swapped version with its rollback point, transformed again.
    ///
    /// # Errors
    /// `Failed`, when there is no rollback point; `Refused`, when a cleanup has taken the swapped version;
    /// `Mismatch`, naming the column, on any difference.
    pub async fn verify(&self) -> Result<Verified> {
        database::expect_table(&self.location).await?;
        let opener = self.opener();
        let live = opener.live().await?;
        let (point, swapped) = self.last_point(&live).await?;
        let request = requested(&live, swapped).await?;
        let request = request.ok_or_else(|| {
            cleaned(swapped).with_advice("there is nothing left to compare its rollback point with")
        })?;
        let before = table::at_version(&live, point.version).await?;
        let after = table::at_version(&live, swapped).await?;
        let facts = table::facts(&self.location, &before, Vec::new()).await?;
        let facts = crate::plan::Facts { free_bytes: None, ..facts };
        let request = Request { drop_indices: Vec::new(), ..request };
        let plan = Plan::choose(&facts, &request, self.clock.now())?;
        let rows = plan.rows;
        let total = Amount { rows: rows * 2, ..Amount::default() };
        self.progress.event(Event::Began { phase: Phase::Verify, total, done: Amount::default() });
        let pool = Pool::of(self.settings.workers)?;
        let all: Vec<usize> = (0..plan.target.columns.len()).collect();
        let transform = Arc::new(Transform::of(&plan.target, &all, plan.filter.clone()));
        let expected = self.digests(before, Some(Arc::clone(&transform)), &pool);
        let found = self.digests(after, None, &pool);
        let ((expected, expected_rows), (found, found_rows)) = futures::try_join!(expected, found)?;
        if expected_rows != found_rows {
            return Err(Error::mismatch(format!(
                "version {swapped} has {found_rows} rows, its rollback point {expected_rows}"
            )));
        }
        let mut columns = Vec::new();
        for (field, (wanted, found)) in
            transform.schema().fields().iter().zip(expected.iter().zip(&found))
        {
            if wanted != found {
                let name = field.name();
                return Err(Error::mismatch(format!(
                    "column `{name}` of version {swapped} differs from its rollback point"
                )));
            }
            columns.push((field.name().clone(), *found));
        }
        let since = history::count_since(&live, &point.id, swapped).await?;
        Ok(Verified {
            table: self.location.table().to_owned(),
            id: point.id,
            before: point.version,
            swapped,
            rows,
            columns,
            commits_since: since.others,
            commits_at_least: since.at_least,
        })
    }

    /// The digests of all rows of `dataset`, in order.
    async fn digests(
        &self,
        dataset: Arc<Dataset>,
        transform: Option<Arc<Transform>>,
        pool: &Pool,
    ) -> Result<(Vec<Digest>, u64)> {
        let limits = ScanLimits { batch_rows: BATCH_ROWS, io_buffer_bytes: IO_BUFFER_BYTES };
        let schema = match &transform {
            Some(transform) => Arc::clone(transform.schema()),
            None => Arc::new(arrow::datatypes::Schema::from(dataset.schema())),
        };
        let mut digests = Digests::of(&schema)?;
        let source = Source::of(Arc::clone(&dataset));
        let mut batches = if is_shown_otherwise(dataset.schema()) {
            // JSON as text, blobs as places.
            let fragments = table::source_fragments(&dataset).await?;
            let all = Chunk { id: ChunkId(0), fragments };
            source.scan(&all, &source.all(), limits).await?
        } else {
            source.scan_all(limits).await?
        };
        while let Some(batch) = batches.try_next().await? {
            let batch = match &transform {
                Some(transform) => transform.apply(&batch)?,
                None => batch,
            };
            let (rows, bytes) = (batch.num_rows() as u64, batch_bytes(&batch));
            digests = pool.digest(digests, batch).await?;
            self.progress.event(Event::Advanced(Amount { rows, bytes, chunks: 0 }));
        }
        let rows = digests.rows();
        Ok((digests.finish(), rows))
    }
}

/// Whether Lance's scanner gives some column in another form than it is stored in.
fn is_shown_otherwise(schema: &Schema) -> bool {
    let mut fields = schema.fields_pre_order();
    fields.any(|field| field.is_blob() || field.extension_name() == Some("lance.json"))
}

/// The error of those who need the version that was swapped in, when a cleanup has taken it.
pub(super) fn cleaned(swapped: u64) -> Error {
    Error::refused(format!(
        "version {swapped}, which the migration was swapped in as, was cleaned away, and with it what was \
         asked of the migration"
    ))
}

/// What was asked, from the swap's own transaction; `None`, when a cleanup has taken that version.
pub(super) async fn requested(live: &Dataset, swapped: u64) -> Result<Option<Request>> {
    let transaction = match live.read_transaction_by_version(swapped).await {
        Err(error) if history::is_gone(&error) => return Ok(None),
        read => read.doing(|| format!("read the transaction of version {swapped}"))?,
    };
    let properties = transaction.and_then(|transaction| transaction.transaction_properties);
    let text = properties.as_ref().and_then(|properties| properties.get(PROPERTY_REQUEST));
    let text = text.ok_or_else(|| {
        Error::failed(format!("version {swapped} does not tell what was asked of the migration"))
    })?;
    let request = serde_json::from_str(text);
    Ok(Some(request.doing(|| format!("read the request of version {swapped}"))?))
}
