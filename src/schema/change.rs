//! One thing asked of a table's schema.

use arrow::datatypes::DataType;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::schema::show::type_text;
use crate::schema::types::{Parser, parse_type};

/// One thing asked of a table's schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Change {
    /// A new column, filled with one value, or with nulls.
    Add(Add),
    /// A column less. So far only as the way back from an [`Add`].
    Drop {
        /// Its name.
        name: String,
    },
}

/// A default-filled column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Its name.
    pub name: String,
    /// Its type, serialised as text.
    #[serde(rename = "type", serialize_with = "write_type", deserialize_with = "read_type")]
    pub data_type: DataType,
    /// Whether it may hold nulls.
    pub nullable: bool,
    /// Its value as text, in its type; `None` is null.
    pub default: Option<String>,
}

impl Change {
    /// Reads `NAME:TYPE[ not null][=LITERAL]`.
    ///
    /// # Errors
    /// `Usage`, pointing at the place.
    pub fn parse_add(text: &str) -> Result<Self> {
        let colon = text.find(':').unwrap_or(text.len());
        let name = text.get(..colon).unwrap_or_default().trim();
        let mut parser = Parser::starting_at(text, colon);
        if name.is_empty() || !parser.eat(":") {
            let place = Parser::new(text);
            return Err(place.error("expected a column as NAME:TYPE[ not null][=LITERAL]"));
        }
        let data_type = parser.data_type()?;
        let nullable = !parser.eat_not_null();
        let mut default = None;
        if parser.eat("=") {
            default = Some(parser.rest().to_owned());
        } else {
            parser.end()?;
        }
        if !nullable && default.is_none() {
            let message = format!("column `{name}` is `not null`, so it needs a literal: {text}=…");
            return Err(Error::usage(message));
        }
        Ok(Self::Add(Add { name: name.to_owned(), data_type, nullable, default }))
    }

    /// The column that it is about.
    pub fn column(&self) -> &str {
        match self {
            Self::Add(add) => &add.name,
            Self::Drop { name } => name,
        }
    }

    /// The change that takes this one back from every row, those written since included; `None`, when it
    /// lost what that would need.
    pub fn inverse(&self) -> Option<Self> {
        match self {
            Self::Add(add) => Some(Self::Drop { name: add.name.clone() }),
            Self::Drop { .. } => None,
        }
    }

    /// Whether this, as it was asked, is `settled`, in which `now` is spelled out.
    pub fn asks(&self, settled: &Self) -> bool {
        let (Self::Add(asked), Self::Add(done)) = (self, settled) else {
            return self == settled;
        };
        let now = asked.default.as_deref() == Some("now") && done.default.is_some();
        (&asked.name, &asked.data_type, asked.nullable)
            == (&done.name, &done.data_type, done.nullable)
            && (now || asked.default == done.default)
    }

    /// The change as it is written on the command line.
    pub fn text(&self) -> String {
        match self {
            Self::Add(add) => {
                let null = if add.nullable { "" } else { " not null" };
                let value = add.default.as_ref().map(|text| format!("={text}"));
                let (name, kind) = (&add.name, type_text(&add.data_type));
                format!("add {name}:{kind}{null}{}", value.unwrap_or_default())
            }
            Self::Drop { name } => format!("drop {name}"),
        }
    }
}

fn write_type<S: Serializer>(data_type: &DataType, to: S) -> std::result::Result<S::Ok, S::Error> {
    type_text(data_type).serialize(to)
}

fn read_type<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<DataType, D::Error> {
    let text = String::deserialize(from)?;
    parse_type(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_add_reads_and_prints() {
        for text in [
            "created_at:timestamp[us, tz=UTC]=2026-01-01",
            "n:int64 not null=3",
            "note:string",
            "eq:string=a=b:c",
            "s:struct<a: int32, b: string>",
        ] {
            let change = Change::parse_add(text).unwrap();
            assert_eq!(change.text(), format!("add {text}"));
            let json = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change);
        }
    }

    #[test]
    fn bad_adds_point_at_the_place() {
        let message = |text: &str| Change::parse_add(text).unwrap_err().to_string();
        assert!(message("noType").contains("NAME:TYPE"));
        assert!(message(":int8").contains("NAME:TYPE"));
        assert!(message("a:int8 not null").contains("needs a literal"));
        assert_eq!(
            message("a:int9=1"),
            "no type is called `int9`; did you mean `int8`?\n  a:int9=1\n    ^"
        );
        assert!(message("a:int8 nope").contains("expected nothing more"));
    }

    #[test]
    fn an_add_is_taken_back_by_a_drop() {
        let add = Change::parse_add("n:int64=7").unwrap();
        let back = add.inverse().unwrap();
        assert_eq!(back.text(), "drop n");
        assert_eq!(back.inverse(), None);
    }

    #[test]
    fn now_asks_for_the_time_that_it_became() {
        let asked = Change::parse_add("t:timestamp[us]=now").unwrap();
        let settled = Change::parse_add("t:timestamp[us]=2026-01-01").unwrap();
        assert!(asked.asks(&settled) && settled.asks(&settled));
        assert!(!settled.asks(&asked));
        assert!(!asked.asks(&Change::parse_add("t:timestamp[ms]=2026-01-01").unwrap()));
    }
}
