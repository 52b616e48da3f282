//! Reads a schema from the end of a Parquet file, and no rows.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::datatypes::Schema;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::ParquetMetaDataReader;

use crate::error::{Error, Result};
use crate::schema::ipc::as_stored;

/// The schema of a Parquet file: Arrow's own, where its writer left it there.
///
/// # Errors
/// `Usage`, when it is no Parquet file, or has a column whose type no array can have.
pub(crate) fn read_parquet_schema(file: &File) -> Result<Schema> {
    // What others wrote is not to end the process.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(file)?;
        let metadata = metadata.file_metadata();
        parquet_to_arrow_schema(metadata.schema_descr(), metadata.key_value_metadata())
    }));
    let bad = || Error::usage("not a Parquet file");
    let mut schema = read.map_err(|_| bad())?.map_err(|error| bad().caused_by(error))?;
    // It describes the file.
    schema.metadata.remove("ARROW:schema");
    as_stored(&schema)
}
