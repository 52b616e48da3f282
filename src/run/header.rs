//! What the journal of a new migration begins with.

use crate::journal::{Header, LAYOUT, Undo};
use crate::plan::Request;
use crate::run::{context::Context, planning::Planned};
use crate::settings::ROWS_PER_FILE;
use crate::transform::digest::DIGEST_VERSION;

/// The header of what is `planned`, for the migration `id`, which takes another one back where it is an `undo`.
pub(super) fn header_of(
    ctx: &Context,
    planned: &Planned,
    id: String,
    undo: Option<Undo>,
) -> Header {
    let Planned { plan, live, .. } = planned;
    let request = Request {
        changes: plan.target.changes.clone(),
        strategy: Some(plan.strategy),
        ..ctx.request.clone()
    };
    Header {
        layout: LAYOUT,
        digests: DIGEST_VERSION,
        id,
        relance: env!("CARGO_PKG_VERSION").to_owned(),
        began: ctx.clock.now(),
        source_version: plan.version,
        first_version: plan.version,
        field_id_max: live.manifest().max_field_id(),
        request,
        strategy: plan.strategy,
        rows_per_file: ctx.request.rows_per_file.unwrap_or(ROWS_PER_FILE),
        chunks: plan.chunks.len() as u64,
        rows: plan.rows,
        undo,
    }
}
