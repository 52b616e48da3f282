//! Whether staged files were touched since they were verified, just before the swap.

use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::ObjectMeta;

use crate::chunk::ChunkId;
use crate::error::Result;
use crate::run::{context::Context, session::Session};
use crate::verify::there;

/// How long a look at all staged files of a store holds, for a swap that is tried again. Files that were staged since were dated
/// before they were read back, and the look after the swap sees what was written over.
const LISTED_FOR: Duration = Duration::from_mins(1);

/// What lists the staged files while the journal is saved, since a store takes its time; `None`, where they are not looked at, or
/// better at the last moment.
pub(super) fn listing(
    ctx: &Context,
    session: &Session,
) -> impl Future<Output = Result<Option<Vec<ObjectMeta>>>> + use<> {
    let wanted = ctx.location.directory().is_none() && is_looked_at(ctx, session);
    let (source, id) = (Arc::clone(&session.source), session.journal.header().id.clone());
    async move { if wanted { there::listed_of(&source, &id).await.map(Some) } else { Ok(None) } }
}

/// Whether staged files are to be looked at: there are some, and they were not listed lately in a store.
fn is_looked_at(ctx: &Context, session: &Session) -> bool {
    let nothing = session.journal.records().all(|record| record.files.is_empty());
    let in_store = ctx.location.directory().is_none();
    let fresh = session.listed.is_some_and(|listed| listed.elapsed() < LISTED_FOR);
    !(nothing || (in_store && fresh))
}

/// The chunks whose staged files were touched since they were verified, unless a store was listed lately.
pub(super) async fn touched(ctx: &Context, session: &mut Session) -> Result<Vec<ChunkId>> {
    if !is_looked_at(ctx, session) {
        return Ok(Vec::new());
    }
    let began = Instant::now();
    let touched = there::touched(&session.source, &session.journal).await?;
    session.listed = Some(began);
    Ok(touched)
}
