//! After the swap: indices, tidying up, and a look at the result.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use lance::Dataset;

use crate::error::{Error, Kind, Result};
use crate::phase::Phase;
use crate::plan::amounts::count_text;
use crate::progress::{Amount, note};
use crate::retry::retrying;
use crate::run::report::{Ended, Report, seconds};
use crate::run::{Migration, Underway};
use crate::schema::change::Change;
use crate::schema::show::field_text;
use crate::table::newest;
use crate::{database, index, leftover, source, span};

impl Migration {
    /// Rebuilds indices, removes what is left over, looks at the result, and removes the staging table.
    ///
    /// # Errors
    /// `Unfinished`, whatever it is that fails: the swap has landed. `Locked`, when another run took over.
    pub(super) async fn after_swap(
        &self,
        underway: Box<Underway>,
        swapped: Arc<Dataset>,
    ) -> Result<Ended> {
        let report = Box::pin(self.finish_and_tidy(underway, &swapped)).await;
        let report = report.map_err(|error| self.unfinished(swapped.version_id(), error))?;
        self.begin_phase(Phase::Done, Amount::default());
        Ok(Ended::Swapped(report))
    }

    async fn finish_and_tidy(
        &self,
        mut underway: Box<Underway>,
        swapped: &Arc<Dataset>,
    ) -> Result<Report> {
        let report = match self.finish(&mut underway, swapped).await {
            Ok(report) => report,
            Err(error) => {
                // Lets go, so that nobody waits for a heartbeat. The first error is the one to tell.
                let released = self.lease(Phase::Index, true);
                let _ = underway.journal.checkpoint(released).await;
                return Err(error);
            }
        };
        // A run that was taken over must not remove what another one works with.
        self.checkpoint(&mut underway.journal, Phase::Done, false).await?;
        underway.journal.remove().await?;
        Ok(report)
    }

    /// `error`, which came after the swap as `version`, as what it is there: nothing of the table's is lost,
    /// and something is left to do.
    pub(super) fn unfinished(&self, version: u64, error: Error) -> Error {
        let swapped = format!("swapped in as version {version}, whole");
        let resume = self.command("resume");
        match error.kind() {
            Kind::Locked => error.with_advice(&format!("{swapped}; another run does the rest")),
            Kind::Interrupted => Error::unfinished(format!("{swapped}; interrupted after that"))
                .with_advice(&format!("{resume} does the rest")),
            Kind::Mismatch => {
                let rollback = self.command("rollback");
                Error::unfinished(format!("{swapped}; a look at it found something else"))
                    .with_advice(&format!("{resume} looks again, {rollback} takes it back"))
                    .caused_by(error)
            }
            Kind::Usage
            | Kind::Refused
            | Kind::OutcomeUnknown
            | Kind::Unfinished
            | Kind::Failed => Error::unfinished(format!("{swapped}; something after that failed"))
                .with_advice(&format!("{resume} does the rest"))
                .caused_by(error),
        }
    }

    async fn finish(&self, underway: &mut Underway, swapped: &Arc<Dataset>) -> Result<Report> {
        let began = Instant::now();
        let id = underway.journal.header().id.clone();
        // First of all: what going back reads there must outlive a cleanup.
        let tag = || source::pin_swap(swapped, &id, swapped.version_id());
        retrying(&self.progress, &self.cancel, "tagging the swapped version", tag).await?;
        let wanted = underway.plan.rebuilds();
        let missing = index::missing(swapped, &wanted).await?.len() as u64;
        let mut after = newest(swapped).await?;
        if missing > 0 {
            self.begin_phase(Phase::Index, Amount { chunks: missing, ..Amount::default() });
            let _building = span::index();
            let source = Arc::clone(&underway.source);
            let indices = index::rebuild(&source, after, &wanted, &id, &self.progress);
            after = self.beating(&mut underway.journal, Phase::Index, indices).await?;
        }
        let asked = &underway.plan.request.drop_indices;
        after = index::drop_named(after, asked, &id).await?;
        for name in underway.plan.dropped_indices() {
            note(&self.progress, format!("index `{name}` is dropped"));
        }
        underway.clock(Phase::Index, seconds(began.elapsed()));
        let (version, rows) = (swapped.version_id(), rows_swapped(underway));
        let schema = underway.plan.target.schema.clone();
        let sample = database::look(&self.location, version, rows, &schema);
        let sample = Box::pin(self.beating(&mut underway.journal, Phase::Index, sample)).await?;
        note(
            &self.progress,
            format!("LanceDB counts {} rows and sees every field", count_text(rows)),
        );
        let first = underway.journal.header().first_version;
        let (keep, journal) = (leftover::named_by(swapped), &mut underway.journal);
        leftover::remove(&after, &id, &keep, first, Some(journal)).await?;
        if let Some(undo) = &underway.journal.header().undo {
            source::unpin(&after, &undo.id).await?;
        }
        Ok(self.report(underway, swapped, &after, sample))
    }

    /// Removes what earlier runs of this migration left behind, what is staged excepted.
    pub(super) async fn clean(&self, underway: &mut Underway) -> Result<()> {
        let header = underway.journal.header().clone();
        let files = underway.journal.records().flat_map(|record| &record.files);
        let keep: HashSet<String> = files.map(|file| file.name.clone()).collect();
        let (source, journal) = (&underway.source, &mut underway.journal);
        leftover::remove(source, &header.id, &keep, header.first_version, Some(journal)).await?;
        Ok(())
    }

    fn report(
        &self,
        underway: &Underway,
        swapped: &Dataset,
        after: &Dataset,
        sample: Vec<arrow::array::RecordBatch>,
    ) -> Report {
        let header = underway.journal.header();
        let plan = &underway.plan;
        let files = underway.journal.records().flat_map(|record| &record.files);
        let fields = arrow::datatypes::Schema::from(&plan.target.schema);
        Report {
            table: self.location.table().to_owned(),
            id: header.id.clone(),
            changes: plan.target.changes.iter().map(Change::text).collect(),
            skipped: plan.target.skipped.iter().map(|skipped| skipped.name.clone()).collect(),
            skipped_values: plan.skipped_values.clone(),
            version_before: header.source_version,
            version_swapped: swapped.version_id(),
            version_after: after.version_id(),
            rollback_tag: source::tag_of(&header.id),
            strategy: plan.strategy,
            rows: rows_swapped(underway),
            fragments_before: plan.fragments,
            fragments_after: swapped.count_fragments() as u64,
            bytes_written: files.map(|file| file.bytes).sum(),
            verified: self.settings.verify,
            values_nulled: underway.values_nulled(),
            rounds: u64::from(underway.rounds.count),
            swapped_after: underway.swapped_after,
            indices_rebuilt: plan.rebuilds().into_iter().map(|rebuild| rebuild.name).collect(),
            indices_dropped: plan.dropped_indices(),
            fields: fields.fields().iter().map(|field| field_text(field)).collect(),
            seconds: underway.clocked.clone(),
            notes: self.notes(plan),
            sample,
        }
    }
}

/// Rows of the swapped version.
fn rows_swapped(underway: &Underway) -> u64 {
    let left_out: u64 = underway.journal.records().map(|record| record.left_out).sum();
    underway.plan.rows.saturating_sub(left_out)
}
