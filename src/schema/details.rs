//! What is more to be said of a change: where its values come from.
#![allow(clippy::wildcard_enum_match_arm, reason = "what is said of a change fits a few of them")]

use crate::error::{Error, Result};
use crate::schema::change::{Add, Change};
use crate::schema::elsewhere::{By, Join, OnDuplicate, OnMissing, PRODUCED_ROWS, Produce, Take};
use crate::schema::path::part_end;

/// The words for what is more to be said of an `add`, a `replace` or a `join`.
pub(crate) const DETAILS: &[&str] = &[
    "by",
    "inputs",
    "by-version",
    "by-batch",
    "keep-old",
    "on",
    "take",
    "on-missing",
    "on-duplicate",
];

impl Change {
    /// The change, with more said of it: `detail` is one of the words for that.
    ///
    /// # Errors
    /// `Usage`, when it cannot be said of this change, or is malformed.
    pub(crate) fn detailed(self, detail: &str, text: &str) -> Result<Self> {
        match (self, detail) {
            (Self::Add(Add { default: None, .. }), _) if text.is_empty() => {
                Err(Error::usage(format!("--{detail} is empty")))
            }
            (
                Self::Add(add @ Add { default: None, .. }),
                "by" | "inputs" | "by-version" | "by-batch",
            ) => Self::Produce(produced(add)).detailed(detail, text),
            (Self::Produce(produce), _) => {
                produce_detailed(produce, detail, text).map(Self::Produce)
            }
            (Self::Join(join), _) => join_detailed(join, detail, text).map(Self::Join),
            (other, _) => {
                let (of, verb) = (wanted_by(detail), other.verb());
                Err(Error::usage(format!(
                    "--{detail} comes after the {of} that it is of, not a --{verb}"
                )))
            }
        }
    }

    /// The change, if all that it needs was said.
    ///
    /// # Errors
    /// `Usage`, naming what is missing.
    pub(crate) fn completed(self) -> Result<Self> {
        let missing = match &self {
            Self::Add(Add { nullable: false, default: None, name, .. }) => Some(format!(
                "column `{name}` is `not null`, so it needs a literal: {}=…",
                self.text().trim_start_matches("add ")
            )),
            Self::Produce(Produce { by: By::Program(line), name, .. }) if line.is_empty() => {
                Some(format!("column `{name}` needs what gives its values: --by PROGRAM"))
            }
            Self::Produce(Produce { inputs, name, .. }) if inputs.is_empty() => {
                Some(format!("the producer of column `{name}` needs columns: --inputs NAME,NAME"))
            }
            Self::Join(Join { on, take, from, .. }) if on.is_empty() || take.is_empty() => {
                Some(format!("--join '{from}' needs --on KEY and --take COLUMNS"))
            }
            _ => None,
        };
        missing.map_or(Ok(self), |missing| Err(Error::usage(missing)))
    }
}

/// The column of `add`, with its values still to be said.
pub(super) fn produced(add: Add) -> Produce {
    let Add { name, data_type, nullable, metadata, .. } = add;
    Produce {
        name,
        data_type,
        nullable,
        metadata,
        replaces: false,
        keep_old: None,
        by: By::Program(String::new()),
        inputs: Vec::new(),
        version: None,
        batch_rows: PRODUCED_ROWS,
        embedding: None,
    }
}

/// What `detail` can be said of.
fn wanted_by(detail: &str) -> &'static str {
    match detail {
        "by" | "inputs" | "by-version" | "by-batch" => "--add or --replace",
        "keep-old" => "--replace",
        _ => "--join",
    }
}

fn produce_detailed(produce: Produce, detail: &str, text: &str) -> Result<Produce> {
    let text = text.to_owned();
    if text.trim().is_empty() {
        return Err(Error::usage(format!("--{detail} is empty")));
    }
    Ok(match detail {
        "by" => Produce { by: By::Program(text), ..produce },
        "inputs" => {
            let more = listed(&text)?;
            Produce { inputs: produce.inputs.into_iter().chain(more).collect(), ..produce }
        }
        "by-version" => Produce { version: Some(text), ..produce },
        "by-batch" => {
            let rows = text.trim().parse().ok().filter(|rows| (1..=1 << 20).contains(rows));
            let wrong =
                || Error::usage(format!("--by-batch {text}: a number of rows up to 1048576"));
            Produce { batch_rows: rows.ok_or_else(wrong)?, ..produce }
        }
        "keep-old" if produce.replaces => Produce { keep_old: Some(new_name(&text)?), ..produce },
        _ => {
            let of = wanted_by(detail);
            return Err(Error::usage(format!("--{detail} comes after the {of} that it is of")));
        }
    })
}

fn join_detailed(mut join: Join, detail: &str, text: &str) -> Result<Join> {
    let one_of = |words: &str| Error::usage(format!("--{detail} {text}: there is {words}"));
    match detail {
        "on" => join.on.extend(pairs(text)?),
        "take" => {
            let take = |(name, from)| Take { name, from, data_type: None, exists: false };
            join.take.extend(pairs(text)?.into_iter().map(take));
        }
        "on-missing" => {
            join.on_missing = match text {
                "error" => OnMissing::Error,
                "null" => OnMissing::Null,
                "keep" => OnMissing::Keep,
                _ => return Err(one_of("error, null, keep")),
            }
        }
        "on-duplicate" => {
            join.on_duplicate = match text {
                "error" => OnDuplicate::Error,
                "first" => OnDuplicate::First,
                "last" => OnDuplicate::Last,
                _ => return Err(one_of("error, first, last")),
            }
        }
        _ => {
            let of = wanted_by(detail);
            return Err(Error::usage(format!("--{detail} comes after the {of} that it is of")));
        }
    }
    Ok(join)
}

/// Names with commas between them. One with a comma in it stands in backticks.
fn listed(text: &str) -> Result<Vec<String>> {
    let (mut names, mut rest) = (Vec::new(), text);
    loop {
        let (name, after) = rest.split_at(part_end(rest, &[',']));
        if name.trim().is_empty() {
            return Err(Error::usage(format!("expected names with commas between them: {text}")));
        }
        names.push(name.trim().to_owned());
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(names),
        }
    }
}

/// Names, or pairs of them as `OWN=THERE`, with commas between them.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let pair = |text: String| {
        let (own, there) = text.split_at(part_end(&text, &['=']));
        let there = there.strip_prefix('=').unwrap_or(own);
        if own.is_empty() || there.is_empty() {
            return Err(Error::usage(format!("expected a name, or two as OWN=THERE: {text}")));
        }
        Ok((own.to_owned(), unquoted(there)))
    };
    listed(text)?.into_iter().map(pair).collect()
}

/// A name without the backticks that it stands in.
fn unquoted(name: &str) -> String {
    let inner = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
    inner.map_or_else(|| name.to_owned(), |inner| inner.replace("``", "`"))
}

/// `text` as the name of a new column, whose outer spaces would be an accident.
pub(super) fn new_name(text: &str) -> Result<String> {
    if text.trim() == text {
        return Ok(text.to_owned());
    }
    let trimmed = text.trim();
    Err(Error::usage(format!("the name `{text}` begins or ends with a space"))
        .with_advice(&format!("leave it out (`{trimmed}`), or write the name in backticks")))
}
