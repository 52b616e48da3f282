//! Builds indices over what is staged before it is swapped in.

use std::{sync::Arc, time::Instant};

use futures::FutureExt;
use lance_table::io::commit::ManifestNamingScheme;

use crate::run::{
    context::Context, copier::Whole, cutover::prepare::Prepared, lease::beating,
    prebuilt::index_files,
};
use crate::{
    error::Result, phase::Phase, plan::fragment_ids::FragmentIds, progress::Amount, span,
    table::index,
};

/// Builds the indices that what is staged will need, so that they are swapped in with it. True, when there were any.
///
/// # Errors
/// `Locked`, when another run took over; `Failed`, when an index cannot be built.
///
/// # Crash
/// Index files that no version names are left; their names tell whose they are.
pub(crate) async fn build_indices(ctx: &Context, whole: &mut Whole<'_>) -> Result<bool> {
    let session = whole.session();
    let wanted = session.plan.rebuilds();
    let detachable = session.source.manifest_location().naming_scheme == ManifestNamingScheme::V2;
    let ids = u64::from(session.source.manifest().max_fragment_id.unwrap_or_default())
        .saturating_add(session.journal.records().map(|one| one.files.len() as u64).sum());
    let room = FragmentIds::has_room(ids);
    if wanted.is_empty() || !detachable || !room || session.plan.rows == 0 {
        return Ok(false);
    }
    let began = Instant::now();
    let _building = span::index();
    let total = Amount { chunks: wanted.len() as u64, ..Amount::default() };
    ctx.begin_phase(Phase::Index, total);
    let prepared = Prepared::rows(session, true).await?;
    let source = Arc::clone(&session.source);
    let id = session.journal.header().id.clone();
    if let Some(last) = prepared.versions.last() {
        let built = index::prebuild(&source, last, &wanted, &id, &ctx.progress);
        let built = beating(ctx, &mut session.journal, Phase::Stage, built).boxed().await;
        prepared.tidy(&source, true).await?;
        let built = built?;
        session.prebuilt.index_files = index_files(&source, &built).await?;
        session.prebuilt.indices = built;
        let files = last
            .iter_fragments()
            .filter_map(|fragment| Some((fragment.id, fragment.files.last()?.path.clone())));
        session.prebuilt.files = files.collect();
    }
    session.took(Phase::Index, began);
    Ok(true)
}
