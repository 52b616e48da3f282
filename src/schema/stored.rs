//! Types in storage, in Arrow's own IPC format, in which everything of a type reads back as it was: names, metadata,
//! zones, nullability. Its text stands beside it for people.

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use arrow::ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::schema::show::type_text;
use crate::schema::types::parse_type;

/// A type as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    /// An IPC message of a schema with one field, in hexadecimal digits.
    Ipc {
        /// What it reads as, for people.
        text: String,
        /// The message.
        ipc: String,
    },
    /// The text alone, as relance 0.1 wrote it into the properties of its swaps.
    Text(String),
}

impl Stored {
    fn of(data_type: &DataType) -> Self {
        let schema = Schema::new(vec![Field::new("type", data_type.clone(), true)]);
        let (mut tracker, options) = (DictionaryTracker::new(false), IpcWriteOptions::default());
        let message = IpcDataGenerator::default();
        let message =
            message.schema_to_bytes_with_dictionary_tracker(&schema, &mut tracker, &options);
        let ipc = hex(&message.ipc_message);
        Self::Ipc { text: type_text(data_type), ipc }
    }

    fn read(&self) -> Result<DataType, String> {
        let ipc = match self {
            Self::Text(text) => return parse_type(text).map_err(|error| error.to_string()),
            Self::Ipc { ipc, .. } => ipc,
        };
        let damaged = || "a stored type is damaged".to_owned();
        let bytes = (0..ipc.len()).step_by(2).map(|at| ipc.get(at..at + 2));
        let bytes = bytes.map(|digits| u8::from_str_radix(digits?, 16).ok());
        let bytes: Vec<u8> = bytes.collect::<Option<_>>().ok_or_else(damaged)?;
        // Arrow panics at some bytes that are no message.
        let read = std::panic::catch_unwind(|| try_schema_from_flatbuffer_bytes(&bytes));
        let schema = read.ok().and_then(Result::ok).ok_or_else(damaged)?;
        schema.fields().first().map(|field| field.data_type().clone()).ok_or_else(damaged)
    }
}

/// `bytes` as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// How serde writes and reads a type.
pub(crate) mod one {
    use super::{DataType, Deserialize, Deserializer, Serialize, Serializer, Stored};
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer>(data_type: &DataType, to: S) -> Result<S::Ok, S::Error> {
        Stored::of(data_type).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DataType, D::Error> {
        Stored::deserialize(from)?.read().map_err(D::Error::custom)
    }
}

/// How serde writes and reads a type that may be missing.
pub(crate) mod some {
    use super::{DataType, Deserialize, Deserializer, Serialize, Serializer, Stored};
    use serde::de::Error as _;

    #[allow(clippy::ref_option, reason = "serde asks for this shape")]
    pub(crate) fn serialize<S: Serializer>(
        data_type: &Option<DataType>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        data_type.as_ref().map(Stored::of).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<DataType>, D::Error> {
        let stored = Option::<Stored>::deserialize(from)?;
        stored.map(|stored| stored.read().map_err(D::Error::custom)).transpose()
    }
}

/// `data_type` with plain types in place of views at every depth: Lance stores no views.
pub(crate) fn without_views(data_type: &DataType) -> DataType {
    let plain = |field: &FieldRef| {
        let data_type = without_views(field.data_type());
        FieldRef::new(field.as_ref().clone().with_data_type(data_type))
    };
    #[allow(clippy::wildcard_enum_match_arm, reason = "the types that hold others")]
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) | DataType::ListView(item) => DataType::List(plain(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(plain(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect::<Fields>()),
        DataType::Map(entries, sorted) => DataType::Map(plain(entries), *sorted),
        DataType::Dictionary(keys, values) => {
            DataType::Dictionary(keys.clone(), Box::new(without_views(values)))
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::TimeUnit;
    use std::collections::HashMap;
    use std::sync::Arc;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holds {
        #[serde(with = "one")]
        one: DataType,
        #[serde(with = "some", default)]
        some: Option<DataType>,
    }

    fn back(data_type: &DataType) -> DataType {
        let holds = Holds { one: data_type.clone(), some: Some(data_type.clone()) };
        let text = serde_json::to_string(&holds).unwrap();
        let read: Holds = serde_json::from_str(&text).unwrap();
        assert_eq!(read, holds);
        read.one
    }

    #[test]
    fn types_whose_text_does_not_parse_read_back() {
        let field = |name: &str, kind: DataType| Field::new(name, kind, false);
        let list = |item: Field| DataType::List(Arc::new(item));
        let metadata = HashMap::from([("k".to_owned(), "v".to_owned())]);
        let odd = [":", ",", "<", ">", "[", "(", "", " a ", "a:b", "not null"];
        let mut types: Vec<DataType> =
            odd.iter().map(|name| list(field(name, DataType::Int8))).collect();
        types.extend(odd.map(|name| DataType::Struct(vec![field(name, DataType::Utf8)].into())));
        let entries = vec![field("key", DataType::Utf8), field("value", DataType::Int8)];
        let entries = field("entries", DataType::Struct(entries.into()));
        types.extend([
            list(field("item", DataType::Int8).with_metadata(metadata)),
            DataType::Timestamp(TimeUnit::Second, Some("Nowhere/At All".into())),
            DataType::Decimal128(38, -7),
            DataType::Decimal256(76, 80),
            DataType::Struct(Fields::empty()),
            DataType::Utf8View,
            DataType::Map(Arc::new(entries), false),
            DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::LargeUtf8)),
        ]);
        for data_type in types {
            assert_eq!(back(&data_type), data_type);
        }
    }

    #[test]
    fn what_was_written_as_text_is_read_and_what_is_damaged_is_told() {
        let read: Holds = serde_json::from_str(r#"{"one": "list<string>"}"#).unwrap();
        assert_eq!(read.one, parse_type("list<string>").unwrap());
        for ipc in ["", "0", "zz", "00ff00ff", "é"] {
            let text = format!(r#"{{"one": {{"text": "int8", "ipc": "{ipc}"}}}}"#);
            assert!(serde_json::from_str::<Holds>(&text).is_err(), "{ipc}");
        }
    }

    #[test]
    fn views_become_what_lance_stores() {
        let views = DataType::Struct(
            vec![Field::new("a", DataType::new_list(DataType::Utf8View, true), false)].into(),
        );
        let plain = DataType::Struct(
            vec![Field::new("a", DataType::new_list(DataType::Utf8, true), false)].into(),
        );
        assert_eq!(without_views(&views), plain);
    }
}
