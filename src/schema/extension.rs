//! The extension types that a new column can be given by name: how they are stored, and how their literals read.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::{ArrayRef, FixedSizeBinaryArray, LargeBinaryArray};
use arrow::datatypes::DataType;
use lance_arrow::json::encode_json;

use crate::error::{Error, Result};

/// The key of a field's metadata that holds the name of its extension type.
const NAME: &str = "ARROW:extension:name";

/// The word for each, its name in a field's metadata, and how it is stored. JSON is as Lance's writers store it
/// (lance-arrow 14 `src/json.rs`).
const EXTENSIONS: [(&str, &str, DataType); 4] = [
    ("json", "lance.json", DataType::LargeBinary),
    ("uuid", "arrow.uuid", DataType::FixedSizeBinary(16)),
    ("bool8", "arrow.bool8", DataType::Int8),
    ("bfloat16", "lance.bfloat16", DataType::FixedSizeBinary(2)),
];

/// The type that `word` stores, and its field's metadata, if it names an extension type: `json`, or `PyArrow`'s name of it
/// (`arrow.json`).
pub(crate) fn extension(word: &str) -> Option<(DataType, BTreeMap<String, String>)> {
    let bare = word.strip_prefix("arrow.").or_else(|| word.strip_prefix("lance.")).unwrap_or(word);
    let known = EXTENSIONS.iter().find(|(own, ..)| *own == bare);
    known.map(|(_, name, stored)| (stored.clone(), [(NAME.to_owned(), (*name).to_owned())].into()))
}

/// The word for the extension type in a field's `metadata`, or its name where there is no word.
pub(crate) fn extension_word(metadata: &BTreeMap<String, String>) -> Option<&str> {
    let name = metadata.get(NAME)?;
    let known = EXTENSIONS.iter().find(|(_, own, _)| own == name);
    Some(known.map_or(name.as_str(), |(word, ..)| word))
}

/// `text` as one value of the extension type in `metadata`; `None`, where it reads as its stored type does.
///
/// # Errors
/// `Usage`, when it is no such value.
pub(crate) fn extension_literal(
    text: &str,
    metadata: &BTreeMap<String, String>,
) -> Result<Option<ArrayRef>> {
    let bad = |why: String| Error::usage(format!("`{text}` is no {why}"));
    match extension_word(metadata) {
        Some("json") => {
            // Lance takes more for JSON than JSON is.
            let read = serde_json::from_str::<serde::de::IgnoredAny>(text);
            read.map_err(|error| bad(format!("JSON: {error}")))?;
            let bytes = encode_json(text).map_err(|error| bad(format!("JSON: {error}")))?;
            Ok(Some(Arc::new(LargeBinaryArray::from_vec(vec![&bytes]))))
        }
        Some("uuid") => {
            let id = uuid::Uuid::parse_str(text.trim()).map_err(|e| bad(format!("UUID: {e}")))?;
            let ids = FixedSizeBinaryArray::try_from_iter([id.as_bytes()].into_iter());
            Ok(Some(Arc::new(ids.map_err(|error| bad(format!("UUID: {error}")))?)))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;

    #[test]
    fn extension_types_have_a_word_each_and_pyarrows() {
        for (word, name, stored) in EXTENSIONS {
            let (data_type, metadata) = extension(word).unwrap();
            assert_eq!((&data_type, metadata[NAME].as_str()), (&stored, name));
            assert_eq!(extension_word(&metadata), Some(word));
            assert_eq!(extension(&format!("arrow.{word}")).unwrap().0, stored);
        }
        assert!(extension("string").is_none());
        let other = [(NAME.to_owned(), "geoarrow.point".to_owned())].into();
        assert_eq!(extension_word(&other), Some("geoarrow.point"));
    }

    #[test]
    fn literals_of_extension_types_are_their_values() {
        let read = |text: &str, word: &str| extension_literal(text, &extension(word).unwrap().1);
        let id = read("00112233-4455-6677-8899-aabbccddeeff", "uuid").unwrap().unwrap();
        assert_eq!(id.as_fixed_size_binary().value(0)[..4], [0, 0x11, 0x22, 0x33]);
        let json = read(r#"{"a": [1, null]}"#, "json").unwrap().unwrap();
        let text = lance_arrow::json::decode_json(json.as_binary::<i64>().value(0));
        assert_eq!(text, r#"{"a":[1,null]}"#);
        assert!(read("1", "bool8").unwrap().is_none());
        for (text, word) in [("{", "json"), ("", "json"), ("{} {}", "json"), ("0011", "uuid")] {
            assert!(read(text, word).is_err(), "{text} as {word}");
        }
    }
}
