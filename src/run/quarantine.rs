//! Rows whose values become null are copied as they were, beside the table.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchIterator, StringArray};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use lance::Dataset;
use lance::dataset::{InsertBuilder, ProjectionRequest, TakeBuilder, WriteMode, WriteParams};
use lance_core::datatypes::Field as LanceField;

use crate::error::{Context, Error, Result};
use crate::location::Location;
use crate::plan::Plan;
use crate::progress::note;
use crate::run::{Migration, Underway};
use crate::settings::OnBadValue;
use crate::table::Opener;

/// What is added to a table's name for its quarantine.
const SUFFIX: &str = "__relance_quarantine";
/// The column that tells which migration a row was copied by.
const MIGRATION: &str = "_relance_migration";
/// Rows that are copied at once.
const ROWS_AT_ONCE: usize = 1024;

impl Migration {
    /// Refuses a quarantine that cannot take the rows of `plan`.
    pub(super) async fn expect_quarantine(&self, plan: &Plan) -> Result<()> {
        if plan.request.on_bad_value != OnBadValue::Quarantine || plan.findings.is_empty() {
            return Ok(());
        }
        if plan.before.fields_pre_order().any(LanceField::is_blob) {
            return Err(Error::refused("rows with blobs cannot be copied to a quarantine"));
        }
        let place = self.quarantine_place()?;
        let Some(there) = Opener::of(&place, self.wrapper.clone()).found().await? else {
            return Ok(());
        };
        let names = |schema: &ArrowSchema| -> Vec<(String, DataType)> {
            let fields = schema.fields().iter();
            fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
        };
        let wanted = quarantine_schema(&ArrowSchema::from(&plan.before));
        if names(&ArrowSchema::from(there.schema())) == names(&wanted) {
            return Ok(());
        }
        let table = place.table();
        Err(Error::refused(format!("the table `{table}` is there already, with other columns"))
            .with_advice("drop or rename it first"))
    }

    /// Copies the rows of the source that have a bad value, in place of what this migration copied before.
    ///
    /// # Crash
    /// The quarantine holds the rows of an earlier attempt, none, or all; the next attempt begins anew.
    pub(super) async fn quarantine(&self, underway: &Underway) -> Result<()> {
        if underway.plan.request.on_bad_value != OnBadValue::Quarantine {
            return Ok(());
        }
        let source = &underway.source;
        let tried = self.try_rows(source, &underway.plan, u64::MAX).await?;
        let place = self.quarantine_place()?;
        let opener = Opener::of(&place, self.wrapper.clone());
        let id = &underway.journal.header().id;
        let mut there = opener.found().await?;
        if let Some(dataset) = &there {
            let mut dataset = dataset.as_ref().clone();
            let removed = dataset.delete(&format!("{MIGRATION} = '{id}'")).await;
            removed.doing(|| format!("write to `{}`", place.table()))?;
            there = Some(Arc::new(dataset));
        }
        let addresses: Vec<u64> = tried.rows.iter().collect();
        for some in addresses.chunks(ROWS_AT_ONCE) {
            let batch = rows_at(source, some.to_vec(), id).await?;
            there = Some(append(&opener, &place, there, batch).await?);
        }
        let (count, table) = (addresses.len(), place.table());
        note(&self.progress, format!("{count} rows with bad values are copied to `{table}`"));
        Ok(())
    }

    fn quarantine_place(&self) -> Result<Location> {
        self.location.sibling(&format!("{}{SUFFIX}", self.location.table()))
    }
}

/// The rows at `addresses`, as they are, and whose migration copies them.
async fn rows_at(source: &Arc<Dataset>, addresses: Vec<u64>, id: &str) -> Result<RecordBatch> {
    let all = ProjectionRequest::from_schema(source.schema().clone());
    let projection = all.into_projection_plan(Arc::clone(source));
    let projection = Arc::new(projection.doing(|| "read bad rows".to_owned())?);
    let take = TakeBuilder::try_new_from_addresses(Arc::clone(source), addresses, projection);
    let taken = take.doing(|| "read bad rows".to_owned())?.execute().await;
    let taken = taken.doing(|| "read bad rows".to_owned())?;
    let schema = Arc::new(quarantine_schema(taken.schema().as_ref()));
    let ids: ArrayRef = Arc::new(StringArray::from(vec![id; taken.num_rows()]));
    let columns = taken.columns().iter().cloned().chain([ids]).collect();
    RecordBatch::try_new(schema, columns).doing(|| "copy bad rows".to_owned())
}

fn quarantine_schema(source: &ArrowSchema) -> ArrowSchema {
    let fields = source.fields().iter().map(|field| field.as_ref().clone());
    let fields: Vec<Field> = fields.chain([Field::new(MIGRATION, DataType::Utf8, false)]).collect();
    ArrowSchema::new(fields)
}

async fn append(
    opener: &Opener,
    place: &Location,
    there: Option<Arc<Dataset>>,
    batch: RecordBatch,
) -> Result<Arc<Dataset>> {
    let params = WriteParams {
        mode: if there.is_some() { WriteMode::Append } else { WriteMode::Create },
        store_params: Some(opener.params().clone()),
        session: Some(Arc::clone(opener.session())),
        ..WriteParams::default()
    };
    let schema = batch.schema();
    let rows = RecordBatchIterator::new([Ok(batch)], schema);
    let uri = place.uri();
    let insert = match there {
        Some(dataset) => InsertBuilder::new(dataset),
        None => InsertBuilder::new(uri.as_str()),
    };
    let written = insert.with_params(&params).execute_stream(rows).await;
    Ok(Arc::new(written.doing(|| format!("write to `{}`", place.table()))?))
}
