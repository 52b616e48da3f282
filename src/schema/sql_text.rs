//! What an expression's text is refused for before it is parsed.

use arrow::datatypes::Schema;

use crate::error::{Error, Result};

/// Operators and parentheses in one expression: a parser and what it gives go as deep as there are of them, and
/// each takes stack.
const OPERATORS_MAX: usize = 500;

/// A piece of an expression.
enum Piece<'a> {
    /// A text in quotes, or a name in backticks, without them.
    Quoted(char, &'a str),
    /// All that stands between these.
    Plain(&'a str),
}

/// The pieces of `text`. A quote is doubled in what it quotes, which makes two pieces of one; nobody minds here.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some(start) = rest.find(['\'', '"', '`']) {
        let (plain, quoted) = rest.split_at(start);
        let quote = quoted.chars().next().unwrap_or_default();
        let inner = quoted.get(1..).unwrap_or_default();
        let end = inner.find(quote).unwrap_or(inner.len());
        pieces.push(Piece::Plain(plain));
        pieces.push(Piece::Quoted(quote, inner.get(..end).unwrap_or_default()));
        rest = inner.get(end + 1..).unwrap_or_default();
    }
    pieces.push(Piece::Plain(rest));
    pieces
}

/// Refuses a column of `schema` in the quotes of a text, a placeholder, and an expression of too many operators.
///
/// # Errors
/// `Usage`, saying which it is.
pub(super) fn expect_readable(text: &str, schema: &Schema) -> Result<()> {
    let mut operators = 0;
    for piece in pieces(text) {
        match piece {
            Piece::Quoted('"', name) if schema.column_with_name(name).is_some() => {
                return Err(Error::usage(format!(
                    "`{text}`: in this SQL \"{name}\" is a text; the column is `{name}`, in backticks"
                )));
            }
            Piece::Quoted(..) => {}
            Piece::Plain(plain) if plain.contains(['?', '$']) => {
                return Err(Error::usage(format!(
                    "`{text}` has a placeholder; write the value itself"
                )));
            }
            Piece::Plain(plain) => operators += operators_in(plain),
        }
    }
    if operators > OPERATORS_MAX {
        return Err(Error::usage(format!(
            "an expression has at most {OPERATORS_MAX} operators and parentheses, and this one has \
             {operators}"
        ))
        .with_advice(
            "compute a column from a part of it first, or list values as `x IN (1, 2, 3)`",
        ));
    }
    Ok(())
}

fn operators_in(plain: &str) -> usize {
    let words = ["and", "or", "not", "is", "like", "in", "between", "case", "when", "else"];
    let words = plain
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| words.iter().any(|known| word.eq_ignore_ascii_case(known)));
    words.count()
        + plain.matches(['+', '-', '*', '/', '%', '<', '>', '=', '|', '&', '^', '(', '[']).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field};

    #[test]
    fn what_cannot_be_read_is_told_before_it_is_parsed() {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
        let read = |text: &str| expect_readable(text, &schema);
        let many = vec!["id"; 501].join(" + ");
        for good in ["id + 1", r#"'{"id": 3}'"#, "'?'", "`a?` = 'it''s \"id\"'", &many] {
            assert!(read(good).is_ok(), "{good}");
        }
        let list = (0..5_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        assert!(read(&format!("id IN ({list})")).is_ok());
        let deep = vec!["id"; 502].join(" OR ");
        for bad in [r#""id" + 1"#, "id = ?", "id = $1", &deep, "'", &"(".repeat(501)] {
            assert_eq!(read(bad).is_err(), bad != "'", "{bad}");
        }
    }
}
