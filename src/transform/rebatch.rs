//! Brings batches to one size: small ones are joined, large ones cut.

use arrow::array::RecordBatch;
use arrow_select::concat::concat_batches;

use crate::error::{Doing, Result};

/// Joins and cuts batches, rows in order.
#[derive(Debug)]
pub(crate) struct Rebatch {
    rows_target: usize,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
}

impl Rebatch {
    /// Batches of about `rows_target` rows.
    pub(crate) fn to_rows(rows_target: usize) -> Self {
        Self { rows_target: rows_target.max(1), pending: Vec::new(), pending_rows: 0 }
    }

    /// Takes in `batch`, and gives back the batches that are ready. A batch near the target is passed on as it is.
    ///
    /// # Errors
    /// `Failed`, when batches of different schemas meet.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let near = batch.num_rows() * 2 > self.rows_target;
        if near && self.pending.is_empty() {
            return Ok(self.cut(batch));
        }
        self.pending_rows += batch.num_rows();
        self.pending.push(batch);
        if self.pending_rows < self.rows_target {
            return Ok(Vec::new());
        }
        self.flush()
    }

    /// Gives back what is left.
    ///
    /// # Errors
    /// `Failed`, when batches of different schemas meet.
    pub(crate) fn flush(&mut self) -> Result<Vec<RecordBatch>> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_rows = 0;
        let Some(first) = pending.first() else { return Ok(Vec::new()) };
        let joined = concat_batches(&first.schema(), &pending);
        let joined = joined.doing(|| "join small record batches".to_owned())?;
        Ok(self.cut(joined))
    }

    fn cut(&self, batch: RecordBatch) -> Vec<RecordBatch> {
        if batch.num_rows() < self.rows_target * 2 {
            return vec![batch];
        }
        let rows = batch.num_rows();
        let starts = (0..rows).step_by(self.rows_target);
        starts.map(|start| batch.slice(start, self.rows_target.min(rows - start))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int32Array};
    use arrow::datatypes::Int32Type;
    use std::sync::Arc;

    fn batches(sizes: &[i32]) -> Vec<RecordBatch> {
        let mut next = 0;
        let mut out = Vec::new();
        for size in sizes {
            let values = Int32Array::from_iter_values(next..next + size);
            next += size;
            out.push(RecordBatch::try_from_iter([("n", Arc::new(values) as _)]).unwrap());
        }
        out
    }

    #[test]
    fn sizes_come_near_the_target_and_order_is_kept() {
        let mut rebatch = Rebatch::to_rows(10);
        let mut out = Vec::new();
        for batch in batches(&[1, 2, 3, 9, 0, 8, 45, 12, 4]) {
            out.extend(rebatch.push(batch).unwrap());
        }
        out.extend(rebatch.flush().unwrap());
        let sizes: Vec<_> = out.iter().map(RecordBatch::num_rows).collect();
        assert!(sizes.iter().all(|rows| *rows < 20), "{sizes:?}");
        let values =
            |batch: &RecordBatch| batch.column(0).as_primitive::<Int32Type>().values().to_vec();
        let all: Vec<i32> = out.iter().flat_map(values).collect();
        assert_eq!(all, (0..84).collect::<Vec<_>>());
    }
}
