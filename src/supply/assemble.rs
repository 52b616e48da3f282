//! Puts the values of a batch together, from where each row's are.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{UInt8Array, new_null_array};
use arrow::datatypes::Field as ArrowField;

use crate::error::Result;
use crate::supply::calls::joined;
use crate::supply::frame::{Frame, FrameAt};
use crate::transform::elsewhere::{Given, Provided};

/// Where the values of each row of a batch are.
pub(super) type Found = Vec<Option<(FrameAt, usize)>>;

/// The places, among what is new, of the rows that are; and what is new.
pub(super) type New = (HashMap<usize, usize>, Vec<Provided>);

/// The values of all rows, in order: those that were found, those that are new, and nulls.
pub(super) fn assemble(
    rows: usize,
    outputs: &[ArrowField],
    found: &Found,
    frames: &HashMap<FrameAt, Arc<Frame>>,
    (new_rows, new): &New,
) -> Result<Provided> {
    if new_rows.len() == rows && !new.is_empty() {
        return joined(new);
    }
    let new = if new.is_empty() { None } else { Some(joined(new)?) };
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    for row in 0..rows {
        let kept = found.get(row).and_then(Option::as_ref);
        let kept = kept.and_then(|(at, inside)| Some((&frames.get(at)?.provided, *inside)));
        let of = match (kept, new_rows.get(&row)) {
            (Some((provided, inside)), _) => Some((provided, inside)),
            (None, Some(at)) => new.as_ref().map(|new| (new, *at)),
            (None, None) => None,
        };
        match (pieces.last_mut(), of) {
            (Some(Piece { of: None, rows }), None) => rows.end += 1,
            (Some(Piece { of: Some(last), rows }), Some((this, at)))
                if std::ptr::eq(*last, this) && rows.end == at =>
            {
                rows.end += 1;
            }
            (_, None) => pieces.push(Piece { of: None, rows: 0..1 }),
            (_, Some((this, at))) => pieces.push(Piece { of: Some(this), rows: at..at + 1 }),
        }
    }
    let pieces: Vec<Provided> = pieces.into_iter().map(|piece| piece.cut(outputs)).collect();
    match pieces.as_slice() {
        [one] => Ok(one.clone()),
        [] => Ok(Piece { of: None, rows: 0..0 }.cut(outputs)),
        pieces => joined(pieces),
    }
}

/// Rows that follow each other in what was given; `None` is nulls.
struct Piece<'a> {
    of: Option<&'a Provided>,
    rows: Range<usize>,
}

impl Piece<'_> {
    fn cut(self, outputs: &[ArrowField]) -> Provided {
        let (from, count) = (self.rows.start, self.rows.len());
        match self.of {
            Some(of) => Provided {
                values: of.values.iter().map(|values| values.slice(from, count)).collect(),
                given: of.given.slice(from, count),
            },
            None => Provided {
                values: outputs.iter().map(|one| new_null_array(one.data_type(), count)).collect(),
                given: UInt8Array::from(vec![Given::Value as u8; count]),
            },
        }
    }
}
