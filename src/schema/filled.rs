//! The columns that changes add with a value: writers who do not know of them leave nulls there.

use crate::schema::change::{Add, Change};
use crate::schema::path::renamed;

/// A column that was added with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Its path after all changes.
    pub column: String,
    /// The value as text, in the type that it was added with.
    pub value: String,
}

/// The columns that `changes` add with a value, in order, by their names after all changes.
pub(crate) fn filled(changes: &[Change]) -> Vec<Filled> {
    let mut all: Vec<Filled> = Vec::new();
    for change in changes {
        match change {
            Change::Add(Add { name, default: Some(value), .. }) => {
                all.push(Filled { column: name.clone(), value: value.clone() });
            }
            Change::Rename { name, to } => {
                for one in &mut all {
                    if let Some(rest) = below(&one.column, name) {
                        one.column = format!("{}{rest}", renamed(name, to));
                    }
                }
            }
            Change::Drop { name } | Change::Set { name, .. } => {
                all.retain(|one| below(&one.column, name).is_none());
            }
            Change::Produce(_) | Change::Join(_) => {
                let new = change.columns_added().unwrap_or_default();
                let name = change.column();
                all.retain(|one| new.contains(&name) || below(&one.column, name).is_none());
            }
            Change::Add(_)
            | Change::Compute(_)
            | Change::Cast(_)
            | Change::Fill { .. }
            | Change::Nullable { .. }
            | Change::NotNull { .. } => {}
        }
    }
    all
}

/// What comes after `path` in `column`, if `path` is the column itself or a struct around it.
fn below<'a>(column: &'a str, path: &str) -> Option<&'a str> {
    column.strip_prefix(path).filter(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let parsed = changes.iter().map(|(verb, text)| Change::parse(verb, text).unwrap());
        let all = filled(&parsed.collect::<Vec<_>>());
        all.into_iter().map(|one| (one.column, one.value)).collect()
    }

    #[test]
    fn only_values_count_under_the_names_that_they_end_with() {
        let pair = |column: &str, value: &str| (column.to_owned(), value.to_owned());
        assert_eq!(of(&[("add", "n:int64=7"), ("add", "m:int64")]), [pair("n", "7")]);
        assert_eq!(of(&[("compute", "n=a + 1"), ("fill", "a=1")]), []);
        assert_eq!(of(&[("add", "a.n:int8=1"), ("rename", "a.n=m")]), [pair("a.m", "1")]);
        assert_eq!(of(&[("add", "a.n:int8=1"), ("rename", "a=b")]), [pair("b.n", "1")]);
        assert_eq!(of(&[("add", "n:int8=1"), ("drop", "n")]), []);
        assert_eq!(of(&[("add", "nn:int8=1"), ("rename", "n=m")]), [pair("nn", "1")]);
    }
}
