//! A disk that is too small for the staged files.

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::amounts::bytes_text;

pub(super) fn check(plan: &Plan) -> Result<()> {
    let Some(free) = plan.cost.free_bytes else {
        return Ok(());
    };
    let needed = plan.cost.needed_bytes;
    if needed <= free {
        return Ok(());
    }
    Err(Error::refused(format!(
        "no space left for the staged files of `{}`: needed {}, free {}",
        plan.table,
        bytes_text(needed),
        bytes_text(free)
    )))
}
