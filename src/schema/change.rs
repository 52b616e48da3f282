//! One change of a table's schema or of a column's values.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use crate::schema::cast::castable::is_exact;
use crate::schema::elsewhere::{By, Join, Produce};
use crate::schema::extension::extension_word;
use crate::schema::path::{part, renamed, split_last, typed};
use crate::schema::show::type_text;
use crate::schema::stored;

/// The most changes that one migration can have.
pub(crate) const CHANGES_MAX: usize = 10_000;

/// One change of a table's schema or of a column's values. A column in a struct is named by its dotted path; a name
/// with a dot or a backtick in it stands in backticks there, with its own backticks doubled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Change {
    /// Adds a column that holds one value, or nulls.
    Add(Add),
    /// Adds a column that is computed from others.
    Compute(Compute),
    /// Casts a column to another type.
    Cast(Cast),
    /// Computes the values of an existing column.
    Set {
        /// The column.
        name: String,
        /// The expression over the columns after the changes before this one, cast to the column's own type.
        sql: String,
    },
    /// Puts a value in place of a column's nulls.
    Fill {
        /// The column.
        name: String,
        /// The value as text, in the column's type.
        value: String,
    },
    /// Renames a column.
    Rename {
        /// The column.
        name: String,
        /// Its new name, without the path.
        to: String,
    },
    /// Drops a column.
    Drop {
        /// The column.
        name: String,
    },
    /// Allows nulls in a column.
    Nullable {
        /// The column.
        name: String,
    },
    /// Forbids nulls in a column.
    NotNull {
        /// The column.
        name: String,
    },
    /// Adds a column whose values a producer gives, or gives them to one that exists.
    Produce(Produce),
    /// Takes columns over from other data, row by row, by a key.
    Join(Join),
}

/// An added column that holds one value, or nulls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type", with = "stored::one")]
    pub data_type: DataType,
    /// Whether it may hold nulls.
    pub nullable: bool,
    /// Its value as text, in its type; `None` is null.
    pub default: Option<String>,
    /// Its field metadata, such as the extension type that its values have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A computed column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compute {
    /// Its name.
    pub name: String,
    /// Its type; `None` is the expression's own.
    #[serde(rename = "type", with = "stored::some", default)]
    pub data_type: Option<DataType>,
    /// Whether it may hold nulls.
    pub nullable: bool,
    /// The expression over the columns after the changes before this one.
    pub sql: String,
}

/// A cast of a column to another type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cast {
    /// The column.
    pub name: String,
    /// The new type.
    #[serde(rename = "type", with = "stored::one")]
    pub data_type: DataType,
    /// The type before, once that is known.
    #[serde(with = "stored::some", default)]
    pub from: Option<DataType>,
}

impl Change {
    /// The column that it changes; of several, the first.
    pub fn column(&self) -> &str {
        match self {
            Self::Produce(produce) => &produce.name,
            Self::Join(join) => join.take.first().map_or("", |take| take.name.as_str()),
            Self::Add(add) => &add.name,
            Self::Compute(compute) => &compute.name,
            Self::Cast(cast) => &cast.name,
            Self::Set { name, .. }
            | Self::Fill { name, .. }
            | Self::Rename { name, .. }
            | Self::Drop { name }
            | Self::Nullable { name }
            | Self::NotNull { name } => name,
        }
    }

    /// The column that it gets from a producer, if it is such a change.
    pub(crate) fn produced(&self) -> Option<&Produce> {
        if let Self::Produce(produce) = self { Some(produce) } else { None }
    }

    /// The columns that it adds, if it does nothing else.
    pub(crate) fn columns_added(&self) -> Option<Vec<&str>> {
        match self {
            Self::Add(Add { name, .. })
            | Self::Compute(Compute { name, .. })
            | Self::Produce(Produce { name, replaces: false, .. }) => Some(vec![name]),
            Self::Join(join) => {
                let new = join.take.iter().map(|take| (!take.exists).then_some(&*take.name));
                new.collect()
            }
            Self::Produce(_)
            | Self::Cast(_)
            | Self::Set { .. }
            | Self::Fill { .. }
            | Self::Rename { .. }
            | Self::Drop { .. }
            | Self::Nullable { .. }
            | Self::NotNull { .. } => None,
        }
    }

    /// The changes that undo this one in every row, rows written since included, in order; `None`, when this one loses
    /// values that they would need.
    pub fn inverse(&self) -> Option<Vec<Self>> {
        if let Some(added) = self.columns_added() {
            let drops = added.into_iter().rev().map(|name| Self::Drop { name: name.to_owned() });
            return Some(drops.collect());
        }
        self.inverse_of_one().map(|inverse| vec![inverse])
    }

    /// The change that undoes this one, which adds nothing.
    fn inverse_of_one(&self) -> Option<Self> {
        match self {
            // Only where a cast back gives every value as it was.
            Self::Cast(cast) if !is_exact(cast.from.as_ref()?, &cast.data_type) => None,
            Self::Cast(cast) => Some(Self::Cast(Cast {
                name: cast.name.clone(),
                data_type: cast.from.clone()?,
                from: Some(cast.data_type.clone()),
            })),
            Self::Rename { name, to } => {
                Some(Self::Rename { name: renamed(name, to), to: split_last(name).1 })
            }
            Self::Nullable { name } => Some(Self::NotNull { name: name.clone() }),
            Self::NotNull { name } => Some(Self::Nullable { name: name.clone() }),
            Self::Add(_)
            | Self::Compute(_)
            | Self::Produce(_)
            | Self::Join(_)
            | Self::Set { .. }
            | Self::Fill { .. }
            | Self::Drop { .. } => None,
        }
    }

    /// Whether `settled` is this change, with the time in place of `now` and with all types.
    pub fn asks(&self, settled: &Self) -> bool {
        match (self, settled) {
            (Self::Add(asked), Self::Add(done)) => {
                let now = asked.default.as_deref() == Some("now") && done.default.is_some();
                (&asked.name, &asked.data_type, asked.nullable, &asked.metadata)
                    == (&done.name, &done.data_type, done.nullable, &done.metadata)
                    && (now || asked.default == done.default)
            }
            (Self::Cast(asked), Self::Cast(done)) => {
                (&asked.name, &asked.data_type) == (&done.name, &done.data_type)
            }
            (Self::Compute(asked), Self::Compute(done)) => {
                (&asked.name, &asked.sql, asked.nullable) == (&done.name, &done.sql, done.nullable)
                    && (asked.data_type.is_none() || asked.data_type == done.data_type)
            }
            (Self::Join(asked), Self::Join(done)) => asked.asks(done),
            (Self::Produce(asked), Self::Produce(done)) => asked.asks(done),
            _ => self == settled,
        }
    }

    /// The name of its flag on the command line.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Add(_) | Self::Produce(Produce { replaces: false, .. }) => "add",
            Self::Produce(_) => "replace",
            Self::Join(_) => "join",
            Self::Compute(_) => "compute",
            Self::Cast(_) => "cast",
            Self::Set { .. } => "set",
            Self::Fill { .. } => "fill",
            Self::Rename { .. } => "rename",
            Self::Drop { .. } => "drop",
            Self::Nullable { .. } => "nullable",
            Self::NotNull { .. } => "not-null",
        }
    }

    /// The change as it is written on the command line.
    pub fn text(&self) -> String {
        let (verb, name) = (self.verb(), typed(self.column()));
        let null = |nullable: bool| if nullable { "" } else { " not null" };
        match self {
            Self::Add(add) => {
                let value = add.default.as_ref().map(|text| format!("={text}"));
                let word = extension_word(&add.metadata).map(str::to_owned);
                let kind = word.unwrap_or_else(|| type_text(&add.data_type));
                let value = value.unwrap_or_default();
                format!("{verb} {name}:{kind}{}{value}", null(add.nullable))
            }
            Self::Compute(compute) => {
                let kind = compute.data_type.as_ref().map(|kind| format!(":{}", type_text(kind)));
                let (kind, sql) = (kind.unwrap_or_default(), &compute.sql);
                format!("{verb} {name}{kind}{}={sql}", null(compute.nullable))
            }
            Self::Cast(cast) => format!("{verb} {name}:{}", type_text(&cast.data_type)),
            Self::Set { sql, .. } => format!("{verb} {name}={sql}"),
            Self::Fill { value, .. } => format!("{verb} {name}={value}"),
            Self::Rename { to, .. } => format!("{verb} {name}={}", typed(&part(to))),
            Self::Drop { .. } | Self::Nullable { .. } | Self::NotNull { .. } => {
                format!("{verb} {name}")
            }
            Self::Produce(produce) => {
                let kind = type_text(&produce.data_type);
                let mut text = format!("{verb} {name}:{kind}{}", null(produce.nullable));
                // Writing to a string cannot fail.
                let _ = match &produce.by {
                    By::Program(line) => write!(text, " by '{line}'"),
                    By::Function(name) => write!(text, " by {name}"),
                };
                let _ = write!(text, " of {}", produce.inputs.join(", "));
                if let Some(version) = &produce.version {
                    let _ = write!(text, ", version {version}");
                }
                if let Some(old) = &produce.keep_old {
                    let _ = write!(text, ", the old one kept as {}", typed(&part(old)));
                }
                text
            }
            Self::Join(join) => join.text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(verb: &str, text: &str) -> Option<String> {
        let inverse = Change::parse(verb, text).unwrap().inverse()?;
        Some(inverse.iter().map(Change::text).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn changes_are_taken_back() {
        assert_eq!(back("add", "n:int64=7").as_deref(), Some("drop n"));
        assert_eq!(back("compute", "n=a + 1").as_deref(), Some("drop n"));
        assert_eq!(back("rename", "a.b=c").as_deref(), Some("rename a.c=b"));
        assert_eq!(back("not-null", "a").as_deref(), Some("nullable a"));
        assert_eq!(back("drop", "a"), None);
        assert_eq!(back("fill", "a=1"), None);
        assert_eq!(back("set", "a=b + 1"), None);
        assert_eq!(back("cast", "a:int8"), None, "what it was is not known yet");
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
