//! Progress on stderr: a bar, plain lines, or JSON lines.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::cli::args::{Output, ProgressArg};
use crate::escape::{escape_json, escape_line};
use crate::plan::amounts::{bytes_text, count_text};
use crate::{Amount, Event, Phase, Progress, SharedProgress, Silent};

/// Seconds between plain lines, and between JSON lines.
const PLAIN_EVERY: Duration = Duration::from_secs(3);
const JSON_EVERY: Duration = Duration::from_secs(1);

/// The progress that `output` asks for.
pub(super) fn of(output: &Output) -> SharedProgress {
    let terminal = std::io::stderr().is_terminal();
    match output.progress {
        ProgressArg::None => Arc::new(Silent),
        ProgressArg::Json => Arc::new(Lines::new(Form::Json, JSON_EVERY)),
        _ if output.quiet => Arc::new(Silent),
        ProgressArg::Bar => Arc::new(Bar::new()),
        ProgressArg::Auto if terminal => Arc::new(Bar::new()),
        ProgressArg::Plain | ProgressArg::Auto => Arc::new(Lines::new(Form::Plain, PLAIN_EVERY)),
    }
}

/// How far a phase is, and how fast it goes.
#[derive(Debug, Clone)]
struct Meter {
    phase: Phase,
    began: Instant,
    total: Amount,
    start: Amount,
    done: Amount,
}

impl Meter {
    fn of(phase: Phase, total: Amount, done: Amount) -> Self {
        Self { phase, began: Instant::now(), total, start: done, done }
    }

    fn advance(&mut self, by: Amount) {
        self.done.rows += by.rows;
        self.done.bytes += by.bytes;
        self.done.chunks += by.chunks;
    }

    /// Rows and bytes a second, of this run.
    fn rates(&self) -> (u64, u64) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |done: u64, start: u64| done.saturating_sub(start).saturating_mul(1000) / millis;
        (rate(self.done.rows, self.start.rows), rate(self.done.bytes, self.start.bytes))
    }

    /// Seconds left, by rows.
    fn eta_seconds(&self) -> Option<u64> {
        let (rows, _) = self.rates();
        let left = self.total.rows.saturating_sub(self.done.rows);
        (rows > 0).then(|| left.div_ceil(rows))
    }

    fn text(&self) -> String {
        let (done, total) = (self.done, self.total);
        let (rows, bytes) = self.rates();
        let percent = (done.rows * 100).checked_div(total.rows).unwrap_or(100);
        let eta = self.eta_seconds().map_or("unknown".to_owned(), seconds_text);
        format!(
            "{percent}%, {} of {} rows, {} rows/s, {}/s, chunks {}/{}, eta {eta}",
            count_text(done.rows),
            count_text(total.rows),
            count_text(rows),
            bytes_text(bytes),
            done.chunks,
            total.chunks,
        )
    }

    fn json(&self) -> serde_json::Value {
        let (rows_rate, bytes_rate) = self.rates();
        json!({
            "event": "progress",
            "phase": self.phase,
            "rows": self.done.rows,
            "rows_total": self.total.rows,
            "bytes": self.done.bytes,
            "chunks": self.done.chunks,
            "chunks_total": self.total.chunks,
            "rows_per_second": rows_rate,
            "bytes_per_second": bytes_rate,
            "eta_seconds": self.eta_seconds(),
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
#[derive(Debug)]
struct Lines {
    form: Form,
    every: Duration,
    state: Mutex<LineState>,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Plain,
    Json,
}

#[derive(Debug, Default)]
struct LineState {
    meter: Option<Meter>,
    told: Option<Instant>,
}

impl Lines {
    fn new(form: Form, every: Duration) -> Self {
        Self { form, every, state: Mutex::default() }
    }

    fn say(&self, plain: impl FnOnce() -> String, json: impl FnOnce() -> serde_json::Value) {
        let line = match self.form {
            Form::Plain => escape_line(&plain()).into_owned(),
            Form::Json => escape_json(&json().to_string()).into_owned(),
        };
        // Nobody reads a closed stderr.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

impl Progress for Lines {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Began { phase, total, done } => {
                state.meter = Some(Meter::of(phase, total, done));
                state.told = Some(Instant::now());
                let text = || match total.rows {
                    0 => phase.to_string(),
                    rows => format!("{phase}: {} rows", count_text(rows)),
                };
                self.say(
                    text,
                    || json!({ "event": "phase", "phase": phase, "rows_total": total.rows }),
                );
            }
            Event::Advanced(by) => {
                let due = state.told.is_none_or(|told| told.elapsed() >= self.every);
                let Some(meter) = &mut state.meter else {
                    return;
                };
                meter.advance(by);
                let complete = by.chunks > 0 && meter.done.chunks == meter.total.chunks;
                if due || complete {
                    self.say(|| format!("{}: {}", meter.phase, meter.text()), || meter.json());
                    state.told = Some(Instant::now());
                }
            }
            Event::Note(text) => {
                self.say(|| format!("  {text}"), || json!({ "event": "note", "text": text }));
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
        let template = "{prefix:>7} {bar:30} {percent:>3}% {msg}";
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
                let text = meter.text();
                let after_percent = text.split_once(", ").map_or("", |(_, rest)| rest);
                self.bar.set_message(after_percent.to_owned());
            }
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

    #[test]
    fn times_read_well() {
        assert_eq!(seconds_text(59), "59s");
        assert_eq!(seconds_text(61), "1m01s");
        assert_eq!(seconds_text(3_661), "1h01m01s");
    }

    #[test]
    fn an_earlier_runs_rows_do_not_count_as_speed() {
        let total = Amount { rows: 100, bytes: 0, chunks: 2 };
        let done = Amount { rows: 50, bytes: 0, chunks: 1 };
        let meter = Meter::of(Phase::Stage, total, done);
        assert_eq!(meter.rates(), (0, 0));
        assert_eq!(meter.eta_seconds(), None);
        assert!(meter.text().starts_with("50%, 50 of 100 rows"));
    }
}
