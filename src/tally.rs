//! How far a run is, for whoever asks while it goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::meter::Meter;
use crate::progress::{Event, Progress, SharedProgress};
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
    meter: Meter,
    before: Spent,
}

impl Tally {
    /// Takes in an event.
    pub(crate) fn hear(&self, event: &Event) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Began { phase, total, done } => {
                let (meter, before) = (Meter::of(*phase, *total, *done), spent::now());
                *told = Some(Told { meter, before });
            }
            Event::Advanced(by) => {
                if let Some(told) = told.as_mut() {
                    told.meter.advance(*by);
                }
            }
            Event::Note(_) | Event::Migration(_) => {}
        }
    }

    /// Its phase; `None` before the first.
    pub(crate) fn phase(&self) -> Option<Phase> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.as_ref().map(|told| told.meter.phase)
    }

    /// How far it is; `None` before its first phase.
    pub(crate) fn figures(&self) -> Option<RunFigures> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.as_ref()?;
        Some(told.figures(told.meter.began.elapsed(), spent::now().since(&told.before).limit()))
    }
}

impl Told {
    fn figures(&self, passed: Duration, limit: Option<&str>) -> RunFigures {
        let (meter, speed) = (&self.meter, self.meter.speed(passed));
        RunFigures {
            phase: meter.phase,
            rows_done: meter.rows_done(),
            rows: meter.total.rows,
            rows_per_second: speed.rows,
            bytes_per_second: speed.bytes,
            eta_seconds: speed.eta_seconds,
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
    use crate::progress::Amount;

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
