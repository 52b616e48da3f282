//! After the swap: a look at it, which takes it back where it is not whole; then indices, and tidying up.

use std::collections::HashSet;
use std::sync::{Arc, atomic::Ordering};
use std::time::Instant;

use lance::{Dataset, dataset::transaction::Operation};
use tokio::task::JoinSet;

use crate::error::{Error, Kind, Result};
use crate::plan::{Plan, amounts::counted};
use crate::retry::{is_away, is_of_gone, retrying};
use crate::run::head::is_dropped;
use crate::run::hints::{command, unfinished, unknown};
use crate::run::lease::{beating, checkpoint, lease_of};
use crate::run::report::{Ended, Report};
use crate::run::uploads::Unfinished;
use crate::run::{context::Context, session::Session};
use crate::schema::path::{field_at, find};
use crate::schema::{change::Change, filled::filled, show::field_text};
use crate::table::commit::{Act, Outcome, exactly_next, properties};
use crate::table::history::is_tagged_swap;
use crate::table::look::{Look, look};
use crate::table::{index, open::newest, orphans, tag};
use crate::verify::{published, published::sync_commit};
use crate::{phase::Phase, progress::Amount, span};

/// Looks at the version that was swapped in, rebuilds indices, and removes what is left over, the staging table last.
///
/// # Errors
/// `Mismatch`, when the version was not whole and was taken back; otherwise `Unfinished`, whatever it is that
/// fails: the swap has landed. `Locked`, when another run took over.
pub(crate) async fn finish(
    ctx: &Context,
    mut session: Box<Session>,
    swapped: Arc<Dataset>,
) -> Result<Ended> {
    // From the beginning, since a store takes its time. It ends with this.
    let mut looking = JoinSet::new();
    let (location, version) = (ctx.location.clone(), Arc::clone(&swapped));
    let (rows, schema) = (session.rows_swapped(), session.plan.target.schema.clone());
    let connection = session.connecting.join_next().await.and_then(|done| done.ok()?.ok());
    looking.spawn(async move { look(&location, connection, &version, rows, &schema).await });
    let session = Box::pin(look_after(ctx, session, &swapped)).await?;
    let report = Box::pin(finish_and_tidy(ctx, session, &swapped, looking)).await;
    match report {
        Ok(report) => {
            ctx.begin_phase(Phase::Done, Amount::default());
            Ok(Ended::Swapped(report))
        }
        Err(error) => Err(left_undone(ctx, swapped.version_id(), error).await),
    }
}

/// `error`, which came after the swap as `version`, as what it is there: something is left to do, or others have dropped the
/// table since.
pub(crate) async fn left_undone(ctx: &Context, version: u64, error: Error) -> Error {
    if !is_dropped(ctx, &error).await {
        return unfinished(ctx, version, error);
    }
    let (table, abort) = (ctx.table(), command(ctx, "abort"));
    let message =
        format!("swapped in as version {version}, whole; others have dropped `{table}` since");
    let advice = format!("{abort} removes what is left of the migration");
    let error = Error::unfinished(message).with_advice(&advice).caused_by(error);
    error.knowing("version", version.into())
}

/// Looks at the version that was swapped in. Where it is not whole, since something removed a file of it at
/// that very moment (a cleanup that was told to take files of unfinished writes, say), the version before
/// it is put back, unless others have written since.
///
/// # Errors
/// `Mismatch` then; otherwise what kept it from looking.
///
/// # Crash
/// The live table is the swapped version, or the one before it again.
async fn look_after(
    ctx: &Context,
    session: Box<Session>,
    swapped: &Arc<Dataset>,
) -> Result<Box<Session>> {
    let (version, before) = (swapped.version_id(), session.source.version_id());
    let header = session.journal.header();
    let looked = async {
        sync_commit(swapped).await?;
        // A run that was taken over, and died as it woke up, may have left a journal of less than was swapped in: nothing can
        // be told by it.
        if header.source_version != before {
            return Ok(());
        }
        // At once, since a store takes its time.
        let inspecting = async {
            let rows = published::inspect_swapped(session.intent(), swapped);
            tokio::try_join!(rows, session.prebuilt.expect_files(swapped)).map(|((), ())| ())
        };
        let (tagged, inspected) =
            tokio::join!(is_tagged_swap(swapped, &header.id, version), inspecting);
        if tagged? { Ok(()) } else { inspected }
    };
    let error = match looked.await {
        Ok(()) => return Ok(session),
        Err(error) if error.kind() == Kind::Mismatch && !is_away(&error) => error,
        Err(error) => return Err(left_undone(ctx, version, error).await),
    };
    let id = session.journal.header().id.clone();
    let operation = Operation::Restore { version: before };
    let put_back = exactly_next(swapped, operation, None, properties(&id, Act::Rollback)).await;
    let put_back = put_back.map_err(|failed| {
        if is_of_gone(&failed) {
            let (table, abort) = (ctx.table(), command(ctx, "abort"));
            let message = format!(
                "version {version} was swapped in and is not whole, and version {before} is gone: others dropped \
                 `{table}` at that moment"
            );
            let advice = format!("{abort} removes what is left of it");
            return Error::mismatch(message).with_advice(&advice).caused_by(failed);
        }
        let message = format!(
            "version {version} was swapped in and is not whole, and version {before} could not be put back"
        );
        let resume = format!("{} tries it again", command(ctx, "resume"));
        let because = error.report(&[]);
        let because = because.lines().chain([resume.as_str()]);
        Error::mismatch(message).with_lines(because).caused_by(failed)
    });
    match put_back? {
        Outcome::Landed(live) => {
            let back = drop_broken(ctx, *session, &live).await;
            let message = format!(
                "version {version} was swapped in and is not whole, so version {before} was put back as \
                 version {}. Nothing of the table is lost; migrate again, without a cleanup beside it",
                live.version_id()
            );
            let error = Error::mismatch(message).caused_by(error);
            Err(match back {
                Ok(()) => error,
                Err(left) => error.with_lines(left.report(&[]).lines()),
            })
        }
        Outcome::LostRace { head } => {
            let rollback = command(ctx, "rollback");
            let message = format!(
                "version {version} was swapped in and is not whole, and others have committed version \
                 {head} since, so it was not taken back by itself"
            );
            let advice = format!("{rollback} goes back, and says what would be lost");
            Err(Error::mismatch(message).with_advice(&advice).caused_by(error))
        }
        Outcome::Unknown { attempted, error } => Err(unknown(ctx, attempted).caused_by(error)),
    }
}

/// Drops what is left of a migration whose swap was taken back.
async fn drop_broken(ctx: &Context, mut session: Session, live: &Dataset) -> Result<()> {
    checkpoint(ctx, &mut session.journal, Phase::Done, false).await?;
    let header = session.journal.header().clone();
    session.journal.remove_orphans(live, &HashSet::new()).await?;
    tag::unpin(live, &header.id).await?;
    session.journal.remove().await.map(drop)
}
async fn finish_and_tidy(
    ctx: &Context,
    mut session: Box<Session>,
    swapped: &Arc<Dataset>,
    looking: JoinSet<Result<Look>>,
) -> Result<Report> {
    let mut report = match index_and_tidy(ctx, &mut session, swapped, looking).await {
        Ok(report) => report,
        Err(error) => {
            // Lets go, so that nobody waits for a heartbeat. The first error is the one to tell.
            let released = lease_of(ctx, Phase::Index, true);
            let _ = session.journal.checkpoint(released).await;
            return Err(error);
        }
    };
    let [began, stay] = [&ctx.store.began_uploads, &ctx.store.keeps_uploads];
    if began.load(Ordering::Relaxed) && !stay.load(Ordering::Relaxed) {
        // A run that was taken over must not give up what another one began.
        session.journal.expect_own().await?;
        let unfinished = Unfinished::uploads_now(ctx, &ctx.opener(), swapped).await;
        unfinished.give_up(ctx, [&*session.journal.header().id].into_iter()).await;
    }
    session.journal.remove_own().await?;
    report.store = ctx.store.traffic.figures();
    Ok(report)
}

async fn index_and_tidy(
    ctx: &Context,
    session: &mut Session,
    swapped: &Arc<Dataset>,
    mut looking: JoinSet<Result<Look>>,
) -> Result<Report> {
    let began = Instant::now();
    let id = session.journal.header().id.clone();
    // First of all: what going back reads there must outlive a cleanup.
    let tag = || tag::pin_swap(swapped, &id, swapped.version_id());
    let tagged = retrying(&ctx.progress, &ctx.cancel, "tagging the swapped version", tag);
    let ((), mut after) = tokio::try_join!(tagged, newest(swapped))?;
    let wanted = session.plan.rebuilds();
    let missing = index::missing(swapped, &wanted).await?.len() as u64;
    if missing > 0 {
        ctx.begin_phase(Phase::Index, Amount { chunks: missing, ..Amount::default() });
        let _building = span::index();
        let source = Arc::clone(&session.source);
        let indices = index::rebuild(&source, after, &wanted, &id, &ctx.progress);
        after = beating(ctx, &mut session.journal, Phase::Index, indices).await?;
    }
    let asked = &session.plan.request.drop_indices;
    after = index::drop_named(after, asked, &id).await?;
    for name in session.plan.dropped_indices() {
        ctx.say(format!("index `{name}` is dropped"));
    }
    session.took(Phase::Index, began);
    let (keep, first) = (orphans::named_by(swapped), session.journal.header().first_version);
    let both = async {
        let looked = async {
            let looked = looking.join_next().await;
            let died = || Error::failed("the look at the table died; this is a bug in relance");
            looked.ok_or_else(died)?.map_err(|error| died().caused_by(error))?
        };
        tokio::try_join!(looked, orphans::find(&after, &id, &keep, first, None))
    };
    let both = Box::pin(beating(ctx, &mut session.journal, Phase::Index, both));
    let (look, orphans) = both.await?;
    if look.failed.is_none() {
        let rows = counted(session.rows_swapped(), "row");
        ctx.say(format!("LanceDB counts {rows} and sees every field"));
    }
    session.journal.clear_orphans(orphans).await?;
    if let Some(undo) = &session.journal.header().undo {
        tag::unpin(&after, &undo.id).await?;
    }
    Ok(report_of(ctx, session, swapped, &after, look))
}

fn report_of(
    ctx: &Context,
    session: &Session,
    swapped: &Dataset,
    after: &Dataset,
    look: Look,
) -> Report {
    let header = session.journal.header();
    let plan = &session.plan;
    let files = session.journal.records().flat_map(|record| &record.files);
    let fields = arrow::datatypes::Schema::from(&plan.target.schema);
    Report {
        table: ctx.table().to_owned(),
        id: header.id.clone(),
        changes: plan.target.changes.iter().map(Change::text).collect(),
        skipped: plan.target.skipped.iter().map(|skipped| skipped.name.clone()).collect(),
        skipped_values: plan.skipped_values.clone(),
        version_before: session.source.version_id(),
        version_swapped: swapped.version_id(),
        version_after: after.version_id(),
        rollback_tag: tag::tag_of(&header.id),
        strategy: plan.strategy,
        rows: session.rows_swapped(),
        fragments_before: plan.fragments,
        fragments_after: swapped.count_fragments() as u64,
        bytes_written: files.map(|file| file.bytes).sum(),
        verified: ctx.settings.verify,
        bytes_confirmed: session.journal.records().map(|record| record.confirmed).sum(),
        values_nulled: session.values_nulled(),
        rounds: u64::from(session.rounds.count),
        swapped_after: session.swapped_after,
        indices_rebuilt: plan.rebuilds().into_iter().map(|rebuild| rebuild.name).collect(),
        indices_dropped: plan.dropped_indices(),
        fields: fields.fields().iter().map(|field| field_text(field)).collect(),
        seconds: session.seconds.clone(),
        store: ctx.store.traffic.figures(),
        notes: notes(ctx, plan).into_iter().chain(look.failed.iter().map(failed_text)).collect(),
        sample: look.sample,
    }
}

/// What LanceDB cannot do with the table.
fn failed_text(error: &Error) -> String {
    let why = error.report(&[]).replace('\n', " ");
    format!("LanceDB's client cannot query this table; its rows were read without it: {why}")
}

/// What those who go on writing to the migrated table need to know.
fn notes(ctx: &Context, plan: &Plan) -> Vec<String> {
    let schema = &plan.target.schema;
    let filled = filled(&plan.target.changes).into_iter();
    let nullable = filled.filter(|one| {
        find(&schema.fields, &one.column)
            .and_then(|at| field_at(&schema.fields, &at))
            .is_some_and(|field| field.nullable)
    });
    let names: Vec<String> = nullable.map(|one| format!("`{}`", one.column)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let (names, status) = (names.join(", "), command(ctx, "status"));
    vec![format!(
        "rows that clients append without {names} are null there, not the default: {status} counts them"
    )]
}
