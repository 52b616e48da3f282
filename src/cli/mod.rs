//! The command line: dispatch, exit codes, and what goes to stdout.

mod args;
mod breakdown;
mod changes;
mod log;
mod memory;
mod plot;
mod progress;
mod request;
mod show;
mod signals;
mod usage;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use relance::{
    Ended, Error, Kind, Location, Migration, Result, Sample, Settings, TableStatus, Writes,
    escape_json, escape_line, escape_text, table_names,
};
use serde_json::{Value, json};

use crate::cli::args::{Changes, Cli, Command, Engine, Output, Place};
use crate::cli::breakdown::Breakdown;
use crate::cli::show::{Looked, Unknown};
use crate::cli::signals::cancel_on_signal;

/// Exit code of a migration that was interrupted.
const INTERRUPTED: u8 = 5;

/// What a command prints, for people and for programs, and its exit code.
struct Printed {
    text: String,
    json: Value,
    exit: u8,
    /// Whether to tell where the time went.
    timed: bool,
}

impl Printed {
    /// With what most of the time went into, where rows went through.
    fn with_time(mut self, breakdown: &Breakdown) -> Self {
        if !self.timed {
            return self;
        }
        if let Some(limit) = breakdown.limit() {
            self.text = format!("{}\n  limited by {limit}", self.text);
        }
        if let Value::Object(object) = &mut self.json {
            object.insert("time".to_owned(), breakdown.json());
        }
        self
    }
}

/// Runs the command line of this process.
pub(crate) fn run() -> ExitCode {
    log::escape_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if !error.use_stderr() {
                // Help. A closed stream is no reason to fail differently.
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
            let words: Vec<String> = words.collect();
            let message = usage::told(&error, &words);
            // Nobody reads a closed stderr.
            let _ = write!(std::io::stderr().lock(), "{}", escape_text(&message));
            if words.iter().any(|word| word == "--json") {
                print_json(&json!({ "error": { "kind": "Usage", "message": message, "exit": 2 } }));
            }
            return ExitCode::from(2);
        }
    };
    memory::settle(&cli.command);
    let output = output(&cli.command);
    let (json, verbose) = (output.json, output.verbose > 0);
    let log = match log::start(output.verbose, output.trace.as_deref()) {
        Ok(log) => log,
        Err(error) => return fail(&error, json, &[]),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let mut secrets = Vec::new();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(async {
            signals::survive_file_limit();
            dispatch(cli.command, &mut secrets).await
        }),
        Err(error) => Err(Error::failed("cannot start the runtime").caused_by(error)),
    };
    if verbose {
        // Nobody reads a closed stderr.
        let _ = writeln!(std::io::stderr().lock(), "{}", log.breakdown.text());
    }
    match result {
        Ok(printed) => {
            let printed = printed.with_time(&log.breakdown);
            if json {
                print_json(&printed.json);
            } else {
                print(&printed.text);
            }
            ExitCode::from(printed.exit)
        }
        Err(error) => fail(&error, json, &secrets),
    }
}

fn fail(error: &Error, json: bool, secrets: &[String]) -> ExitCode {
    let exit = exit_of(error.kind());
    let report = error.report(secrets);
    // Nobody reads a closed stderr.
    let _ = writeln!(std::io::stderr().lock(), "error: {}", escape_text(&report));
    if json {
        let kind = format!("{:?}", error.kind());
        print_json(&json!({ "error": { "kind": kind, "message": report, "exit": exit } }));
    }
    ExitCode::from(exit)
}

fn exit_of(kind: Kind) -> u8 {
    match kind {
        Kind::Usage => 2,
        Kind::Refused => 3,
        Kind::Mismatch => 4,
        Kind::Interrupted => INTERRUPTED,
        Kind::Locked => 6,
        Kind::OutcomeUnknown => 7,
        Kind::Unfinished => 8,
        Kind::Failed | _ => 1,
    }
}

fn print(text: &str) {
    // Nobody reads a closed stdout.
    let _ = writeln!(std::io::stdout().lock(), "{}", escape_text(text));
}

fn print_json(value: &Value) {
    // Nobody reads a closed stdout.
    let _ = writeln!(std::io::stdout().lock(), "{}", escape_json(&value.to_string()));
}

fn output(command: &Command) -> &Output {
    match command {
        Command::Plan { output, .. }
        | Command::Migrate { output, .. }
        | Command::Resume { output, .. }
        | Command::Abort { output, .. }
        | Command::Status { output, .. }
        | Command::Verify { output, .. }
        | Command::Rollback { output, .. }
        | Command::Finalize { output, .. }
        | Command::Tune { output, .. }
        | Command::Sample { output, .. } => output,
    }
}

async fn dispatch(command: Command, secrets: &mut Vec<String>) -> Result<Printed> {
    let default = Settings::default;
    match command {
        Command::Plan { place, changes, engine, output } => {
            plan(place, changes, &engine, &output, secrets).await
        }
        Command::Migrate { place, changes, engine, cutover, output } => {
            let settings = request::settings_to_swap(&engine, &cutover);
            let migration = migration(place, settings, &output, secrets)?;
            let migration = asked(migration, &changes).await?;
            stoppable(migration, |m| Box::pin(async move { m.migrate().await })).await
        }
        Command::Resume { place, changes, engine, cutover, output } => {
            let settings = request::settings_to_swap(&engine, &cutover);
            let migration = migration(place, settings, &output, secrets)?;
            let migration = asked(migration, &changes).await?;
            stoppable(migration, |m| Box::pin(async move { m.resume().await })).await
        }
        Command::Abort { place, output } => {
            let aborted = migration(place, default(), &output, secrets)?.abort().await?;
            Ok(done(show::aborted(&aborted), to_json(&aborted)))
        }
        Command::Status { store, table, output: _ } => status(store, table, secrets).await,
        Command::Verify { place, output } => {
            let verified = migration(place, default(), &output, secrets)?.verify().await?;
            Ok(done(show::verified(&verified), to_json(&verified)))
        }
        Command::Rollback { place, discard_writes, keep_writes, output } => {
            let writes = match (discard_writes, keep_writes) {
                (true, _) => Writes::Discard,
                (_, true) => Writes::Keep,
                _ => Writes::Refuse,
            };
            let migration = migration(place, default(), &output, secrets)?;
            let cancel = cancel_on_signal(migration.told());
            let back = migration.cancel(cancel).rollback(writes).await?;
            Ok(done(show::rolled_back(&back), to_json(&back)))
        }
        Command::Finalize { place, history, output } => {
            let migration = migration(place, default(), &output, secrets)?;
            let finalized = migration.finalize(history).await?;
            Ok(done(show::finalized(&finalized), to_json(&finalized)))
        }
        Command::Tune { place, changes, engine, time, plot, output } => {
            let migration = migration(place, request::settings(&engine), &output, secrets)?;
            let migration = asked(migration, &changes).await?;
            let cancel = cancel_on_signal(migration.told());
            let tuned = migration.cancel(cancel).tune(time).await?;
            if let Some(file) = plot {
                plot::draw(&tuned, &file)?;
            }
            Ok(done(show::tuned(&tuned), to_json(&tuned)))
        }
        Command::Sample { place, rows, dim, fragments, output: _ } => {
            sample(place, Sample { rows, dim, fragments }, secrets).await
        }
    }
}

async fn plan(
    place: Place,
    changes: Changes,
    engine: &Engine,
    output: &Output,
    secrets: &mut Vec<String>,
) -> Result<Printed> {
    let migration = migration(place, request::settings(engine), output, secrets)?;
    let plan = asked(migration, &changes).await?.plan().await?;
    Ok(done(plan.text().trim_end().to_owned(), plan.json()))
}

/// `migration`, with what `changes` asks of it.
async fn asked(migration: Migration, changes: &Changes) -> Result<Migration> {
    let request = request::request(changes)?;
    let migration = migration.request(request);
    match &changes.to {
        None => Ok(migration),
        Some(schema) => migration.to(schema).await,
    }
}

async fn sample(place: Place, sample: Sample, secrets: &mut Vec<String>) -> Result<Printed> {
    let location = Location::try_from(place)?;
    secrets.extend(location.secrets());
    let sampled = sample.make(&location).await?;
    Ok(done(show::sampled(&sampled), to_json(&sampled)))
}

async fn status(
    store: args::Store,
    table: Option<String>,
    secrets: &mut Vec<String>,
) -> Result<Printed> {
    let any = request::location(store, table.as_deref().unwrap_or("any"))?;
    secrets.extend(any.secrets());
    if let Some(table) = table {
        let one = vec![Ok(status_of(&any, &table).await?)];
        return Ok(done(show::status(&one), status_json(&one)));
    }
    let mut all = Vec::new();
    for table in table_names(&any).await? {
        // One that cannot be looked at hides none of the others.
        all.push(status_of(&any, &table).await.map_err(|error| Unknown {
            table,
            message: error.report(secrets),
            exit: exit_of(error.kind()),
        }));
    }
    Ok(done(show::status(&all), status_json(&all)))
}

async fn status_of(any: &Location, table: &str) -> Result<TableStatus> {
    Migration::of(any.sibling(table)?).status().await
}

fn status_json(tables: &[Looked]) -> Value {
    let tables = tables.iter().map(|table| match table {
        Ok(table) => to_json(table),
        Err(Unknown { table, message, exit }) => {
            json!({ "table": table, "error": { "message": message, "exit": exit } })
        }
    });
    json!({ "tables": tables.collect::<Vec<_>>() })
}

fn migration(
    place: Place,
    settings: Settings,
    output: &Output,
    secrets: &mut Vec<String>,
) -> Result<Migration> {
    let location = Location::try_from(place)?;
    secrets.extend(location.secrets());
    Ok(Migration::of(location).settings(settings).progress(progress::of(output)))
}

type Run = std::pin::Pin<Box<dyn Future<Output = Result<Ended>> + Send>>;

/// Runs `run` so that Ctrl-C and a termination stop it cleanly.
async fn stoppable(migration: Migration, run: impl FnOnce(Migration) -> Run) -> Result<Printed> {
    let cancel = cancel_on_signal(migration.told());
    let ended = run(migration.cancel(cancel)).await;
    Ok(ended_printed(&ended?))
}

fn ended_printed(ended: &Ended) -> Printed {
    match ended {
        Ended::Nothing(plan) => done(
            format!("Nothing to do: {}\n{}", escape_line(plan.why()), plan.text().trim_end()),
            json!({ "ended": "nothing", "plan": plan.json() }),
        ),
        Ended::Held(held) => Printed {
            text: show::held(held),
            json: json!({ "ended": "held", "held": to_json(held) }),
            exit: 0,
            timed: true,
        },
        Ended::Swapped(report) => Printed {
            timed: true,
            ..done(show::report(report), json!({ "ended": "swapped", "report": to_json(report) }))
        },
        _ => done("Done".to_owned(), json!({ "ended": "done" })),
    }
}

fn done(text: String, json: Value) -> Printed {
    Printed { text, json, exit: 0, timed: false }
}

fn to_json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_code() {
        let kinds = [
            (Kind::Failed, 1),
            (Kind::Usage, 2),
            (Kind::Refused, 3),
            (Kind::Mismatch, 4),
            (Kind::Interrupted, 5),
            (Kind::Locked, 6),
            (Kind::OutcomeUnknown, 7),
            (Kind::Unfinished, 8),
        ];
        for (kind, exit) in kinds {
            assert_eq!(exit_of(kind), exit, "{kind:?}");
        }
    }
}
