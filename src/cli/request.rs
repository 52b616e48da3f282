//! Flags become values, once.

use std::path::Path;

use crate::cli::args::{
    BadValue, Changes, Cutover, Engine, Exists, HoldArg, Limits, PreflightArg, Store, StrategyArg,
    TableArg, VerifyArg,
};
use crate::cli::changes::ChangeArg;
use crate::{
    Change, Error, Hold, IfExists, Location, OnBadValue, Preflight, Request, Result, SavedPlan,
    Settings, Strategy, Verify,
};

impl TryFrom<TableArg> for Location {
    type Error = Error;

    fn try_from(place: TableArg) -> Result<Self> {
        let TableArg { store, table } = place;
        location(store, &table)
    }
}

/// The environment variable with options of the object store.
const OPTIONS: &str = "RELANCE_STORAGE_OPTIONS";

/// The place of `table` in `store`.
pub(super) fn location(store: Store, table: &str) -> Result<Location> {
    let Store { db, storage_option, timeout } = store;
    let set = std::env::var(OPTIONS).unwrap_or_default();
    // A value may have a comma in it, but no line.
    let between = if set.trim_end().contains('\n') { '\n' } else { ',' };
    let set = set.split(between).map(str::trim).filter(|option| !option.is_empty());
    let set = set.map(|option| (OPTIONS, option));
    // What is typed counts more than what is set.
    let typed = storage_option.iter().map(|option| ("--storage-option", option.as_str()));
    let options = set.chain(typed).map(|(source, option)| {
        // The option may hold a secret: it is not repeated.
        let pair = option.split_once('=').filter(|(key, _)| !key.trim().is_empty());
        let (key, value) = pair.ok_or_else(|| Error::usage(format!("{source} takes KEY=VALUE")))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    let options: Vec<_> = options.collect::<Result<_>>()?;
    let location = Location::new(&db, table)?.with_storage_options(options);
    location.check_options()?;
    Ok(match timeout {
        Some(timeout) => location.with_store_timeout(timeout),
        None => location,
    })
}

/// What `changes` asks for, but for a schema to come to.
pub(super) fn request(changes: &Changes) -> Result<Request> {
    let Changes { ordered, if_exists, drop_index, strategy, .. } = changes;
    let mut asked = Vec::new();
    for item in &ordered.items {
        match item {
            ChangeArg::Change(change) => asked.push(change.clone()),
            ChangeArg::File(path) => {
                let name = path.display();
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Error::usage(format!("cannot read {name}")).caused_by(error)
                })?;
                let read = Change::parse_toml(&text);
                asked.extend(read.map_err(|error| error.about(&name.to_string()))?);
            }
        }
    }
    Ok(Request {
        changes: asked,
        if_exists: match if_exists {
            Exists::Skip => IfExists::Skip,
            Exists::Error => IfExists::Error,
        },
        drop_indices: drop_index.clone(),
        strategy: match strategy {
            StrategyArg::Auto => None,
            StrategyArg::Metadata => Some(Strategy::Metadata),
            StrategyArg::Columns => Some(Strategy::Columns),
            StrategyArg::Rewrite => Some(Strategy::Rewrite),
        },
        storage_version: changes.storage_version.clone(),
        filter: changes.filter.clone(),
        rows_per_file: changes.rows_per_file,
        on_bad_value: match changes.on_bad_value {
            BadValue::Fail => OnBadValue::Fail,
            BadValue::Null => OnBadValue::Null,
            BadValue::Quarantine => OnBadValue::Quarantine,
        },
        preflight: match changes.preflight {
            PreflightArg::Full => Preflight::Full,
            PreflightArg::Sample => Preflight::Sample,
        },
        allow_key_change: changes.allow_key_change,
        allow_index_loss: false,
    })
}

/// The plan in `file`, to be carried out.
pub(super) fn saved_plan(file: &Path) -> Result<SavedPlan> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::usage(format!("cannot read {name}")).caused_by(error))?;
    SavedPlan::parse(&text).map_err(|error| error.about(&name.to_string()))
}

/// The settings of `limits`.
pub(super) fn settings_within(limits: &Limits) -> Settings {
    let Limits { workers, memory, max_rate } = limits;
    let default = Settings::default();
    Settings {
        workers: workers.unwrap_or(default.workers),
        memory_bytes: memory.unwrap_or(default.memory_bytes),
        max_rate: max_rate.or(default.max_rate),
        ..default
    }
}

/// The settings of `engine`.
pub(super) fn settings(engine: &Engine) -> Settings {
    let Engine { batch_size, limits, queue, control, verify, calls } = engine;
    let default = settings_within(limits);
    Settings {
        batch_size: batch_size.unwrap_or(default.batch_size),
        queue: queue.unwrap_or(default.queue),
        control: control.clone(),
        verify: match verify {
            VerifyArg::Full => Verify::Full,
            VerifyArg::Read => Verify::Read,
            VerifyArg::Quick => Verify::Quick,
        },
        by_parallel: calls.by_parallel,
        by_retries: calls.by_retries.unwrap_or(default.by_retries),
        by_timeout: calls.by_timeout,
        finite: calls.finite,
        ..default
    }
}

/// The settings of `engine` and `cutover`.
pub(super) fn settings_to_swap(engine: &Engine, cutover: &Cutover) -> Settings {
    let Cutover { hold, max_rounds, cutover_timeout } = cutover;
    let settings = settings(engine);
    Settings {
        hold: match hold {
            None => Hold::No,
            Some(HoldArg::Exit) => Hold::Exit,
            Some(HoldArg::Wait) => Hold::Wait,
        },
        max_rounds: max_rounds.unwrap_or(settings.max_rounds),
        cutover_timeout: cutover_timeout.unwrap_or(settings.cutover_timeout),
        ..settings
    }
}
