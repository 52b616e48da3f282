//! What a run does at a moment, as spans of one tracing target. Each is open for as long as it lasts,
//! whatever thread it is on: who listens can tell where the time goes, and draw it.

use tracing::{Span, info_span};

use crate::spent::{GoesOn, Part};

/// The target of the spans. Their names are those of [`SPANS`](crate::SPANS).
pub const SPAN_TARGET: &str = "relance.time";

/// A span that is open, and counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Doing {
    _goes_on: GoesOn,
    _span: Span,
}

impl Doing {
    fn of(part: Part, span: Span) -> Self {
        Self { _goes_on: GoesOn::begin(part), _span: span }
    }
}

pub(crate) fn plan() -> Doing {
    Doing::of(Part::Plan, info_span!(target: SPAN_TARGET, "plan"))
}

pub(crate) fn scan() -> Doing {
    Doing::of(Part::Scan, info_span!(target: SPAN_TARGET, "scan"))
}

pub(crate) fn transform() -> Doing {
    Doing::of(Part::Transform, info_span!(target: SPAN_TARGET, "transform"))
}

pub(crate) fn write() -> Doing {
    Doing::of(Part::Write, info_span!(target: SPAN_TARGET, "write"))
}

pub(crate) fn verify() -> Doing {
    Doing::of(Part::Verify, info_span!(target: SPAN_TARGET, "verify"))
}

pub(crate) fn index() -> Doing {
    Doing::of(Part::Index, info_span!(target: SPAN_TARGET, "index"))
}

pub(crate) fn commit() -> Doing {
    Doing::of(Part::Commit, info_span!(target: SPAN_TARGET, "commit"))
}

pub(crate) fn throttled() -> Doing {
    Doing::of(Part::Throttled, info_span!(target: SPAN_TARGET, "throttled"))
}

pub(crate) fn memory() -> Doing {
    Doing::of(Part::Memory, info_span!(target: SPAN_TARGET, "memory"))
}

/// Somebody waits for rows: what hands them on holds him up meanwhile. No span of its own.
pub(crate) fn starved() -> GoesOn {
    GoesOn::begin(Part::Starved)
}
