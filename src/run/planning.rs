//! Plans: of the table as it is, and of a staged migration that goes on.

use std::sync::Arc;

use lance::Dataset;

use crate::error::{Context, Error, Result};
use crate::history;
use crate::journal::Journal;
use crate::plan::{Facts, Plan};
use crate::progress::note;
use crate::run::Migration;
use crate::table::{self, Opener};
use crate::{database, index, source};

/// A plan and the dataset that it was made from.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) live: Arc<Dataset>,
}

impl Migration {
    /// Moves the pin to the head, if others have written; what they left alone stays staged.
    pub(super) async fn pin_head(&self, live: &Dataset, journal: &mut Journal) -> Result<u64> {
        let id = journal.header().id.clone();
        let head = live.version_id();
        match history::rollback_point(live, &id).await? {
            Some(point) if point.version == head => {}
            Some(point) => {
                let tag = source::tag_of(&id);
                let moved = live.tags().update(&tag, head).await;
                moved.doing(|| format!("move the tag {tag} to version {head}"))?;
                let from = point.version;
                note(&self.progress, format!("the table moved from version {from} to {head}"));
            }
            None => source::pin(live, &id, head).await?,
        }
        Ok(head)
    }

    pub(super) async fn plan_head(&self, opener: &Opener) -> Result<Planned> {
        database::expect_table(&self.location).await?;
        note(&self.progress, format!("connected to {}", self.location.database()));
        let live = opener.live().await?;
        let facts = self.facts(&live).await?;
        let rows_per_file = self.settings.rows_per_file;
        let plan = Plan::choose(&facts, &self.request, rows_per_file, self.clock.now())?;
        Ok(Planned { plan, live })
    }

    /// The plan of the staged migration at `source`, and the journal moved to its chunks.
    pub(super) async fn plan_staged(
        &self,
        opener: &Opener,
        source: &Dataset,
        journal: &mut Journal,
        swapped: bool,
    ) -> Result<Plan> {
        let header = journal.header().clone();
        let facts = self.facts(source).await?;
        // The staged files are there already: what is free does not count against them again.
        let facts = Facts { free_bytes: None, ..facts };
        let plan = Plan::choose(&facts, &header.request, header.rows_per_file, self.clock.now())?;
        if swapped {
            return Ok(plan);
        }
        if let Some(column) = schema_moved(&plan, journal) {
            let table = opener.location().table();
            return Err(Error::refused(format!(
                "the schema of `{table}` was changed while the migration was staged: column \
                 `{column}`. Everything is kept"
            ))
            .with_advice("`relance abort` drops what was staged, then plan again"));
        }
        let kept_before = journal.records().count();
        journal.move_to(source.version_id(), &plan.chunks);
        let kept = journal.records().count();
        let redo = plan.chunks.len() - kept;
        note(
            &self.progress,
            format!(
                "kept {kept} of {} chunks, {redo} to stage{}",
                plan.chunks.len(),
                if kept_before > kept { " (others have written to the table)" } else { "" }
            ),
        );
        Ok(plan)
    }

    async fn facts(&self, dataset: &Dataset) -> Result<Facts> {
        let indices = index::facts(dataset).await?;
        table::facts(&self.location, dataset, indices).await
    }
}

/// A column of the plan's target that the staged files do not have as it is, if there is one.
fn schema_moved(plan: &Plan, journal: &Journal) -> Option<String> {
    let planned = &plan.target.schema.fields;
    let staged = &journal.schema().fields;
    let differs = planned.iter().find(|field| {
        let same = staged.iter().find(|other| other.id == field.id);
        same.is_none_or(|other| other.name != field.name || other.data_type() != field.data_type())
    });
    let gone = || staged.iter().find(|field| !planned.iter().any(|other| other.id == field.id));
    differs.or_else(gone).map(|field| field.name.clone())
}
