//! Reads a schema from an Arrow IPC file or stream, and no rows.

use std::io::{BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;

use crate::error::{Error, Result};
use crate::schema::sound::expect_sound;

/// What a file begins with. Zeros up to a multiple of some eight bytes follow, and then a stream.
const MAGIC: [u8; 8] = *b"ARROW1\0\0";

/// What each message of a stream begins with; without it, any text is read as a length.
const CONTINUES: [u8; 4] = [0xff; 4];

/// The schema of an Arrow IPC file, in the format of files or that of streams, with JSON as Lance stores it.
///
/// # Errors
/// `Usage`, when it is neither, or has a column whose type no array can have.
pub(crate) fn read_ipc_schema(file: impl Read + Seek) -> Result<Schema> {
    let mut file = BufReader::new(file);
    // Arrow panics at some bytes that are no message.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut start = [0; 8];
        file.read_exact(&mut start)?;
        if start == MAGIC {
            while start == MAGIC || start == [0; 8] {
                file.read_exact(&mut start)?;
            }
            file.seek_relative(-8)?;
        } else {
            file.rewind()?;
        }
        if !start.starts_with(&CONTINUES) {
            return Err(ArrowError::IpcError("it begins with no message".to_owned()));
        }
        StreamReader::try_new(&mut file, None).map(|reader| reader.schema())
    }));
    let bad = || Error::usage("not a schema as Arrow IPC: neither a file nor a stream");
    let schema = read.map_err(|_| bad())?.map_err(|error| bad().caused_by(error))?;
    as_stored(&schema)
}

/// `schema`, which somebody else made, with JSON as Lance stores it.
///
/// # Errors
/// `Usage`, when it has a column whose type no array can have.
pub(crate) fn as_stored(schema: &Schema) -> Result<Schema> {
    expect_sound(schema)?;
    let fields = schema.fields().iter().map(json_as_stored).collect::<Vec<_>>();
    Ok(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// `field`, as Lance's writers store it if it is JSON as text (lance-arrow 14 `src/json.rs`).
fn json_as_stored(field: &FieldRef) -> FieldRef {
    if field.extension_type_name() != Some("arrow.json") {
        return Arc::clone(field);
    }
    let name = ("ARROW:extension:name".to_owned(), "lance.json".to_owned());
    let stored = Field::new(field.name(), DataType::LargeBinary, field.is_nullable());
    Arc::new(stored.with_metadata([name].into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::ipc::writer::{FileWriter, StreamWriter};
    use std::io::Cursor;

    #[test]
    fn files_and_streams_read_and_nothing_else() {
        let schema = Schema::new(vec![Field::new("a", DataType::Int8, true)]);
        let (mut file, mut stream) = (Vec::new(), Vec::new());
        FileWriter::try_new(&mut file, &schema).unwrap().finish().unwrap();
        StreamWriter::try_new(&mut stream, &schema).unwrap().finish().unwrap();
        for bytes in [&file, &stream] {
            assert_eq!(read_ipc_schema(Cursor::new(bytes)).unwrap(), schema);
        }
        let odd = Schema::new(vec![Field::new("a", DataType::FixedSizeBinary(-1), true)]);
        let mut stream = Vec::new();
        StreamWriter::try_new(&mut stream, &odd).unwrap().finish().unwrap();
        assert!(read_ipc_schema(Cursor::new(&stream)).is_err());
        for bytes in [&b""[..], b"ARROW1", b"PAR1....PAR1", &[0xff; 64], &stream[..20]] {
            assert!(read_ipc_schema(Cursor::new(bytes)).is_err());
        }
    }
}
