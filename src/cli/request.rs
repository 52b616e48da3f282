//! Flags become values, once.

use relance::{Error, Hold, IfExists, Location, Request, Result, Settings, Verify};

use crate::cli::args::{
    Changes, Cutover, Engine, Exists, HoldArg, Place, Store, StrategyArg, VerifyArg,
};

impl TryFrom<Place> for Location {
    type Error = Error;

    fn try_from(place: Place) -> Result<Self> {
        let Place { store, table } = place;
        location(store, &table)
    }
}

/// The place of `table` in `store`.
pub(super) fn location(store: Store, table: &str) -> Result<Location> {
    let Store { db, storage_option } = store;
    let options = storage_option.iter().map(|option| {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            // The option may hold a secret: it is not repeated.
            Error::usage("--storage-option takes KEY=VALUE")
        })?;
        Ok((key.to_owned(), value.to_owned()))
    });
    let options: Vec<_> = options.collect::<Result<_>>()?;
    Ok(Location::new(&db, table)?.with_storage_options(options))
}

impl From<Changes> for Request {
    fn from(changes: Changes) -> Self {
        let Changes { add, if_exists, drop_index, strategy } = changes;
        match strategy {
            // Rewriting is the only strategy so far, so both mean the same.
            StrategyArg::Auto | StrategyArg::Rewrite => {}
        }
        Self {
            changes: add,
            if_exists: match if_exists {
                Exists::Skip => IfExists::Skip,
                Exists::Error => IfExists::Error,
            },
            drop_indices: drop_index,
        }
    }
}

/// The settings of `engine`.
pub(super) fn settings(engine: &Engine) -> Settings {
    let Engine { batch_size, workers, memory, rows_per_file, max_rate, verify } = engine;
    let default = Settings::default();
    Settings {
        batch_size: batch_size.unwrap_or(default.batch_size),
        workers: workers.unwrap_or(default.workers),
        memory_bytes: memory.unwrap_or(default.memory_bytes),
        rows_per_file: *rows_per_file,
        max_rate: max_rate.or(default.max_rate),
        verify: match verify {
            VerifyArg::Full => Verify::Full,
            VerifyArg::Quick => Verify::Quick,
        },
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
