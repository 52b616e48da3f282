//! The `relance` command, callable: what it reads, what it prints, and its exit codes.
//!
//! [`run`] is the command as a function. It prints to stdout and stderr as the command does, and neither
//! ends the process nor needs it for itself: it can be called again.

mod args;
mod breakdown;
mod changes;
mod log;
mod memory;
mod papers;
mod plot;
mod progress;
mod request;
mod show;
mod signals;
mod status;
mod usage;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use crate::cli::args::{Asked, Changes, Cli, Command, Output, TableArg};
use crate::cli::breakdown::Breakdown;
pub use crate::cli::progress::json_events;
use crate::cli::signals::Signals;
use crate::escape::{escape_json, escape_line, escape_text};
use crate::{Ended, Error, Location, Migration, Prices, Result, Sample, Settings, Writes};

/// The form of what `--json` and `--progress json` print. It changes when a field goes or means something else.
const JSON_VERSION: u32 = 1;

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

/// Runs the command with the arguments `args`, the first of which is its own name, and returns its exit code.
///
/// A migration stops cleanly at the first Ctrl-C or SIGTERM; at the second this returns while the rest of it
/// goes on to its next safe place on a thread of its own. Handlers of these signals that were there before
/// are called too. In the first call `tracing`'s global subscriber and a panic hook are set up for the whole
/// process, where no subscriber is set; outside of runs they pass everything by.
pub fn run<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> ExitCode {
    run_with(args, |_| {}).into()
}

/// As [`run`], with the exit code as a number. Before anything else is started, `keep_freed` is told how long
/// the allocator had best keep freed memory, if the command has a wish.
pub fn run_with<A: Into<OsString>>(
    args: impl IntoIterator<Item = A>,
    keep_freed: impl FnOnce(Duration),
) -> u8 {
    let _panics = log::escape_panics();
    let words: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let command = match Cli::try_parse_from(&words) {
        Ok(Cli { asked: Asked::Run(command) }) => *command,
        Ok(Cli { asked: Asked::Print(paper) }) => {
            return papers::print(&paper).map_or_else(|error| fail(&error, false, &[]), |()| 0);
        }
        Err(error) => return not_understood(&error, &words),
    };
    if let Some(delay) = memory::purge_delay(&command) {
        keep_freed(delay);
    }
    let output = output(&command);
    let (json, verbose) = (output.json, output.verbose > 0);
    let log = match log::start(output.verbose, output.trace.as_deref()) {
        Ok(log) => log,
        Err(error) => return fail(&error, json, &[]),
    };
    let Some(Answer { result, secrets }) = answer(command) else {
        return INTERRUPTED;
    };
    if verbose {
        // Nobody reads a closed stderr.
        let _ = writeln!(std::io::stderr().lock(), "{}", log.breakdown().text());
    }
    match result {
        Ok(printed) => {
            let printed = printed.with_time(log.breakdown());
            if json {
                print_json(printed.json);
            } else {
                print(&printed.text);
            }
            printed.exit
        }
        Err(error) => fail(&error, json, &secrets),
    }
}

/// Prints why the arguments `words` are not a command, or the help that they ask for.
fn not_understood(error: &clap::Error, words: &[OsString]) -> u8 {
    if !error.use_stderr() {
        // Help. A closed stream is no reason to fail differently.
        let _ = error.print();
        return 0;
    }
    let words = words.iter().map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = words.collect();
    let message = usage::told(error, &words);
    // Nobody reads a closed stderr.
    let _ = write!(std::io::stderr().lock(), "{}", escape_text(&message));
    if words.iter().any(|word| word == "--json") {
        print_json(json!({ "error": { "kind": "usage", "message": message, "exit": 2 } }));
    }
    2
}

/// How a command ended by itself.
struct Answer {
    result: Result<Printed>,
    /// What must not be printed.
    secrets: Vec<String>,
}

/// Bytes of the command's stack: as many as the main thread of a process has on Linux.
const STACK_BYTES: usize = 8 << 20;

/// Runs `command` to its end; `None`, when a second signal came before. It has a thread of its own, which
/// is left behind then: it may wait for a store that never answers.
fn answer(command: Command) -> Option<Answer> {
    let (ended, end) = channel();
    let mut caller = Caller { secrets: Vec::new(), ended };
    let work = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(async {
                signals::survive_file_limit();
                dispatch(command, &mut caller).await
            }),
            Err(error) => Err(Error::failed("cannot start the runtime").caused_by(error)),
        };
        let Caller { secrets, ended } = caller;
        // Nobody listens after a second signal.
        let _ = ended.send(Some(Answer { result, secrets }));
    });
    let work = match work {
        Ok(work) => work,
        Err(error) => {
            let result = Err(Error::failed("cannot start a thread").caused_by(error));
            return Some(Answer { result, secrets: Vec::new() });
        }
    };
    match end.recv() {
        Ok(answer) => answer,
        // Only a panic ends it without an answer; the caller's thread goes on with it.
        Err(_) => work.join().err().and_then(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Whoever waits for a command.
struct Caller {
    /// What must not be printed, as far as it is known.
    secrets: Vec<String>,
    /// Hears how the command ended, or `None` when nobody is to wait for it any more.
    ended: Sender<Option<Answer>>,
}

fn fail(error: &Error, json: bool, secrets: &[String]) -> u8 {
    // Nobody reads a closed stderr.
    let _ = writeln!(std::io::stderr().lock(), "error: {}", escape_text(&error.report(secrets)));
    if json {
        print_json(json!({ "error": error.json(secrets) }));
    }
    error.kind().exit()
}

fn print(text: &str) {
    if text.is_empty() {
        return;
    }
    // Nobody reads a closed stdout.
    let _ = writeln!(std::io::stdout().lock(), "{}", escape_text(text));
}

fn print_json(mut value: Value) {
    if value.is_null() {
        return;
    }
    if let Value::Object(object) = &mut value {
        object.insert("json_version".to_owned(), JSON_VERSION.into());
    }
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

async fn dispatch(command: Command, caller: &mut Caller) -> Result<Printed> {
    match command {
        Command::Plan { place, changes, out, price, try_store, engine, output } => {
            let settings = Settings { try_store, ..request::settings(&engine) };
            let migration = migration(place, settings, &output, caller)?;
            let migration = asked(migration, &changes).await?;
            planned(migration, caller, out.as_deref(), price).await
        }
        Command::Migrate { place, changes, plan, dry_run, engine, cutover, output } => {
            let settings = request::settings_to_swap(&engine, &cutover);
            let migration = migration(place, settings, &output, caller)?;
            let migration = match plan {
                Some(file) => migration.planned(request::saved_plan(&file)?),
                None => asked(migration, &changes).await?,
            };
            if dry_run {
                return planned(migration, caller, None, None).await;
            }
            let ended = stoppable(migration, caller, async |m| m.migrate().await).await?;
            Ok(ended_printed(&ended))
        }
        Command::Resume { place, changes, engine, cutover, output } => {
            let settings = request::settings_to_swap(&engine, &cutover);
            let migration = migration(place, settings, &output, caller)?;
            let migration = asked(migration, &changes).await?;
            let ended = stoppable(migration, caller, async |m| m.resume().await).await?;
            Ok(ended_printed(&ended))
        }
        Command::Abort { place, output } => {
            let migration = migration(place, Settings::default(), &output, caller)?;
            let aborted = stoppable(migration, caller, async |m| m.abort().await).await?;
            Ok(done(show::aborted(&aborted), to_json(&aborted)))
        }
        Command::Status { store, table, watch, output } => {
            status::status(store, table.as_deref(), watch, output.json, caller).await
        }
        Command::Verify { place, limits, output } => {
            let settings = request::settings_within(&limits);
            let migration = migration(place, settings, &output, caller)?;
            let verified = stoppable(migration, caller, async |m| m.verify().await).await?;
            Ok(done(show::verified(&verified), to_json(&verified)))
        }
        Command::Rollback { place, discard_writes, keep_writes, limits, output } => {
            let kept = if keep_writes { Writes::Keep } else { Writes::Refuse };
            let writes = if discard_writes { Writes::Discard } else { kept };
            let settings = request::settings_within(&limits);
            let migration = migration(place, settings, &output, caller)?;
            let back = stoppable(migration, caller, async |m| m.rollback(writes).await).await?;
            Ok(done(show::rolled_back(&back), to_json(&back)))
        }
        Command::Finalize { place, history, output } => {
            let migration = migration(place, Settings::default(), &output, caller)?;
            let finalized =
                stoppable(migration, caller, async |m| m.finalize(history).await).await?;
            Ok(done(show::finalized(&finalized), to_json(&finalized)))
        }
        Command::Tune { place, changes, engine, time, plot, output } => {
            let migration = migration(place, request::settings(&engine), &output, caller)?;
            let migration = asked(migration, &changes).await?;
            let tuned = stoppable(migration, caller, async |m| m.tune(time).await).await?;
            if let Some(file) = plot {
                plot::draw(&tuned, &file)?;
            }
            Ok(done(show::tuned(&tuned), to_json(&tuned)))
        }
        Command::Sample { place, rows, dim, fragments, output: _ } => {
            sampled(place, Sample { rows, dim, fragments }, caller).await
        }
    }
}

async fn sampled(place: TableArg, sample: Sample, caller: &mut Caller) -> Result<Printed> {
    let location = location(place, caller)?;
    let sampled = sample.make(&location).await?;
    Ok(done(show::sampled(&sampled), to_json(&sampled)))
}

/// The plan of `migration`, which is written to `out` too.
async fn planned(
    migration: Migration,
    caller: &Caller,
    out: Option<&Path>,
    price: Option<Prices>,
) -> Result<Printed> {
    let mut plan = stoppable(migration, caller, async |m| m.plan().await).await?;
    plan.store = plan.store.map(|store| store.at(&price.unwrap_or_default()));
    if let Some(out) = out {
        let text = format!("{:#}\n", to_json(&plan.saved()));
        std::fs::write(out, text).map_err(|error| {
            Error::usage(format!("--out: cannot write {}", out.display())).caused_by(error)
        })?;
    }
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

fn location(place: TableArg, caller: &mut Caller) -> Result<Location> {
    let location = Location::try_from(place)?;
    caller.secrets.extend(location.secrets());
    log::hide(&caller.secrets);
    Ok(location)
}

fn migration(
    place: TableArg,
    settings: Settings,
    output: &Output,
    caller: &mut Caller,
) -> Result<Migration> {
    let location = location(place, caller)?;
    let progress = progress::of(output, location.table());
    Ok(Migration::of(location).settings(settings).progress(progress))
}

/// Runs `act` on `migration`, so that signals stop it.
async fn stoppable<R>(
    migration: Migration,
    caller: &Caller,
    act: impl AsyncFnOnce(Migration) -> Result<R>,
) -> Result<R> {
    let ended = caller.ended.clone();
    let leave = move || {
        // Nobody waits for a command that has ended.
        let _ = ended.send(None);
    };
    let signals = Signals::listen(migration.told(), leave);
    Box::pin(act(migration.cancel(signals.cancel()))).await
}

fn ended_printed(ended: &Ended) -> Printed {
    match ended {
        Ended::Nothing(plan) => {
            let why = escape_line(plan.why());
            done(format!("Nothing to do: {why}\n{}", plan.text().trim_end()), ended.json())
        }
        Ended::Held(held) => Printed { timed: true, ..done(show::held(held), ended.json()) },
        Ended::Swapped(report) => {
            Printed { timed: true, ..done(show::report(report), ended.json()) }
        }
    }
}

fn done(text: String, json: Value) -> Printed {
    Printed { text, json, exit: 0, timed: false }
}

fn to_json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
