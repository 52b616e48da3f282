//! Requests to an object store, and their bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::phase::Phase;
use crate::plan::amounts::{bytes_text, count_text};

/// What is asked of a store. A listing of more than a thousand objects is several requests, and counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Get,
    Head,
    List,
    Put,
    /// A part of an upload.
    Part,
    /// The beginning or the end of an upload in parts.
    Post,
    /// Many objects may go by one.
    Delete,
    Copy,
}

const REQUESTS: [(Request, &str); 8] = [
    (Request::Get, "GET"),
    (Request::Head, "HEAD"),
    (Request::List, "LIST"),
    (Request::Put, "PUT"),
    (Request::Part, "PUT part"),
    (Request::Post, "POST"),
    (Request::Delete, "DELETE"),
    (Request::Copy, "COPY"),
];

impl Request {
    /// Whether it may carry so many bytes that they take their time.
    pub(crate) fn is_large(self) -> bool {
        matches!(self, Self::Get | Self::Put | Self::Part | Self::Copy | Self::Post)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            REQUESTS.iter().find(|(request, _)| request == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// What was asked of a store so far, by the phase it was asked in.
#[derive(Debug, Default)]
pub(crate) struct Traffic(Mutex<BTreeMap<Phase, Counts>>);

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    requests: [u64; REQUESTS.len()],
    sent: u64,
    received: u64,
}

/// Requests to an object store, and bytes that went there and came back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreFigures {
    /// Requests by their kind, those that were tried again counted each time.
    pub requests: BTreeMap<String, u64>,
    /// Bytes of objects that were sent.
    pub bytes_sent: u64,
    /// Bytes of objects that came back.
    pub bytes_received: u64,
    /// The same by phase, in order; what is tidied after the swap counts as its.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseFigures>,
}

/// What one phase asked of an object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PhaseFigures {
    /// The phase.
    pub phase: Phase,
    /// What it asked.
    #[serde(flatten)]
    pub figures: StoreFigures,
}

impl StoreFigures {
    /// In words: `12 GET, 3 PUT; 1.2 MiB sent, 3 KiB received`.
    pub fn text(&self) -> String {
        let requests =
            self.requests.iter().map(|(kind, count)| format!("{} {kind}", count_text(*count)));
        let requests = requests.collect::<Vec<_>>().join(", ");
        let (sent, received) = (bytes_text(self.bytes_sent), bytes_text(self.bytes_received));
        format!("{requests}; {sent} sent, {received} received")
    }
}

impl Counts {
    fn figures(&self) -> StoreFigures {
        let named = REQUESTS.iter().zip(self.requests).filter(|(_, count)| *count > 0);
        let requests = named.map(|((_, name), count)| ((*name).to_owned(), count)).collect();
        let (bytes_sent, bytes_received) = (self.sent, self.received);
        StoreFigures { requests, bytes_sent, bytes_received, phases: Vec::new() }
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in self.requests.iter_mut().zip(other.requests) {
            *sum += more;
        }
        self.sent += other.sent;
        self.received += other.received;
    }
}

impl Traffic {
    fn change(&self, phase: Phase, change: impl FnOnce(&mut Counts)) {
        let mut phases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(phases.entry(phase).or_default());
    }

    pub(super) fn count(&self, phase: Phase, request: Request) {
        let place = REQUESTS.iter().position(|(known, _)| *known == request);
        self.change(phase, |counts| {
            if let Some(count) = place.and_then(|place| counts.requests.get_mut(place)) {
                *count += 1;
            }
        });
    }

    pub(super) fn sent(&self, phase: Phase, bytes: u64) {
        self.change(phase, |counts| counts.sent += bytes);
    }

    pub(super) fn received(&self, phase: Phase, bytes: u64) {
        self.change(phase, |counts| counts.received += bytes);
    }

    /// Logs what was asked so far, by phase.
    pub(crate) fn log(&self) {
        for one in self.figures().into_iter().flat_map(|figures| figures.phases) {
            tracing::info!("requests of `{}`: {}", one.phase, one.figures.text());
        }
    }

    /// What was asked so far; `None`, if nothing was.
    pub(crate) fn figures(&self) -> Option<StoreFigures> {
        let phases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Counts::default();
        phases.values().for_each(|counts| all.add(counts));
        let one = |(phase, counts): (&Phase, &Counts)| PhaseFigures {
            phase: *phase,
            figures: counts.figures(),
        };
        let phases: Vec<_> = phases.iter().map(one).collect();
        (!phases.is_empty()).then(|| StoreFigures { phases, ..all.figures() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind_and_phase() {
        let traffic = Traffic::default();
        assert_eq!(traffic.figures(), None);
        for (phase, request) in [
            (Phase::Stage, Request::Get),
            (Phase::Plan, Request::Put),
            (Phase::Stage, Request::Get),
        ] {
            traffic.count(phase, request);
        }
        traffic.sent(Phase::Stage, 7);
        let figures = traffic.figures().unwrap();
        assert_eq!(figures.text(), "2 GET, 1 PUT; 7 B sent, 0 B received");
        let phases: Vec<_> =
            figures.phases.iter().map(|one| (one.phase, one.figures.text())).collect();
        let wanted = [
            (Phase::Plan, "1 PUT; 0 B sent, 0 B received".to_owned()),
            (Phase::Stage, "2 GET; 7 B sent, 0 B received".to_owned()),
        ];
        assert_eq!(phases, wanted);
    }
}
