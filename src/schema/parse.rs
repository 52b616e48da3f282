//! Reads changes as they are written on the command line and in a file.
#![allow(clippy::wildcard_enum_match_arm, reason = "what is said of a change fits a few of them")]

use toml_edit::{Document, Item, Table, Value};

use crate::error::{Error, Result};
use crate::schema::change::{Add, Cast, Change, Compute};
use crate::schema::details::{DETAILS, new_name, produced};
use crate::schema::elsewhere::{Join, OnDuplicate, OnMissing, Produce};
use crate::schema::path::{part_end, split_last};
use crate::schema::types::Parser;

/// The words that changes begin with: the flags' names.
const VERBS: &[&str] = &[
    "add", "compute", "cast", "set", "fill", "rename", "drop", "nullable", "not-null", "replace",
    "join",
];

impl Change {
    /// Reads a change of the kind that `verb` (a flag's name without its dashes) names.
    ///
    /// # Errors
    /// `Usage`, pointing at the place.
    pub fn parse(verb: &str, text: &str) -> Result<Self> {
        match verb {
            "add" => Self::parse_add(text),
            "compute" => parse_compute(text),
            "cast" => parse_cast(text),
            "set" => parse_set(text),
            "fill" => {
                let (name, value) = split(text, "expected NAME=LITERAL")?;
                Ok(Self::Fill { name, value: value.to_owned() })
            }
            "rename" => parse_rename(text),
            "drop" => Ok(Self::Drop { name: name(text)? }),
            "nullable" => Ok(Self::Nullable { name: name(text)? }),
            "not-null" | "not_null" => Ok(Self::NotNull { name: name(text)? }),
            "replace" | "join" => Self::parse_part(verb, text)?.completed(),
            other => {
                let verbs = VERBS.join(", ");
                Err(Error::usage(format!("no change is called `{other}`; there is {verbs}")))
            }
        }
    }

    /// Reads `NAME:TYPE[ not null][=LITERAL]`.
    ///
    /// # Errors
    /// `Usage`, pointing at the place.
    pub fn parse_add(text: &str) -> Result<Self> {
        Self::parse_part("add", text)?.completed()
    }

    /// Reads the first part of a change of which more may be said with [`detailed`](Self::detailed); then it has to be
    /// [`completed`](Self::completed).
    ///
    /// # Errors
    /// `Usage`, pointing at the place.
    pub(crate) fn parse_part(verb: &str, text: &str) -> Result<Self> {
        match verb {
            "add" => parse_open_add(text),
            "replace" => {
                let (name, mut parser) = typed(text, "expected a column as NAME:TYPE")?;
                let (data_type, metadata) =
                    parser.field_type().map_err(|error| hinted(text, error))?;
                parser.end()?;
                let add = Add { name, data_type, nullable: true, default: None, metadata };
                Ok(Self::Produce(Produce { replaces: true, ..produced(add) }))
            }
            "join" => {
                let (on, take) = (Vec::new(), Vec::new());
                let (on_missing, on_duplicate) = (OnMissing::Error, OnDuplicate::Error);
                Ok(Self::Join(Join { from: name(text)?, on, take, on_missing, on_duplicate }))
            }
            verb => Self::parse(verb, text),
        }
    }

    /// The change of a table of a TOML text that says more of it, if it does.
    fn parse_open_toml(table: &Table) -> Result<Option<Self>> {
        let first = ["add", "replace", "join"].into_iter().find(|verb| table.contains_key(verb));
        let more = table.iter().any(|(key, _)| DETAILS.contains(&key));
        let Some(verb) = first.filter(|verb| more || *verb != "add") else { return Ok(None) };
        let text = |item: &Item| -> Result<String> {
            match item {
                Item::Value(Value::String(text)) => Ok(text.value().clone()),
                Item::Value(Value::Integer(number)) => Ok(number.value().to_string()),
                Item::Value(Value::Array(all)) => {
                    let all = all.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
                    let all = all.ok_or_else(|| Error::usage(format!("`{verb}` takes texts")))?;
                    Ok(all.join(","))
                }
                _ => Err(Error::usage(format!("`{verb}`: expected a text"))),
            }
        };
        let mut change = Self::parse_part(verb, &text(table.get(verb).unwrap_or(&Item::None))?)?;
        for (key, item) in table.iter().filter(|(key, _)| *key != verb) {
            if !DETAILS.contains(&key) {
                return Err(Error::usage(format!("`{key}` does not go with `{verb}`")));
            }
            change = change.detailed(key, &text(item)?)?;
        }
        change.completed().map(Some)
    }

    /// Reads the changes of a TOML text, in its order: a list of tables `[[change]]`, each with one key
    /// that is a flag's name (`add = "NAME:TYPE=LITERAL"`), or lists of texts under such keys. What is more said of a
    /// column, such as `by`, stands in the same table.
    ///
    /// # Errors
    /// `Usage`, naming what is wrong.
    pub fn parse_toml(text: &str) -> Result<Vec<Self>> {
        let document = Document::parse(text.to_owned());
        let document = document
            .map_err(|error| Error::usage("not TOML").with_lines(error.to_string().lines()))?;
        changes_of(document.as_table())
    }
}

/// Reads `NAME:TYPE[ not null][=LITERAL]`; whether a literal is needed is not looked at.
fn parse_open_add(text: &str) -> Result<Change> {
    let (name, mut parser) = typed(text, "expected a column as NAME:TYPE[ not null][=LITERAL]")?;
    let name = new_name(&name)?;
    let (data_type, metadata) = parser.field_type().map_err(|error| hinted(text, error))?;
    let nullable = !parser.eat_not_null();
    let mut default = None;
    if parser.eat("=") {
        default = Some(parser.rest().to_owned());
    } else {
        parser.end()?;
    }
    Ok(Change::Add(Add { name, data_type, nullable, default, metadata }))
}

fn parse_compute(text: &str) -> Result<Change> {
    const SHAPE: &str = "expected a column as NAME[:TYPE][ not null]=SQL";
    let end = part_end(text, &[':', '=']);
    let (name, data_type, nullable, mut parser) =
        if text.get(end..).is_some_and(|rest| rest.starts_with(':')) {
            let (name, mut parser) = typed(text, SHAPE)?;
            let data_type = parser.data_type()?;
            let nullable = !parser.eat_not_null();
            (new_name(&name)?, Some(data_type), nullable, parser)
        } else {
            let name = text.get(..end).unwrap_or_default();
            let bare = name.strip_suffix(" not null");
            (new_name(bare.unwrap_or(name))?, None, bare.is_none(), Parser::starting_at(text, end))
        };
    if name.is_empty() || !parser.eat("=") {
        return Err(parser.error(SHAPE));
    }
    let sql = parser.rest().trim().to_owned();
    if sql.is_empty() {
        return Err(parser.error("expected an expression"));
    }
    Ok(Change::Compute(Compute { name, data_type, nullable, sql }))
}

fn parse_set(text: &str) -> Result<Change> {
    const SHAPE: &str = "expected NAME=SQL";
    let (name, sql) = split(text, SHAPE)?;
    let sql = sql.trim().to_owned();
    if sql.is_empty() {
        return Err(Parser::starting_at(text, text.len()).error("expected an expression"));
    }
    Ok(Change::Set { name, sql })
}

fn parse_cast(text: &str) -> Result<Change> {
    let (name, mut parser) = typed(text, "expected a column as NAME:TYPE")?;
    let data_type = parser.data_type().map_err(|error| hinted(text, error))?;
    parser.end()?;
    Ok(Change::Cast(Cast { name, data_type, from: None }))
}

fn parse_rename(text: &str) -> Result<Change> {
    let (name, to) = split(text, "expected OLD=NEW")?;
    if to.trim().is_empty() {
        return Err(Parser::new(text).error("expected OLD=NEW"));
    }
    if part_end(to, &['=']) < to.len() {
        return Err(Parser::new(text).error("a name with the sign `=` in it stands in backticks"));
    }
    let (outer, to) = (split_last(&name).0, new_name(to)?);
    // The new name may be given with its path, and has no other.
    let (path, own) = split_last(&to);
    let to = if path.is_none() || path == outer { own } else { to };
    Ok(Change::Rename { name, to })
}

/// The name before the colon, and what comes after it.
fn typed<'a>(text: &'a str, shape: &str) -> Result<(String, Parser<'a>)> {
    let colon = part_end(text, &[':']);
    let mut parser = Parser::starting_at(text, colon);
    let name = text.get(..colon).unwrap_or_default();
    if name.is_empty() || !parser.eat(":") {
        return Err(Parser::new(text).error(shape));
    }
    Ok((name.to_owned(), parser))
}

/// `error`, which came of a type, with a hint where the name may have a colon in it.
fn hinted(text: &str, error: Error) -> Error {
    let typed = text.split('=').next().unwrap_or_default();
    match typed.rsplit_once(':') {
        Some((name, _)) if part_end(name, &[':']) < name.len() && !name.contains('<') => {
            error.with_advice(&format!("a name with a colon in it stands in backticks: `{name}`"))
        }
        _ => error,
    }
}

/// The name before the sign `=`, and what comes after it.
fn split<'a>(text: &'a str, shape: &str) -> Result<(String, &'a str)> {
    let (name, rest) = text.split_at(part_end(text, &['=']));
    match rest.strip_prefix('=') {
        Some(value) if !name.is_empty() => Ok((name.to_owned(), value)),
        _ => Err(Parser::new(text).error(shape)),
    }
}

/// `text` as the name of a column that is there, whatever it looks like: names are never trimmed.
fn name(text: &str) -> Result<String> {
    if text.is_empty() {
        return Err(Error::usage("expected a column's name"));
    }
    Ok(text.to_owned())
}

fn changes_of(table: &Table) -> Result<Vec<Change>> {
    if let Some(change) = Change::parse_open_toml(table)? {
        return Ok(vec![change]);
    }
    let mut changes = Vec::new();
    for (key, item) in table {
        match (key, item) {
            ("change" | "changes", Item::ArrayOfTables(tables)) => {
                for table in tables {
                    changes.extend(changes_of(table)?);
                }
            }
            ("change" | "changes", Item::Value(Value::Array(tables))) => {
                for table in tables {
                    let table = table.as_inline_table();
                    let table = table.ok_or_else(|| {
                        Error::usage("`changes` is a list of tables such as { rename = \"a=b\" }")
                    })?;
                    changes.extend(changes_of(&table.clone().into_table())?);
                }
            }
            (verb, Item::Value(Value::String(text))) => {
                changes.push(Change::parse(verb, text.value())?);
            }
            (verb, Item::Value(Value::Array(texts))) => {
                for text in texts {
                    let text = text.as_str();
                    let text = text.ok_or_else(|| Error::usage(format!("`{verb}` takes texts")))?;
                    changes.push(Change::parse(verb, text)?);
                }
            }
            (key, _) => {
                let message = format!("`{key}`: expected a change such as rename = \"a=b\"");
                return Err(Error::usage(message));
            }
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read_and_print() {
        for text in [
            "add created_at:timestamp[us, tz=UTC]=2026-01-01",
            "add n:int64 not null=3",
            "add note:string",
            "add eq:string=a=b:c",
            "add s:struct<a: int32, b: string>",
            "compute total=price * 2",
            "compute total not null=price * 2",
            "compute total:double=price * 2",
            "compute small:bool not null=price < 2",
            "compute same=a = 'x:y'",
            "cast price:decimal128(10, 2)",
            "cast meta.n:int64",
            "set price=price * 2",
            "set same=a = 'x:y'",
            "fill price=0",
            "rename a=b",
            "rename a.b=c",
            "drop a.b",
            "nullable a",
            "not-null a",
            "drop ` a`",
            "fill ` a`=0",
            "add `dc:title`:string=x=y",
            "add m.`a.b`:int8",
            "compute `a=b`=`Unnamed: 0` + 1",
            "cast `a:b`.` c`:int8",
            "rename `Unnamed: 0`=`x=y`",
            "rename m.`a.b`=c",
        ] {
            let (verb, rest) = text.split_once(' ').unwrap();
            let change = Change::parse(verb, rest).unwrap();
            assert_eq!(change.text(), text);
            let json = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change);
        }
    }

    #[test]
    fn bad_changes_point_at_the_place() {
        let message = |verb: &str, text: &str| Change::parse(verb, text).unwrap_err().to_string();
        assert!(message("add", "noType").contains("NAME:TYPE"));
        assert!(message("add", ":int8").contains("NAME:TYPE"));
        assert!(message("add", "a:int8 not null").contains("needs a literal"));
        assert_eq!(
            message("add", "a:int9=1"),
            "no type is called `int9`; did you mean `int8`?\n  a:int9=1\n    ^"
        );
        assert!(message("add", "a:int8 nope").contains("expected nothing more"));
        assert!(message("compute", "a").contains("=SQL"));
        assert!(message("compute", "a=").contains("an expression"));
        assert!(message("cast", "a").contains("NAME:TYPE"));
        assert!(message("rename", "a").contains("OLD=NEW"));
        assert!(message("set", "a").contains("NAME=SQL"));
        assert!(message("set", "a= ").contains("an expression"));
        assert!(message("fill", "=1").contains("NAME=LITERAL"));
        assert!(message("drop", "").contains("name"));
        assert_eq!(Change::parse("drop", " a").unwrap().column(), " a");
        assert!(message("add", " a:int8").contains("leave it out (`a`)"));
        let error = Change::parse_add("dc:title:string=x").unwrap_err().to_string();
        assert!(error.contains("`dc:title`"), "{error}");
        for spaced in ["a = b + 1", "a :int8=b", " not null=b"] {
            assert!(Change::parse("compute", spaced).is_err(), "{spaced}");
        }
        assert!(message("rename", "a=b=c").contains("stands in backticks"));
        assert!(message("drip", "a").contains("no change is called"));
    }

    #[test]
    fn a_file_keeps_its_order() {
        let text = r#"
            [[change]]
            rename = "a=b"
            [[change]]
            add = "a:int64=1"
            [[change]]
            drop = "c"
        "#;
        let texts = |text: &str| -> Vec<String> {
            Change::parse_toml(text).unwrap().iter().map(Change::text).collect()
        };
        assert_eq!(texts(text), ["rename a=b", "add a:int64=1", "drop c"]);
        assert_eq!(texts("changes = [{ drop = \"x\" }, { add = \"y:int8\" }]").len(), 2);
        assert_eq!(texts("drop = ['b', 'a']\nadd = 'y:int8'"), ["drop b", "drop a", "add y:int8"]);
        for bad in ["drop", "drop = 3", "droop = 'a'", "[change]\nx = 1", "changes = ['a']"] {
            assert!(Change::parse_toml(bad).is_err(), "{bad}");
        }
    }
}
