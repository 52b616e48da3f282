//! Plans: of the table as it is, and of a staged migration that goes on.

use std::sync::Arc;

use arrow::datatypes::{Field as ArrowField, Schema as ArrowSchema};
use lance::Dataset;
use lance_core::datatypes::{Field, Schema};

use crate::error::{Context, Error, Result};
use crate::history::RollbackPoint;
use crate::journal::{ChunkRecord, Journal};
use crate::plan::amounts::count_text;
use crate::plan::catchup::Need;
use crate::plan::{Facts, Plan, Request, Strategy};
use crate::progress::note;
use crate::retry::retrying;
use crate::run::{Migration, Underway};
use crate::schema::change::Change;
use crate::schema::derive::changes_between;
use crate::schema::json::parse_schema;
use crate::schema::rules::same_field;
use crate::schema::show::field_text;
use crate::settings::OnBadValue;
use crate::table::{self, Opener, newest};
use crate::{database, history, index, source};

/// A plan and the dataset that it was made from.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) live: Arc<Dataset>,
}

impl Migration {
    /// Asks for the changes that make the table's schema that of `schema`: a file with it as JSON, or
    /// another table of the database. Columns that come are null; a rename is never guessed.
    ///
    /// # Errors
    /// `Usage`, when the file is no schema; `Failed`, when there is neither such a file nor such a table;
    /// `Refused`, when a column would come that may not be null.
    pub async fn to(mut self, schema: &str) -> Result<Self> {
        let is_file = std::path::Path::new(schema)
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let target = if is_file {
            let text = std::fs::read_to_string(schema)
                .map_err(|error| Error::usage(format!("cannot read {schema}")).caused_by(error))?;
            parse_schema(&text)?
        } else {
            let other = self.location.sibling(schema)?;
            database::expect_table(&other).await?;
            let other = Opener::of(&other, self.wrapper.clone()).live().await?;
            ArrowSchema::from(other.schema())
        };
        database::expect_table(&self.location).await?;
        let live = self.opener().live().await?;
        let changes = changes_between(&ArrowSchema::from(live.schema()), &target)?;
        if changes.is_empty() {
            self.request.strategy.get_or_insert(Strategy::Nothing);
        }
        self.request.changes.extend(changes);
        Ok(self)
    }

    /// Moves the pin to the version of `live`, if others have written.
    pub(super) async fn pin_head(&self, live: &Dataset, journal: &Journal) -> Result<()> {
        let id = &journal.header().id;
        let head = live.version_id();
        match history::rollback_point(live, id).await? {
            Some(RollbackPoint { swapped: Some(version), .. }) => {
                return Err(Error::interrupted(format!(
                    "the swap of this migration has landed as version {version}; `resume` tidies up"
                )));
            }
            Some(point) if point.version == head => {}
            Some(point) => {
                let tag = source::tag_of(id);
                let moving = || format!("move the tag {tag} to version {head}");
                let tags = live.tags();
                let moving = || async { tags.update(&tag, head).await.doing(moving) };
                retrying(&self.progress, &self.cancel, "pinning the source", moving).await?;
                let from = point.version;
                note(&self.progress, format!("the table moved from version {from} to {head}"));
            }
            None => source::pin(live, id, head).await?,
        }
        Ok(())
    }

    /// Moves source, plan and journal to the newest version of the table: what others left alone stays
    /// staged.
    pub(super) async fn move_to_head(&self, underway: &mut Underway) -> Result<()> {
        // A run that was taken over must not move another one's pin.
        underway.journal.expect_own().await?;
        let live = newest(&underway.source).await?;
        self.pin_head(&live, &underway.journal).await?;
        let plan = self.plan_staged(&live, &underway.journal).await?;
        // What the table had already was looked at when the migration began.
        let before = std::mem::replace(&mut underway.plan, plan);
        underway.plan.skipped_values = before.skipped_values;
        underway.plan.target.skipped = before.target.skipped;
        underway.source = live;
        underway.journal.move_to(underway.source.version_id(), &underway.plan.chunks);
        Ok(())
    }

    pub(super) async fn plan_head(&self, opener: &Opener) -> Result<Planned> {
        database::expect_table(&self.location).await?;
        note(&self.progress, format!("connected to {}", self.location.database()));
        let live = opener.live().await?;
        let facts = self.facts(&live).await?;
        let plan = Plan::choose(&facts, &self.request, self.clock.now())?;
        Ok(Planned { plan, live })
    }

    /// The plan of the staged migration at `source`.
    pub(super) async fn plan_staged(&self, source: &Dataset, journal: &Journal) -> Result<Plan> {
        let header = journal.header();
        let facts = self.facts(source).await?;
        // The staged files are there already: what is free does not count against them again.
        // A field that went may have had the highest id, and a compaction of others takes the last file that
        // names it: what is staged has its ids all the same.
        let field_id_max = facts.field_id_max.max(header.field_id_max);
        let facts = Facts { free_bytes: None, staged: journal.runs(), field_id_max, ..facts };
        let now = self.clock.now();
        let mut request = header.request.clone();
        // Others may have dropped one of them meanwhile.
        request.drop_indices.retain(|name| facts.indices.iter().any(|index| index.name == *name));
        // An index that turned out not to be buildable, or came after, can be given up later.
        let more = self.request.drop_indices.iter();
        let more = more.filter(|name| !header.request.drop_indices.contains(name));
        request.drop_indices.extend(more.cloned());
        let plan = Plan::choose(&facts, &request, now);
        let plan = plan.map_err(|error| self.schema_changed(&error.line()).caused_by(error))?;
        if plan.target.changes != header.request.changes || plan.strategy != header.strategy {
            let there =
                plan.target.skipped.first().map(|one| format!("column `{}` {}", one.name, one.why));
            return Err(
                self.schema_changed(&there.unwrap_or_else(|| "it needs another plan".to_owned()))
            );
        }
        let staged = journal.schema();
        match staged.and_then(|staged| difference(staged, &plan.target.schema)) {
            Some(difference) => Err(self.schema_changed(&difference)),
            None => Ok(plan),
        }
    }

    /// Moves the journal to the plan, and says what is kept.
    pub(super) fn keep_staged(&self, underway: &mut Underway) {
        let (plan, journal) = (&underway.plan, &mut underway.journal);
        journal.expect_schema(&plan.target.schema);
        journal.move_to(underway.source.version_id(), &plan.chunks);
        let now = self.store_time(journal);
        let (mut kept, mut changed, mut staged) = (0, 0, 0);
        for chunk in &plan.chunks {
            match journal.need(chunk, now) {
                Need::Nothing => kept += 1,
                Need::Verify | Need::Delete | Need::Renew => changed += 1,
                Need::Stage => staged += 1,
            }
        }
        let all = plan.chunks.len();
        let rows = count_text(journal.records().map(ChunkRecord::rows_left).sum());
        let changed = match changed {
            0 => String::new(),
            count => format!(", {count} to bring up to date"),
        };
        let text = format!("kept {kept} of {all} chunks ({rows} rows){changed}, {staged} to stage");
        note(&self.progress, text);
    }

    /// Fails when something else is asked than what is staged.
    pub(super) fn expect_same_request(&self, live: &Dataset, journal: &Journal) -> Result<()> {
        let header = journal.header();
        let mut lines = Vec::new();
        let (asked, staged) = (&self.request, &header.request);
        let rows = |rows: u64| rows.to_string();
        let pairs = [
            ("--rows-per-file", asked.rows_per_file.map(rows), Some(rows(header.rows_per_file))),
            ("--where", asked.filter.clone(), staged.filter.clone()),
            ("--storage-version", asked.storage_version.clone(), staged.storage_version.clone()),
            (
                "--strategy",
                asked.strategy.map(|strategy| strategy.to_string()),
                Some(header.strategy.to_string()),
            ),
        ];
        let name = |what: OnBadValue| format!("{what:?}").to_lowercase();
        let bad = (asked.on_bad_value != OnBadValue::Fail).then(|| name(asked.on_bad_value));
        let pairs =
            pairs.into_iter().chain([("--on-bad-value", bad, Some(name(staged.on_bad_value)))]);
        for (flag, asked, staged) in pairs.filter(|(_, asked, _)| asked.is_some()) {
            if asked != staged {
                lines.extend(staged.map(|staged| format!("- {flag} {staged}")));
                lines.extend(asked.map(|asked| format!("+ {flag} {asked}")));
            }
        }
        if !self.request.changes.is_empty() {
            lines.extend(request_difference(live.schema(), &self.request, &header.request));
        }
        if lines.is_empty() {
            return Ok(());
        }
        let table = self.location.table();
        let message = format!("the staged migration of `{table}` is another one than is asked for");
        let abort = self.command("abort");
        Err(Error::refused(format!("{message} (- staged, + asked):"))
            .with_lines(lines)
            .with_advice(&format!(
                "leave the changes out to go on with what is staged; {abort} drops it"
            )))
    }

    fn schema_changed(&self, difference: &str) -> Error {
        let table = self.location.table();
        Error::refused(format!(
            "`{table}` was changed while the migration was staged: {difference}. \
             Everything is kept"
        ))
        .with_advice(&format!("{} drops what was staged; then plan again", self.command("abort")))
    }

    async fn facts(&self, dataset: &Dataset) -> Result<Facts> {
        let indices = index::facts(dataset).await?;
        table::facts(&self.location, dataset, indices).await
    }
}

/// What is staged and not asked, and the other way round. What is asked and there already is no
/// difference.
pub(super) fn request_difference(live: &Schema, asked: &Request, staged: &Request) -> Vec<String> {
    let (asked, staged) = (&asked.changes, &staged.changes);
    let missing = staged.iter().filter(|staged| !asked.iter().any(|asked| asked.asks(staged)));
    let there = |asked: &&Change| {
        matches!(asked, Change::Add(_) | Change::Compute(_)) && live.field(asked.column()).is_some()
    };
    let extra = asked
        .iter()
        .filter(|asked| !there(asked) && !staged.iter().any(|staged| asked.asks(staged)));
    let missing = missing.map(|change| format!("- {}", change.text()));
    missing.chain(extra.map(|change| format!("+ {}", change.text()))).collect()
}

/// The first column in which what is staged differs from what the table needs now, in words.
fn difference(staged: &Schema, planned: &Schema) -> Option<String> {
    let text = |field: &Field| field_text(&ArrowField::from(field));
    let known = |field: &&Field| staged.fields.iter().any(|other| other.name == field.name);
    if let Some(new) = planned.fields.iter().find(|field| !known(field)) {
        return Some(format!("column `{}` is new ({})", new.name, text(new)));
    }
    let gone = |field: &&Field| !planned.fields.iter().any(|other| other.name == field.name);
    if let Some(gone) = staged.fields.iter().find(gone) {
        return Some(format!("column `{}` is gone (it was {})", gone.name, text(gone)));
    }
    let pairs = planned.fields.iter().filter_map(|field| {
        let other = staged.fields.iter().find(|other| other.name == field.name)?;
        (!same_field(other, field)).then_some((text(other), text(field), &field.name))
    });
    pairs.into_iter().next().map(|(then, now, name)| {
        if then == now {
            format!("column `{name}` was made anew")
        } else {
            format!("column `{name}` was `{then}` and is `{now}` now")
        }
    })
}
