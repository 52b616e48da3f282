//! The rollback point of the last swap, and what was asked then.

use lance::Dataset;

use crate::error::{Doing as _, Error, Result};
use crate::retry::is_gone;
use crate::table::{history, open, orphans};
use crate::{plan::Request, run::context::Context, table::history::RollbackPoint};

/// Transaction property of the swap that holds the request, for `verify`.
pub(crate) const PROPERTY_REQUEST: &str = "relance.request";

/// The rollback point of the last swap, and the version that is the swap.
pub(crate) async fn find_last_point(live: &Dataset) -> Result<Option<(RollbackPoint, u64)>> {
    let points = history::rollback_points(live).await?;
    Ok(points.into_iter().rev().find_map(|point| point.swapped.map(|swapped| (point, swapped))))
}

/// The same, or what is left of a later one that was not given up to its end.
pub(crate) async fn find_last_left(live: &Dataset) -> Result<Option<(RollbackPoint, u64)>> {
    let mut points = history::rollback_points(live).await?;
    points.extend(history::strays(live, &points, None).await?);
    let swapped = points.into_iter().filter_map(|point| point.swapped.map(|at| (point, at)));
    Ok(swapped.max_by_key(|(_, at)| *at))
}

/// The rollback point of the last swap.
pub(crate) async fn last_point(ctx: &Context, live: &Dataset) -> Result<(RollbackPoint, u64)> {
    let point = find_last_point(live).await?;
    point.ok_or_else(|| Error::failed(format!("`{}` has no rollback point", ctx.table())))
}

/// What was asked, from the swap's own transaction; `None`, when a cleanup has taken that version.
pub(crate) async fn requested(live: &Dataset, swapped: u64) -> Result<Option<Request>> {
    let transaction = match live.read_transaction_by_version(swapped).await {
        Err(error) if is_gone(&error) => return Ok(None),
        read => read.doing(|| format!("read the transaction of version {swapped}"))?,
    };
    let properties = transaction.and_then(|transaction| transaction.transaction_properties);
    let text = properties.as_ref().and_then(|properties| properties.get(PROPERTY_REQUEST));
    let text = text.ok_or_else(|| {
        Error::failed(format!("version {swapped} does not tell what was asked of the migration"))
    })?;
    let request = serde_json::from_str(text);
    Ok(Some(request.doing(|| format!("read the request of version {swapped}"))?))
}

/// The error of those who need the version that was swapped in, when a cleanup has taken it.
pub(crate) fn cleaned(swapped: u64) -> Error {
    Error::refused(format!(
        "version {swapped}, which the migration was swapped in as, was cleaned away, and with it what was \
         asked of the migration"
    ))
}

/// Removes what earlier attempts of the same thing left behind; what the swapped version names stays.
pub(crate) async fn remove_leftovers(
    live: &Dataset,
    point: &RollbackPoint,
    swapped: u64,
) -> Result<()> {
    // Once a cleanup has taken the swapped version, what it named cannot be told from leftovers.
    if let Ok(swapped) = open::at_version(live, swapped).await {
        let keep = orphans::named_by(&swapped);
        orphans::clear(live, &point.id, &keep, point.version).await?;
    }
    Ok(())
}
