//! The other data of joins: it is found, and what the changes take from it is settled.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field};
use lance_core::datatypes::{Field as LanceField, Schema};

use crate::error::{Error, Kind, Result};
use crate::plan::Request;
use crate::run::context::Context;
use crate::schema::cast::castable::is_castable;
use crate::schema::show::type_text;
use crate::schema::{change::Change, elsewhere::Join};
use crate::supply::join::OtherData;

/// The `request` on a table with the columns `live`, with the types of what is joined, and the other data of each join.
///
/// # Errors
/// `Usage`, when there is no such data, or no such column in it; `Failed`, when it cannot be read.
pub(crate) async fn settle_joins(
    ctx: &Context,
    live: &Schema,
    request: &Request,
) -> Result<(Request, Vec<OtherData>)> {
    let (mut settled, mut all) = (request.clone(), Vec::new());
    for change in &mut settled.changes {
        let Change::Join(join) = change else { continue };
        let data = open_data(ctx, live, join).await?;
        for take in &mut join.take {
            let field = data.column(&take.from).map_err(|error| error.about("--take"))?;
            take.data_type = Some(field.data_type().clone());
        }
        for (own, there) in &join.on {
            let field = data.column(there).map_err(|error| error.about("--on"))?;
            let key = live.field(own).map(LanceField::data_type);
            expect_key(own, key.as_ref(), field)?;
        }
        all.push(data);
    }
    Ok((settled, all))
}

/// Refuses a key that cannot be compared with the table's column `own`.
fn expect_key(own: &str, key: Option<&DataType>, there: &Field) -> Result<()> {
    let Some(key) = key else { return Ok(()) };
    let values = if let DataType::Dictionary(_, values) = key { values } else { key };
    let from = there.data_type();
    if from == values || is_castable(from, values) {
        return Ok(());
    }
    let (from, key, there) = (type_text(from), type_text(key), there.name());
    Err(Error::usage(format!(
        "--on: column `{own}` is {key}, and `{there}` of the other data is {from}, which cannot be read so"
    )))
}

/// The same for a migration that goes on: what is not there any more may not be needed any more.
///
/// # Errors
/// `Failed`, when it cannot be read.
pub(crate) async fn data_of(
    ctx: &Context,
    live: &Schema,
    request: &Request,
) -> Result<Vec<Option<OtherData>>> {
    let mut all = Vec::new();
    for change in &request.changes {
        let Change::Join(join) = change else { continue };
        all.push(match open_data(ctx, live, join).await {
            Err(error) if error.kind() == Kind::Usage => None,
            data => Some(data?),
        });
    }
    Ok(all)
}

/// The other data of `join`. Where a format has no types, it has those of the table's columns.
async fn open_data(ctx: &Context, live: &Schema, join: &Join) -> Result<OtherData> {
    let takes = join.take.iter().map(|take| (&take.name, &take.from));
    let pairs = join.on.iter().map(|(own, there)| (own, there)).chain(takes);
    let typed = pairs.filter_map(|(own, there)| {
        let own = live.field(own)?.data_type();
        let values = if let DataType::Dictionary(_, values) = &own { Some(values) } else { None };
        Some((there.clone(), values.map_or_else(|| own.clone(), |values| values.as_ref().clone())))
    });
    let typed: HashMap<String, DataType> = typed.collect();
    OtherData::find_data(&ctx.opener(), &ctx.location, &join.from, &typed).await
}
