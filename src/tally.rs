//! How far a run is, for whoever asks while it goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::progress::{Amount, Event, Progress, SharedProgress};
use crate::spent::{self, Spent};
use crate::{error::redact, phase::Phase};

/// How far a run is in its phase, and how fast it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunFigures {
    /// The phase.
    pub phase: Phase,
    /// Rows done in it, those of chunks in progress among them, and by earlier runs.
    pub rows_done: u64,
    /// Rows in all; 0 where a phase has no rows.
    pub rows: u64,
    /// Rows a second since the phase began in this run.
    pub rows_per_second: u64,
    /// Bytes of record batches a second, likewise.
    pub bytes_per_second: u64,
    /// Seconds left at this rate; `None` before it is known.
    pub eta_seconds: Option<u64>,
    /// What the workers waited for longest in this phase; `None` in its first second.
    pub limited_by: Option<String>,
}

/// What a run has told of its phase so far.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Option<Told>>);

#[derive(Debug)]
struct Told {
    phase: Phase,
    began: Instant,
    before: Spent,
    total: Amount,
    start: Amount,
    done: Amount,
}

impl Tally {
    /// Takes in an event.
    pub(crate) fn hear(&self, event: &Event) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Began { phase, total, done } => {
                let (began, before) = (Instant::now(), spent::now());
                let (phase, total, start, done) = (*phase, *total, *done, *done);
                *told = Some(Told { phase, began, before, total, start, done });
            }
            Event::Advanced(by) => {
                if let Some(told) = told.as_mut() {
                    told.done.rows += by.rows;
                    told.done.bytes += by.bytes;
                }
            }
            Event::Note(_) | Event::Migration(_) => {}
        }
    }

    /// How far it is; `None` before its first phase.
    pub(crate) fn figures(&self) -> Option<RunFigures> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.as_ref()?;
        Some(told.figures(told.began.elapsed(), spent::now().since(&told.before).limit()))
    }
}

impl Told {
    fn figures(&self, passed: Duration, limit: Option<&str>) -> RunFigures {
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |done: u64, start: u64| done.saturating_sub(start).saturating_mul(1000) / millis;
        let rows_per_second = rate(self.done.rows, self.start.rows);
        // A chunk that is tried again is told of twice.
        let rows_done = self.done.rows.min(self.total.rows);
        let left = self.total.rows - rows_done;
        RunFigures {
            phase: self.phase,
            rows_done,
            rows: self.total.rows,
            rows_per_second,
            bytes_per_second: rate(self.done.bytes, self.start.bytes),
            eta_seconds: (rows_per_second > 0).then(|| left.div_ceil(rows_per_second)),
            limited_by: limit.map(str::to_owned),
        }
    }
}

/// Counts events and passes them on, with every secret replaced: stores repeat requests in their errors.
#[derive(Debug)]
pub(crate) struct Tallied {
    /// Who is told.
    pub to: SharedProgress,
    /// What must never be told.
    pub secrets: Vec<String>,
    /// What counts.
    pub tally: Arc<Tally>,
}

impl Progress for Tallied {
    fn event(&self, event: Event) {
        self.tally.hear(&event);
        self.to.event(match event {
            Event::Note(text) => Event::Note(redact(&text, &self.secrets)),
            Event::Began { .. } | Event::Advanced(_) | Event::Migration(_) => event,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_move_within_a_chunk_and_count_this_run_alone() {
        let tally = Tally::default();
        assert_eq!(tally.figures(), None);
        let amount = |rows| Amount { rows, bytes: rows * 10, chunks: 0 };
        let (total, done) = (amount(1_000), amount(400));
        tally.hear(&Event::Began { phase: Phase::Stage, total, done });
        tally.hear(&Event::Advanced(amount(100)));
        let told = tally.0.lock().unwrap();
        let figures = told.as_ref().unwrap().figures(Duration::from_secs(2), Some("commits"));
        let text = serde_json::to_string(&figures).unwrap();
        let wanted = r#"{"phase":"stage","rows_done":500,"rows":1000,"rows_per_second":50,"bytes_per_second":500,"eta_seconds":10,"limited_by":"commits"}"#;
        assert_eq!(text, wanted);
        assert_eq!(serde_json::from_str::<RunFigures>(&text).unwrap(), figures);
    }
}
