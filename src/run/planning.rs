//! Plans: of the table as it is, and of a staged migration that goes on.

use std::{fs::File, path::Path, sync::Arc};

use arrow::datatypes::{Field as ArrowField, Schema as ArrowSchema};
use lance::Dataset;
use lance_core::datatypes::{Field, Schema};

use crate::error::{Error, Result};
use crate::plan::{Facts, Plan, Request, Strategy};
use crate::run::{context::Context, hints::command, other_data::settle_joins};
use crate::schema::derive::{Wanted, changes_between};
use crate::schema::{
    change::Change, ipc::read_ipc_schema, json::parse_schema, parquet::read_parquet_schema,
    rules::same_field, show::field_text,
};
use crate::table::{database, facts, index, open::Opener};
use crate::{journal::Journal, settings::OnBadValue, supply::Supply, supply::join::OtherData};

/// A plan and the dataset that it was made from.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) live: Arc<Dataset>,
    /// The other data of each join.
    pub(crate) data: Vec<OtherData>,
    /// What gives values from elsewhere, once it was tried.
    pub(crate) supply: Option<Supply>,
}

pub(crate) async fn plan_head(ctx: &Context, opener: &Opener) -> Result<Planned> {
    let live = open_live(ctx, opener).await?;
    ctx.say(format!("connected to {}", ctx.location.database()));
    if let Some(planned) = &ctx.planned {
        planned.expect_schema(ctx.table(), &ArrowSchema::from(live.schema()))?;
    }
    let facts = facts_of(ctx, &live).await?;
    let (request, data) = settle_joins(ctx, live.schema(), &ctx.request).await?;
    let plan = Plan::choose(&facts, &request, ctx.clock.now())?;
    Ok(Planned { plan, live, data, supply: None })
}

/// The live table. The database is only listed where there is none, for the error's sake.
///
/// # Errors
/// `NoTable`, when it is not there; those of [`Opener::live`].
pub(crate) async fn open_live(ctx: &Context, opener: &Opener) -> Result<Arc<Dataset>> {
    if let Some(live) = opener.found().await? {
        return Ok(live);
    }
    database::expect_table(&ctx.location).await?;
    opener.live().await
}

/// The plan of the staged migration at `source`.
pub(crate) async fn plan_staged(
    ctx: &Context,
    source: &Dataset,
    journal: &Journal,
) -> Result<Plan> {
    let header = journal.header();
    let facts = facts_of(ctx, source).await?;
    // The staged files are there already: what is free does not count against them again.
    // A field that went may have had the highest id, and a compaction of others takes the last file that
    // names it: what is staged has its ids all the same.
    let field_id_max = facts.field_id_max.max(header.field_id_max);
    let facts = Facts { free_bytes: None, staged: journal.runs(), field_id_max, ..facts };
    let now = ctx.clock.now();
    let mut request = header.request.clone();
    // Others may have dropped one of them meanwhile.
    request.drop_indices.retain(|name| facts.indices.iter().any(|index| index.name == *name));
    // An index that turned out not to be buildable, or came after, can be given up later.
    let more = ctx.request.drop_indices.iter();
    let more = more.filter(|name| !header.request.drop_indices.contains(name));
    request.drop_indices.extend(more.cloned());
    let plan = Plan::choose(&facts, &request, now);
    let plan = plan.map_err(|error| schema_changed(ctx, &error.line()).caused_by(error))?;
    if plan.target.changes != header.request.changes || plan.strategy != header.strategy {
        let there = plan.target.skipped.first();
        let why = there.map(|one| format!("column `{}` {}", one.name, one.why));
        let why = why.unwrap_or_else(|| "it needs another plan".to_owned());
        return Err(schema_changed(ctx, &why));
    }
    let staged = journal.schema();
    match staged.and_then(|staged| difference(staged, &plan.target.schema)) {
        Some(difference) => Err(schema_changed(ctx, &difference)),
        None => Ok(plan),
    }
}

async fn facts_of(ctx: &Context, dataset: &Dataset) -> Result<Facts> {
    let indices = index::facts(dataset).await?;
    facts::facts(&ctx.location, dataset, indices).await
}

fn schema_changed(ctx: &Context, difference: &str) -> Error {
    let table = ctx.table();
    Error::refused(format!(
        "`{table}` was changed while the migration was staged: {difference}. \
         Everything is kept"
    ))
    .with_advice(&format!("{} drops what was staged; then plan again", command(ctx, "abort")))
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
            format!("column `{name}` was dropped and added again")
        } else {
            format!("column `{name}` was `{then}` and is `{now}` now")
        }
    })
}

/// The schema that `name` names: a file with it as JSON, an Arrow IPC or a Parquet file, or another table of the database.
///
/// # Errors
/// `Usage`, when the file is no schema; `NoTable`, when there is neither such a file nor such a table.
pub(crate) async fn schema_named(ctx: &Context, name: &str) -> Result<Wanted> {
    let path = Path::new(name);
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let failed = |error| Error::usage(format!("cannot read {name}")).caused_by(error);
    match ending.as_str() {
        "json" => {
            let text = std::fs::read_to_string(path).map_err(failed)?;
            Ok(Wanted { is_whole: false, ..Wanted::whole(parse_schema(&text)?) })
        }
        "arrow" | "arrows" | "ipc" | "feather" => {
            read_ipc_schema(File::open(path).map_err(failed)?).map(Wanted::whole)
        }
        "parquet" => {
            let read = read_parquet_schema(&File::open(path).map_err(failed)?);
            read.map(Wanted::whole).map_err(|error| error.about(name))
        }
        _ => {
            let other = ctx.location.sibling(name)?;
            database::expect_table(&other).await?;
            let other = ctx.opener_of(&other).live().await?;
            Ok(Wanted::whole(ArrowSchema::from(other.schema())))
        }
    }
}

/// Asks for the changes that make the table's schema `wanted`; a rename is never guessed.
///
/// # Errors
/// `Refused`, when a column would come that may not be null and has no default, and for what no change does.
pub(crate) async fn ask_for_schema(mut ctx: Context, wanted: &Wanted) -> Result<Context> {
    let live = open_live(&ctx, &ctx.opener()).await?;
    let changes = changes_between(&ArrowSchema::from(live.schema()), wanted)?;
    if changes.is_empty() {
        ctx.request.strategy.get_or_insert(Strategy::Nothing);
    }
    ctx.request.changes.extend(changes);
    Ok(ctx)
}

/// Fails when something else is asked than what is staged.
pub(crate) fn expect_same_request(ctx: &Context, live: &Dataset, journal: &Journal) -> Result<()> {
    let header = journal.header();
    let mut lines = Vec::new();
    let (asked, staged) = (&ctx.request, &header.request);
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
    let pairs = pairs.into_iter().chain([("--on-bad-value", bad, Some(name(staged.on_bad_value)))]);
    for (flag, asked, staged) in pairs.filter(|(_, asked, _)| asked.is_some()) {
        if asked != staged {
            lines.extend(staged.map(|staged| format!("- {flag} {staged}")));
            lines.extend(asked.map(|asked| format!("+ {flag} {asked}")));
        }
    }
    if !ctx.request.changes.is_empty() {
        lines.extend(request_difference(live.schema(), &ctx.request, &header.request));
    }
    if lines.is_empty() {
        return Ok(());
    }
    let table = ctx.table();
    let message = format!("the staged migration of `{table}` is another one than is asked for");
    let abort = command(ctx, "abort");
    Err(Error::refused(format!("{message} (- staged, + asked):")).with_lines(lines).with_advice(
        &format!("leave the changes out to go on with what is staged; {abort} drops it"),
    ))
}

/// What is staged and not asked, and the other way round. What is asked and there already is no difference.
pub(crate) fn request_difference(live: &Schema, asked: &Request, staged: &Request) -> Vec<String> {
    let (asked, staged) = (&asked.changes, &staged.changes);
    let missing = staged.iter().filter(|staged| !asked.iter().any(|asked| asked.asks(staged)));
    let there = |asked: &&Change| {
        let added = asked.columns_added();
        added.is_some_and(|names| names.iter().all(|name| live.field(name).is_some()))
    };
    let extra = asked
        .iter()
        .filter(|asked| !there(asked) && !staged.iter().any(|staged| asked.asks(staged)));
    let missing = missing.map(|change| format!("- {}", change.text()));
    missing.chain(extra.map(|change| format!("+ {}", change.text()))).collect()
}
