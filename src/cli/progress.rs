//! Progress on stderr: a bar, plain lines, or JSON lines.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::SecondsFormat;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::JSON_VERSION;
use crate::cli::args::{Output, ProgressArg};
use crate::clock::{Clock as _, SystemClock};
use crate::escape::{escape_json, escape_line};
use crate::meter::Meter;
use crate::plan::amounts::{bytes_text, count_text, counted};
use crate::{Event, Phase, Progress, SharedProgress, Silent};

/// Time between JSON lines.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// Time between plain lines, in a run's first minute and after it: a log of hours is read too.
const PLAIN_EVERY: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(30));
const AT_FIRST: Duration = Duration::from_mins(1);

/// The progress of a run on `table` that `output` asks for.
pub(super) fn of(output: &Output, table: &str) -> SharedProgress {
    // Nobody reads a closed stderr.
    let print = |line: String| drop(writeln!(std::io::stderr().lock(), "{line}"));
    let lines = |form| Arc::new(Lines::new(form, table, print));
    let terminal = std::io::stderr().is_terminal();
    match output.progress {
        ProgressArg::None => Arc::new(Silent),
        ProgressArg::Json => lines(Form::Json),
        _ if output.quiet => Arc::new(Silent),
        ProgressArg::Bar => Arc::new(Bar::new()),
        ProgressArg::Auto if terminal => Arc::new(Bar::new()),
        ProgressArg::Plain | ProgressArg::Auto => lines(Form::Plain),
    }
}

/// The events of a run on `table` as `--progress json` prints them, each given to `tell` without the line's end.
/// `tell` must not block.
pub fn json_events(table: &str, tell: impl Fn(String) + Send + Sync + 'static) -> SharedProgress {
    Arc::new(Lines::new(Form::Json, table, tell))
}

impl Meter {
    fn text(&self) -> String {
        let (done, total) = (self.rows_done(), self.total.rows);
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        format!(
            "{percent}%, {} of {} rows, {}",
            count_text(done),
            count_text(total),
            self.parts().join(", ")
        )
    }

    /// What is told of the speed, with what matters most first: a narrow terminal shows the beginning.
    fn parts(&self) -> [String; 4] {
        let speed = self.speed(self.began.elapsed());
        let eta = speed.eta_seconds.map_or("unknown".to_owned(), seconds_text);
        [
            format!("eta {eta}"),
            format!("{}/s", bytes_text(speed.bytes)),
            format!("chunks {}/{}", self.done.chunks, self.total.chunks),
            format!("{} rows/s", count_text(speed.rows)),
        ]
    }

    fn json(&self) -> Value {
        let speed = self.speed(self.began.elapsed());
        json!({
            "event": "progress",
            "phase": self.phase,
            "rows": self.rows_done(),
            "rows_total": self.total.rows,
            "bytes": self.done.bytes,
            "chunks": self.done.chunks,
            "chunks_total": self.total.chunks,
            "rows_per_second": speed.rows,
            "bytes_per_second": speed.bytes,
            "eta_seconds": speed.eta_seconds,
        })
    }
}

pub(super) fn seconds_text(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, s) => format!("{h}h{m:02}m{s:02}s"),
    }
}

/// One line an event, and a line of progress every so often.
struct Lines<T> {
    form: Form,
    table: String,
    began: Instant,
    state: Mutex<LineState>,
    tell: T,
}

impl<T> fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { form, table, .. } = self;
        f.debug_struct("Lines").field("form", form).field("table", table).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Plain,
    Json,
}

impl Form {
    /// The time between lines of progress, so long after the run began.
    fn every(self, since: Duration) -> Duration {
        match self {
            Self::Json => JSON_EVERY,
            Self::Plain if since < AT_FIRST => PLAIN_EVERY.0,
            Self::Plain => PLAIN_EVERY.1,
        }
    }
}

#[derive(Debug, Default)]
struct LineState {
    migration: Option<String>,
    meter: Option<Meter>,
    told: Option<Instant>,
}

impl<T: Fn(String)> Lines<T> {
    fn new(form: Form, table: &str, tell: T) -> Self {
        let (table, began, state) = (table.to_owned(), Instant::now(), Mutex::default());
        Self { form, table, began, state, tell }
    }

    fn say(&self, id: Option<&str>, plain: impl FnOnce() -> String, json: impl FnOnce() -> Value) {
        let (table, now) = (&self.table, SystemClock.now());
        let line = match self.form {
            Form::Plain => {
                let time = now.to_rfc3339_opts(SecondsFormat::Secs, true);
                escape_line(&format!("{time} {table}: {}", plain())).into_owned()
            }
            Form::Json => {
                let time = now.to_rfc3339_opts(SecondsFormat::Millis, true);
                let version = JSON_VERSION;
                let mut event = json!({
                    "json_version": version, "time": time, "table": table, "migration": id,
                });
                if let (Value::Object(event), Value::Object(more)) = (&mut event, json()) {
                    event.extend(more);
                }
                escape_json(&event.to_string()).into_owned()
            }
        };
        (self.tell)(line);
    }
}

impl<T: Fn(String) + Send + Sync> Progress for Lines<T> {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let id = state.migration.clone();
        match event {
            Event::Migration(id) => state.migration = Some(id),
            Event::Began { phase, total, done } => {
                state.meter = Some(Meter::of(phase, total, done));
                state.told = Some(Instant::now());
                let text = || match total.rows {
                    0 => phase.to_string(),
                    rows => format!("{phase}: {}", counted(rows, "row")),
                };
                self.say(
                    id.as_deref(),
                    text,
                    || json!({ "event": "phase", "phase": phase, "rows_total": total.rows }),
                );
            }
            Event::Advanced(by) => {
                let every = self.form.every(self.began.elapsed());
                let due = state.told.is_none_or(|told| told.elapsed() >= every);
                let Some(meter) = &mut state.meter else {
                    return;
                };
                meter.advance(by);
                let complete = by.chunks > 0 && meter.done.chunks == meter.total.chunks;
                if due || complete {
                    let text = || format!("{}: {}", meter.phase, meter.text());
                    self.say(id.as_deref(), text, || meter.json());
                    state.told = Some(Instant::now());
                }
            }
            Event::Note(text) => {
                let json = || json!({ "event": "note", "text": text });
                self.say(id.as_deref(), || text.clone(), json);
            }
        }
    }
}

/// A bar on a terminal.
#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    meter: Mutex<Option<Meter>>,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        // The message is cut where the terminal ends.
        let template = "{prefix:>8} {bar:12} {percent:>3}% {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self { bar, meter: Mutex::new(None) }
    }
}

impl Progress for Bar {
    fn event(&self, event: Event) {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Began { phase: Phase::Done, .. } => self.bar.finish_and_clear(),
            Event::Began { phase, total, done } => {
                self.bar.set_prefix(phase.name());
                self.bar.set_message("");
                self.bar.set_length(total.rows.max(total.chunks).max(1));
                self.bar.set_position(done.rows);
                *meter = Some(Meter::of(phase, total, done));
            }
            Event::Advanced(by) => {
                let Some(meter) = meter.as_mut() else { return };
                meter.advance(by);
                let position =
                    if meter.total.rows > 0 { meter.done.rows } else { meter.done.chunks };
                self.bar.set_position(position);
                self.bar.set_message(meter.parts().join(", "));
            }
            Event::Migration(_) => {}
            Event::Note(text) => self.bar.println(format!("  {}", escape_line(&text))),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Amount;

    #[test]
    fn times_read_well() {
        assert_eq!(seconds_text(59), "59s");
        assert_eq!(seconds_text(61), "1m01s");
        assert_eq!(seconds_text(3_661), "1h01m01s");
    }

    #[test]
    fn plain_lines_become_sparser_and_the_bar_fits_a_narrow_terminal() {
        let every = |since| Form::Plain.every(Duration::from_secs(since)).as_secs();
        assert_eq!([every(0), every(59), every(60), every(9_000)], [3, 3, 30, 30]);
        assert_eq!(Form::Json.every(Duration::from_mins(9)), JSON_EVERY);
        let total = Amount { rows: 1 << 40, bytes: 1 << 50, chunks: 1_000 };
        let parts = Meter::of(Phase::CatchUp, total, Amount::default()).parts();
        let drawn = format!("catch-up {} 100% {}, {}", "━".repeat(12), parts[0], parts[1]);
        assert!(drawn.chars().count() <= 60, "{drawn}");
    }

    #[test]
    fn an_earlier_runs_rows_do_not_count_as_speed() {
        let total = Amount { rows: 100, bytes: 0, chunks: 2 };
        let done = Amount { rows: 50, bytes: 0, chunks: 1 };
        let mut meter = Meter::of(Phase::Stage, total, done);
        let speed = meter.speed(Duration::from_secs(1));
        assert_eq!((speed.rows, speed.bytes), (0, 0));
        assert_eq!(speed.eta_seconds, None);
        assert!(meter.text().starts_with("50%, 50 of 100 rows"));
        meter.advance(Amount { rows: 70, bytes: 0, chunks: 0 });
        assert!(meter.text().starts_with("100%, 100 of 100 rows"), "a chunk was done twice");
    }
}
