//! `status`: what is known of a table's migrations.

use chrono::{DateTime, Utc};
use lance::Dataset;

use crate::error::Result;
use crate::journal::{ChunkRecord, Journal, LastSeen, Lease, Life, Opened, Wreck};
use crate::phase::Phase;
use crate::process::ProcessId;
use crate::run::commands::nulls::nulls_since;
use crate::run::context::Context;
use crate::run::hints::command;
use crate::run::planning::open_live;
use crate::run::report::{PinStatus, PointStatus, StagedStatus, TableStatus};
use crate::schema::change::Change;
use crate::table::history;

pub(crate) async fn run(ctx: &Context) -> Result<TableStatus> {
    let opener = ctx.opener();
    let live = open_live(ctx, &opener).await?;
    let staged = match Opened::look(&opener).await? {
        Opened::Journal(journal) => Some(staged_status(ctx, &live, &journal).await?),
        Opened::Wreck(wreck) => Some(wreck_status(ctx, &wreck)),
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
        let nulls = nulls_since(ctx, &live, swapped).await;
        rollback_points.push(PointStatus::of(&point, swapped, since, nulls));
    }
    let pins = pins.into_iter().map(|pin| {
        let finalize = pin.swapped.is_some();
        PinStatus { id: pin.id, version: pin.version, finalize }
    });
    Ok(TableStatus {
        table: ctx.table().to_owned(),
        version: live.version_id(),
        staged,
        rollback_points,
        pins: pins.collect(),
    })
}

/// What can be told of a staging table that is no journal.
fn wreck_status(ctx: &Context, wreck: &Wreck) -> StagedStatus {
    let (lease, now) = (wreck.lease.as_ref(), ctx.clock.now());
    let running = wreck.is_running(now, &ProcessId::current());
    let abort = command(ctx, "abort");
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
        alive: running,
        progress: None,
    }
}

async fn staged_status(ctx: &Context, live: &Dataset, journal: &Journal) -> Result<StagedStatus> {
    let (header, lease) = (journal.header(), journal.lease());
    let point = history::rollback_point(live, &header.id).await?;
    let swapped = point.and_then(|point| point.swapped);
    let seen = journal.last_seen().await.unwrap_or(lease.beat);
    let told = life_told(ctx, lease, seen);
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
        alive: running,
        progress: if running { journal.figures().await } else { None },
    })
}

/// What can be told at once of the run that has `lease` and was last `seen`. The own clock will do:
/// nothing is decided by it, and nothing may be written.
fn life_told(ctx: &Context, lease: &Lease, seen: DateTime<Utc>) -> Life {
    match lease.life(&ProcessId::current()) {
        told @ (Life::Alive | Life::Dead) => told,
        Life::Unknown => match LastSeen::of(ctx.clock.now() - seen) {
            LastSeen::Lately => Life::Alive,
            LastSeen::LongAgo => Life::Dead,
            LastSeen::InTheFuture => Life::Unknown,
        },
    }
}
