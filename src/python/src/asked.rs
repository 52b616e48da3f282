//! What Python asks for, as it comes: JSON, and a schema beside it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use arrow::datatypes::Schema;

use relance::{
    Cancel, Hold, Location, Migration, Producer, Request, Result, SavedPlan, Settings,
    SharedProgress, Verify, Writes, parse_batch_size, parse_bytes, parse_duration, table_names,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    command: Command,
    database: String,
    /// The table; `None` is every table of the database, which only `status` takes.
    table: Option<String>,
    #[serde(default)]
    storage_options: BTreeMap<String, String>,
    /// How long an object store may be away.
    store_timeout: Option<String>,
    #[serde(default)]
    request: Request,
    /// A plan that was made before, as JSON.
    planned: Option<String>,
    /// Another table, whose schema is to come to.
    to: Option<String>,
    /// What the columns hold that come with a schema, as literals.
    #[serde(default)]
    defaults: BTreeMap<String, String>,
    #[serde(default)]
    settings: Asks,
    #[serde(default)]
    writes: Since,
    #[serde(default)]
    history: bool,
    /// How long to measure.
    time: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Command {
    Plan,
    Migrate,
    Resume,
    Abort,
    Status,
    Verify,
    Rollback,
    Finalize,
    Tune,
}

/// What to do with what others wrote since the swap.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Since {
    #[default]
    Refuse,
    Discard,
    Keep,
}

/// The settings that were given, as the command takes them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asks {
    batch_size: Option<String>,
    workers: Option<usize>,
    queue: Option<usize>,
    memory: Option<String>,
    max_rate: Option<String>,
    control: Option<PathBuf>,
    verify: Option<Verify>,
    hold: Option<Hold>,
    max_rounds: Option<u32>,
    cutover_timeout: Option<String>,
    by_parallel: Option<usize>,
    by_retries: Option<u32>,
    by_timeout: Option<String>,
    finite: bool,
    try_store: bool,
}

/// What comes beside the JSON.
pub(crate) struct More {
    /// A schema to come to.
    pub schema: Option<Schema>,
    /// What gives values, by the column.
    pub functions: Vec<(String, Arc<dyn Producer>)>,
}

impl Asks {
    fn settings(self) -> Result<Settings> {
        let default = Settings::default();
        Ok(Settings {
            batch_size: given(self.batch_size.as_deref(), parse_batch_size, default.batch_size)?,
            workers: self.workers.unwrap_or(default.workers),
            queue: self.queue.unwrap_or(default.queue),
            memory_bytes: given(self.memory.as_deref(), parse_bytes, default.memory_bytes)?,
            max_rate: self.max_rate.as_deref().map(parse_bytes).transpose()?,
            control: self.control,
            verify: self.verify.unwrap_or(default.verify),
            hold: self.hold.unwrap_or(default.hold),
            max_rounds: self.max_rounds.unwrap_or(default.max_rounds),
            cutover_timeout: given(
                self.cutover_timeout.as_deref(),
                parse_duration,
                default.cutover_timeout,
            )?,
            by_parallel: self.by_parallel,
            by_retries: self.by_retries.unwrap_or(default.by_retries),
            by_timeout: self.by_timeout.as_deref().map(parse_duration).transpose()?,
            finite: self.finite,
            try_store: self.try_store,
        })
    }
}

fn given<T>(text: Option<&str>, read: fn(&str) -> Result<T>, default: T) -> Result<T> {
    text.map_or(Ok(default), read)
}

/// The time that `tune` takes, if nothing else is asked.
const TUNE_TIME: &str = "60s";

impl Asked {
    /// The table's name, for events.
    pub(crate) fn table(&self) -> &str {
        self.table.as_deref().unwrap_or_default()
    }

    /// What must not be told, as far as it is known.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.location().map_or_else(|_| Vec::new(), |location| location.secrets())
    }

    fn location(&self) -> Result<Location> {
        // Where no table is named, any name does for the place of all.
        let table = self.table.as_deref().unwrap_or("any");
        let location = Location::new(&self.database, table)?;
        let location = location.with_storage_options(self.storage_options.clone());
        Ok(match self.store_timeout.as_deref().map(parse_duration).transpose()? {
            Some(timeout) => location.with_store_timeout(timeout),
            None => location,
        })
    }

    /// Does what is asked, and gives what `--json` prints of it.
    pub(crate) async fn run(
        self,
        more: More,
        progress: SharedProgress,
        cancel: Cancel,
    ) -> Result<Value> {
        let location = self.location()?;
        if self.table.is_none() {
            return status_of_all(&location).await;
        }
        let migration = Migration::of(location).request(self.request).progress(progress);
        let migration = migration.cancel(cancel).settings(self.settings.settings()?);
        let functions = more.functions.into_iter();
        let migration = functions
            .fold(migration, |migration, (column, function)| migration.producer(column, function));
        let migration = match (&self.planned, &self.to, more.schema) {
            (Some(planned), ..) => migration.planned(SavedPlan::parse(planned)?),
            (None, Some(table), _) => migration.to(table).await?,
            (None, None, Some(schema)) => migration.to_schema(&schema, self.defaults).await?,
            (None, None, None) => migration,
        };
        match self.command {
            Command::Plan => {
                let plan = migration.plan().await?;
                let saved = told(&plan.saved()).to_string();
                Ok(json!({ "plan": plan.json(), "text": plan.text(), "saved": saved }))
            }
            Command::Migrate => Ok(migration.migrate().await?.json()),
            Command::Resume => Ok(migration.resume().await?.json()),
            Command::Abort => Ok(told(&migration.abort().await?)),
            Command::Status => Ok(told(&migration.status().await?)),
            Command::Verify => Ok(told(&migration.verify().await?)),
            Command::Rollback => Ok(told(&migration.rollback(self.writes.into()).await?)),
            Command::Finalize => Ok(told(&migration.finalize(self.history).await?)),
            Command::Tune => {
                let time = parse_duration(self.time.as_deref().unwrap_or(TUNE_TIME))?;
                Ok(told(&migration.tune(time).await?))
            }
        }
    }
}

impl From<Since> for Writes {
    fn from(since: Since) -> Self {
        match since {
            Since::Refuse => Self::Refuse,
            Since::Discard => Self::Discard,
            Since::Keep => Self::Keep,
        }
    }
}

/// What is known of every table of a database. One that cannot be looked at hides none of the others.
async fn status_of_all(any: &Location) -> Result<Value> {
    let mut tables = Vec::new();
    for table in table_names(any).await? {
        let status = Migration::of(any.sibling(&table)?).status().await;
        tables.push(match status {
            Ok(status) => told(&status),
            Err(error) => json!({ "table": table, "error": error.json(&any.secrets()) }),
        });
    }
    Ok(json!({ "tables": tables }))
}

fn told<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
