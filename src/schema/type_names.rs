//! What was meant by a type that other tools have under another name.

/// The names that are suggested for one that is not known.
const NAMES: &str = "null bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 halffloat float \
    double string large_string binary large_binary fixed_size_binary date32 date64 \
    time32 time64 timestamp duration decimal128 decimal256 list large_list \
    fixed_size_list struct map dictionary";

/// Names of Python, SQL, pandas and Pydantic, and what they are called here.
const OTHERS: &[(&str, &str)] = &[
    ("int", "int64"),
    ("integer", "int64"),
    ("long", "int64"),
    ("bigint", "int64"),
    ("smallint", "int16"),
    ("tinyint", "int8"),
    ("uint", "uint64"),
    ("str", "string"),
    ("text", "string"),
    ("char", "string"),
    ("varchar", "string"),
    ("object", "string"),
    ("bytes", "binary"),
    ("bytea", "binary"),
    ("half", "halffloat"),
    ("real", "float"),
    ("datetime", "timestamp[us]"),
    ("datetime64", "timestamp[ns]"),
    ("timestamptz", "timestamp[us, tz=UTC]"),
    ("date", "date32"),
    ("time", "time64[us]"),
    ("timedelta", "duration[us]"),
    ("interval", "duration[us]"),
    ("numeric", "decimal128(38, 9)"),
];

/// What is told of `name`, which is no type, and of what comes after it.
pub(super) fn unknown(name: &str, rest: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let near = match number_in(rest, ['(', ')']).filter(|_| lower == "vector") {
        Some(size) => Some(format!("fixed_size_list<float>[{size}]")),
        None => near(&lower),
    };
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("no type is called `{name}`{near}")
}

/// What is told of `name`, a type of one value, with a size after it.
pub(super) fn sized(name: &str, rest: &str) -> Option<String> {
    let size = number_in(rest, ['[', ']'])?;
    Some(format!("{name} has no size; did you mean `fixed_size_list<{name}>[{size}]`?"))
}

fn near(lower: &str) -> Option<String> {
    if let Some((_, here)) = OTHERS.iter().find(|(other, _)| *other == lower) {
        return Some((*here).to_owned());
    }
    let distance = |known: &&str| strsim::damerau_levenshtein(known, lower);
    let near = NAMES.split(' ').min_by_key(distance)?;
    (distance(&near) <= 2).then(|| near.to_owned())
}

/// The digits between `marks` at the start of `text`.
fn number_in(text: &str, marks: [char; 2]) -> Option<&str> {
    let [open, close] = marks;
    let (digits, _) = text.strip_prefix(open)?.split_once(close)?;
    let digits = digits.trim();
    digits.chars().all(|c| c.is_ascii_digit()).then_some(digits).filter(|one| !one.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types::parse_type;

    #[test]
    fn names_of_other_tools_are_understood() {
        for (text, meant) in [
            ("str", "string"),
            ("VARCHAR", "string"),
            ("int", "int64"),
            ("datetime", "timestamp[us]"),
            ("Vector(384)", "fixed_size_list<float>[384]"),
            ("float32[384]", "fixed_size_list<float32>[384]"),
            ("int9", "int8"),
        ] {
            let message = parse_type(text).unwrap_err().to_string();
            assert!(message.contains(&format!("did you mean `{meant}`?")), "{text}: {message}");
        }
        for (_, meant) in OTHERS {
            parse_type(meant).unwrap();
        }
    }
}
