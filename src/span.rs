//! What a run does at a moment, as spans of one tracing target. Each is open for as long as it lasts,
//! whatever thread it is on: who listens can tell where the time goes, and draw it.

use tracing::{Span, info_span};

/// The target of the spans. Their names are those of [`SPANS`].
pub const SPAN_TARGET: &str = "relance.time";

/// The names of the spans: trying the changes on the data, waiting for the source's rows, transforming
/// them and taking digests, encoding and writing, reading back, building indices, committing, waiting for
/// `--max-rate`, and waiting for `--memory`.
pub const SPANS: [&str; 9] =
    ["plan", "scan", "transform", "write", "verify", "index", "commit", "throttled", "memory"];

pub(crate) fn plan() -> Span {
    info_span!(target: SPAN_TARGET, "plan")
}

pub(crate) fn scan() -> Span {
    info_span!(target: SPAN_TARGET, "scan")
}

pub(crate) fn transform() -> Span {
    info_span!(target: SPAN_TARGET, "transform")
}

pub(crate) fn write() -> Span {
    info_span!(target: SPAN_TARGET, "write")
}

pub(crate) fn verify() -> Span {
    info_span!(target: SPAN_TARGET, "verify")
}

pub(crate) fn index() -> Span {
    info_span!(target: SPAN_TARGET, "index")
}

pub(crate) fn commit() -> Span {
    info_span!(target: SPAN_TARGET, "commit")
}

pub(crate) fn throttled() -> Span {
    info_span!(target: SPAN_TARGET, "throttled")
}

pub(crate) fn memory() -> Span {
    info_span!(target: SPAN_TARGET, "memory")
}
