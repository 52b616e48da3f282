//! Reads a type as `PyArrow` prints it: `fixed_size_list<item: float>[384]`, `timestamp[us, tz=UTC]`.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit};

use crate::error::{Error, Result};
use crate::escape::escape_line;
use crate::schema::extension::extension;
use crate::schema::type_names::{sized, unknown};

/// Reads the whole of `text` as a type.
///
/// # Errors
/// `Usage`, pointing at the place.
pub fn parse_type(text: &str) -> Result<DataType> {
    let mut parser = Parser::new(text);
    let data_type = parser.data_type()?;
    parser.end()?;
    Ok(data_type)
}

/// Reads the whole of `text` as the type of a new column: as [`parse_type`], or an extension type such as `json`. Gives the
/// metadata that its field has then, too.
///
/// # Errors
/// `Usage`, pointing at the place.
pub fn parse_new_type(text: &str) -> Result<(DataType, BTreeMap<String, String>)> {
    let mut parser = Parser::new(text);
    let found = parser.field_type()?;
    parser.end()?;
    Ok(found)
}

/// A cursor over a type, or over a longer text that holds one.
#[derive(Debug)]
pub(crate) struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// Types nested deeper than this are refused: reading and walking them takes stack.
pub(super) const DEPTH_MAX: usize = 64;

impl<'a> Parser<'a> {
    /// A cursor at the start of `text`.
    pub(crate) fn new(text: &'a str) -> Self {
        Self::starting_at(text, 0)
    }

    /// A cursor at byte `at` of `text`, so that errors show the whole of it.
    pub(crate) fn starting_at(text: &'a str, at: usize) -> Self {
        Self { text, at, depth: 0 }
    }

    /// The bytes not read yet.
    pub(crate) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Reads `token` if it comes next, after white space.
    pub(crate) fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Reads ` not null` if it comes next.
    pub(crate) fn eat_not_null(&mut self) -> bool {
        let start = self.at;
        if self.eat("not") && self.rest().starts_with(' ') && self.eat("null") {
            return true;
        }
        self.at = start;
        false
    }

    /// Reads one type.
    ///
    /// # Errors
    /// `Usage`, pointing at the place.
    pub(crate) fn data_type(&mut self) -> Result<DataType> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error("a type nested this deep is not supported"));
        }
        self.skip_space();
        let start = self.at;
        let name = self.word();
        let data_type = self.named(name, start)?;
        self.depth -= 1;
        Ok(data_type)
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// `Usage`, pointing at what is left.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.skip_space();
        if self.rest().is_empty() {
            return Ok(());
        }
        Err(self.error("expected nothing more here"))
    }

    /// An error that shows the text with a mark under the cursor.
    pub(crate) fn error(&self, message: &str) -> Error {
        self.error_at(self.at, message)
    }

    fn error_at(&self, at: usize, message: &str) -> Error {
        let before = self.text.get(..at).unwrap_or(self.text);
        let indent = " ".repeat(escape_line(before).chars().count());
        Error::usage(message).with_lines([self.text, &format!("{indent}^")])
    }

    /// Reads one type, which may be an extension type: `json`, or `extension<arrow.json>` as `PyArrow` prints it. Gives its
    /// field's metadata, too.
    ///
    /// # Errors
    /// `Usage`, pointing at the place.
    pub(crate) fn field_type(&mut self) -> Result<(DataType, BTreeMap<String, String>)> {
        self.skip_space();
        let start = self.at;
        let is_printed = self.eat("extension<");
        let word = self.rest().split(['>', '<', '=', ' ', '[', '(']).next().unwrap_or_default();
        if let Some(found) = extension(word) {
            self.at += word.len();
            if is_printed {
                self.expect(">")?;
            }
            return Ok(found);
        }
        if is_printed {
            return Err(self.error_at(start, "this extension type is not one that can be added"));
        }
        Ok((self.data_type()?, BTreeMap::new()))
    }

    fn named(&mut self, name: &str, start: usize) -> Result<DataType> {
        if let Some(simple) = simple_type(name) {
            let sized = sized(name, self.rest());
            return sized.map_or(Ok(simple), |message| Err(self.error_at(start, &message)));
        }
        match name {
            "" => Err(self.error_at(start, "expected a type")),
            "fixed_size_binary" => self.size().map(DataType::FixedSizeBinary),
            "date32" => self.unit_if_any("day", DataType::Date32),
            "date64" => self.unit_if_any("ms", DataType::Date64),
            "time32" => self.time(start, &[TimeUnit::Second, TimeUnit::Millisecond]),
            "time64" => self.time(start, &[TimeUnit::Microsecond, TimeUnit::Nanosecond]),
            "timestamp" => self.timestamp(),
            "duration" => {
                self.expect("[")?;
                let unit = self.unit()?;
                self.expect("]")?;
                Ok(DataType::Duration(unit))
            }
            "decimal128" | "decimal256" | "decimal" => self.decimal(name, start),
            "list" => Ok(DataType::List(self.element()?)),
            "large_list" => Ok(DataType::LargeList(self.element()?)),
            "fixed_size_list" => self.fixed_size_list(),
            "struct" => self.structure(),
            "map" => self.map(),
            "dictionary" => self.dictionary(start),
            _ => Err(self.error_at(start, &unknown(name, self.rest()))),
        }
    }

    fn time(&mut self, start: usize, units: &[TimeUnit]) -> Result<DataType> {
        self.expect("[")?;
        let unit = self.unit()?;
        self.expect("]")?;
        if !units.contains(&unit) {
            return Err(self.error_at(start, "time32 takes s or ms, time64 takes us or ns"));
        }
        Ok(match unit {
            TimeUnit::Second | TimeUnit::Millisecond => DataType::Time32(unit),
            TimeUnit::Microsecond | TimeUnit::Nanosecond => DataType::Time64(unit),
        })
    }

    fn timestamp(&mut self) -> Result<DataType> {
        self.expect("[")?;
        let unit = self.unit()?;
        let mut zone = None;
        if self.eat(",") {
            self.expect("tz")?;
            self.expect("=")?;
            self.skip_space();
            let start = self.at;
            let length = self.rest().find(']').unwrap_or(0);
            let name = self.rest().get(..length).unwrap_or_default().trim();
            if name.parse::<arrow::array::timezone::Tz>().is_err() {
                return Err(self.error_at(start, "expected a time zone, such as UTC or +08:00"));
            }
            self.at += length;
            zone = Some(Arc::from(name));
        }
        self.expect("]")?;
        Ok(DataType::Timestamp(unit, zone))
    }

    fn decimal(&mut self, name: &str, start: usize) -> Result<DataType> {
        self.expect("(")?;
        let precision: u8 = self.number("a precision")?;
        let mut scale: i8 = 0;
        if self.eat(",") {
            scale = self.number("a scale")?;
        }
        self.expect(")")?;
        let wide = name == "decimal256";
        let precision_max = if wide { 76 } else { 38 };
        if precision == 0 || precision > precision_max {
            let message = format!("a {name} has a precision from 1 to {precision_max}");
            return Err(self.error_at(start, &message));
        }
        if i16::from(scale) > i16::from(precision) {
            return Err(self.error_at(start, "the scale is larger than the precision"));
        }
        Ok(if wide {
            DataType::Decimal256(precision, scale)
        } else {
            DataType::Decimal128(precision, scale)
        })
    }

    fn fixed_size_list(&mut self) -> Result<DataType> {
        let element = self.element()?;
        let size = self.size()?;
        Ok(DataType::FixedSizeList(element, size))
    }

    fn structure(&mut self) -> Result<DataType> {
        self.expect("<")?;
        let mut fields: Vec<Field> = Vec::new();
        while !self.eat(">") {
            if !fields.is_empty() {
                self.expect(",")?;
            }
            self.skip_space();
            let start = self.at;
            let name = self.field_name()?;
            if fields.iter().any(|field| field.name() == name) {
                return Err(self.error_at(start, "this field name is used twice"));
            }
            fields.push(self.field(name)?);
        }
        if fields.is_empty() {
            return Err(self.error("a struct has at least one field"));
        }
        Ok(DataType::Struct(Fields::from(fields)))
    }

    fn map(&mut self) -> Result<DataType> {
        self.expect("<")?;
        let key = self.data_type()?;
        self.expect(",")?;
        let value = self.field("value")?;
        self.expect(">")?;
        let entries = Fields::from(vec![Field::new("key", key, false), value]);
        let entry = Field::new("entries", DataType::Struct(entries), false);
        Ok(DataType::Map(Arc::new(entry), false))
    }

    fn dictionary(&mut self, start: usize) -> Result<DataType> {
        self.expect("<")?;
        self.expect("values=")?;
        let values = self.data_type()?;
        self.expect(",")?;
        self.expect("indices=")?;
        let indices = self.data_type()?;
        if self.eat(",") {
            self.expect("ordered=0")?;
        }
        self.expect(">")?;
        if !indices.is_integer() {
            return Err(self.error_at(start, "a dictionary's indices are integers"));
        }
        Ok(DataType::Dictionary(Box::new(indices), Box::new(values)))
    }

    /// `<float>` or `<item: float not null>`.
    fn element(&mut self) -> Result<Arc<Field>> {
        self.expect("<")?;
        let start = self.at;
        let mut name = "item";
        if let Ok(found) = self.field_name() {
            name = found;
        } else {
            self.at = start;
        }
        let element = self.field(name)?;
        self.expect(">")?;
        Ok(Arc::new(element))
    }

    fn field(&mut self, name: &str) -> Result<Field> {
        let data_type = self.data_type()?;
        let nullable = !self.eat_not_null();
        Ok(Field::new(name, data_type, nullable))
    }

    /// A name and its colon.
    fn field_name(&mut self) -> Result<&'a str> {
        self.skip_space();
        let start = self.at;
        let stops = |c: char| matches!(c, ':' | ',' | '<' | '>' | '[' | '(');
        let length = self.rest().find(stops).unwrap_or(self.rest().len());
        let name = self.rest().get(..length).unwrap_or_default().trim();
        self.at += length;
        if name.is_empty() || !self.eat(":") {
            return Err(self.error_at(start, "expected a field as name: type"));
        }
        Ok(name)
    }

    fn size(&mut self) -> Result<i32> {
        self.expect("[")?;
        let start = self.at;
        let size: i32 = self.number("a size")?;
        if size < 1 {
            return Err(self.error_at(start, "a size is at least 1"));
        }
        self.expect("]")?;
        Ok(size)
    }

    fn unit_if_any(&mut self, unit: &str, data_type: DataType) -> Result<DataType> {
        if self.eat("[") {
            self.expect(unit)?;
            self.expect("]")?;
        }
        Ok(data_type)
    }

    fn unit(&mut self) -> Result<TimeUnit> {
        self.skip_space();
        let start = self.at;
        match self.word() {
            "s" => Ok(TimeUnit::Second),
            "ms" => Ok(TimeUnit::Millisecond),
            "us" => Ok(TimeUnit::Microsecond),
            "ns" => Ok(TimeUnit::Nanosecond),
            _ => Err(self.error_at(start, "expected a unit: s, ms, us or ns")),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        self.skip_space();
        let start = self.at;
        let digit = |c: char| c.is_ascii_digit() || c == '-';
        let length = self.rest().find(|c| !digit(c)).unwrap_or(self.rest().len());
        let digits = self.rest().get(..length).unwrap_or_default();
        self.at += length;
        let number = digits.parse();
        number.map_err(|_| self.error_at(start, &format!("expected {what}")))
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = rest.find(|c| !letter(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) {
            return Ok(());
        }
        Err(self.error(&format!("expected `{token}`")))
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }
}

fn simple_type(name: &str) -> Option<DataType> {
    Some(match name {
        "null" => DataType::Null,
        "bool" | "boolean" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "halffloat" | "float16" => DataType::Float16,
        "float" | "float32" => DataType::Float32,
        "double" | "float64" => DataType::Float64,
        "string" | "utf8" => DataType::Utf8,
        "large_string" | "large_utf8" => DataType::LargeUtf8,
        "binary" => DataType::Binary,
        "large_binary" => DataType::LargeBinary,
        "month_day_nano_interval" => DataType::Interval(IntervalUnit::MonthDayNano),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::show::type_text;

    #[test]
    fn every_type_reads_back_as_it_is_printed() {
        let texts = [
            "null",
            "bool",
            "int8",
            "uint64",
            "halffloat",
            "float",
            "double",
            "string",
            "large_string",
            "binary",
            "large_binary",
            "fixed_size_binary[16]",
            "date32[day]",
            "date64[ms]",
            "time32[s]",
            "time64[ns]",
            "timestamp[us]",
            "timestamp[us, tz=UTC]",
            "timestamp[ns, tz=+08:00]",
            "timestamp[s, tz=Asia/Tokyo]",
            "duration[ms]",
            "decimal128(10, 2)",
            "decimal256(60, -3)",
            "list<item: string>",
            "large_list<element: int8 not null>",
            "fixed_size_list<item: float>[384]",
            "struct<a: int32, b: string not null, c: list<item: struct<d: bool>>>",
            "map<string, int32>",
            "dictionary<values=string, indices=int32, ordered=0>",
        ];
        for text in texts {
            assert_eq!(type_text(&parse_type(text).unwrap()), text);
        }
    }

    #[test]
    fn short_forms_are_accepted() {
        let list = parse_type("fixed_size_list<float>[384]").unwrap();
        assert_eq!(type_text(&list), "fixed_size_list<item: float>[384]");
        assert_eq!(parse_type("list<string>").unwrap(), parse_type("list<item: string>").unwrap());
        assert_eq!(parse_type("date32").unwrap(), DataType::Date32);
        assert_eq!(parse_type(" float32 ").unwrap(), DataType::Float32);
    }

    #[test]
    fn errors_point_at_the_place() {
        let message = |text: &str| parse_type(text).unwrap_err().to_string();
        assert_eq!(
            message("timestmp[us]"),
            "no type is called `timestmp`; did you mean `timestamp`?\n  timestmp[us]\n  ^"
        );
        assert_eq!(
            message("timestamp[xs]"),
            "expected a unit: s, ms, us or ns\n  timestamp[xs]\n            ^"
        );
        assert_eq!(
            message("struct<a int32>"),
            "expected a field as name: type\n  struct<a int32>\n         ^"
        );
        assert!(message("int32]").starts_with("expected nothing more here"));
        assert!(message("decimal128(99, 2)").contains("precision from 1 to 38"));
        assert!(message("timestamp[us, tz=Nowhere/At]").contains("time zone"));
        assert!(message("").starts_with("expected a type"));
        assert!(message(&"list<".repeat(100)).contains("nested this deep"));
    }
}
