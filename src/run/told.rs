//! What is told once everything is verified.

use crate::phase::Phase;
use crate::plan::amounts::{bytes_text, counted};
use crate::progress::Event;
use crate::run::{context::Context, session::Session};
use crate::settings::Verify;

/// Tells how much was verified, and how.
pub(crate) fn tell_verified(ctx: &Context, session: &Session) {
    if session.plan.chunks.is_empty() {
        return;
    }
    let plan = &session.plan;
    let (rows, chunks) = (counted(plan.rows, "row"), counted(plan.chunks.len() as u64, "chunk"));
    let nulled = session.values_nulled();
    let confirmed = session.journal.records().map(|record| record.confirmed).sum();
    let mut how = match (ctx.settings.verify, nulled.is_empty()) {
        (Verify::Quick, _) => "counts and first rows read back",
        (_, true) if confirmed == 0 => "every value read back and equal",
        (_, true) => "every value equal",
        // What was made of some is not what they were.
        (_, false) if confirmed == 0 => "every value read back and equal to what was made",
        (_, false) => "every value equal to what was made",
    }
    .to_owned();
    if confirmed > 0 {
        let bytes = bytes_text(confirmed);
        how = format!("{how}; {bytes} not read back: the store's own checksums confirm them");
    }
    for nulled in &nulled {
        how = format!("{how}; {}", nulled.text());
    }
    let total = session.plan.amount_of(&session.plan.chunks);
    ctx.progress.event(Event::Began { phase: Phase::Verify, total, done: total });
    ctx.say(format!("verified {rows} in {chunks}: {how}"));
}
