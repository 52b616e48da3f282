//! A plan as text for people and as JSON for programs.

use std::fmt::Write as _;

use arrow::datatypes::Schema as ArrowSchema;
use lance_core::datatypes::Schema;
use serde_json::{Value, json};

use crate::plan::{IndexFate, Plan, Strategy};
use crate::schema::change::Change;
use crate::schema::show::{field_text, type_text};

impl Plan {
    /// The plan for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    /// The plan for programs.
    pub fn json(&self) -> Value {
        let chunks: Vec<_> = self.chunks.iter().map(|chunk| {
            let sources: Vec<_> = chunk.fragments.iter().map(|fragment| fragment.origin.id).collect();
            json!({ "id": chunk.id, "rows": chunk.rows(), "bytes": chunk.bytes(), "fragments": sources })
        }).collect();
        let indices: Vec<_> = self.indices.iter().map(|(index, fate)| {
            json!({ "name": index.name, "column": index.column, "kind": index.kind, "fate": fate })
        }).collect();
        let changes: Vec<_> = self.target.changes.iter().map(Change::text).collect();
        json!({
            "table": self.table,
            "version": self.version,
            "strategy": self.strategy,
            "why": self.why(),
            "changes": changes,
            "skipped": self.target.skipped,
            "schema_before": schema_json(&self.before),
            "schema_after": schema_json(&self.target.schema),
            "storage_version": self.storage_version.to_manifest_string(),
            "rows": self.rows(),
            "fragments": self.chunks.iter().map(|chunk| chunk.fragments.len()).sum::<usize>(),
            "chunks": chunks,
            "read_bytes": self.cost.read_bytes,
            "write_bytes": self.cost.write_bytes,
            "verify_bytes": self.cost.verify_bytes,
            "needed_bytes": self.cost.needed_bytes,
            "free_bytes": self.cost.free_bytes,
            "indices": indices,
            "undo": self.inverse().map(|undo| undo.iter().map(Change::text).collect::<Vec<_>>()),
        })
    }

    /// Why this strategy.
    pub fn why(&self) -> &'static str {
        match self.strategy {
            Strategy::Nothing => "the table is as asked already",
            Strategy::Rewrite => "every row is streamed into new fragments, with the new columns",
        }
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "Plan for `{}` at version {}", self.table, self.version)?;
        writeln!(out, "  strategy   {}: {}", self.strategy, self.why())?;
        for change in &self.target.changes {
            writeln!(out, "  change     {}", change.text())?;
        }
        for name in &self.target.skipped {
            writeln!(out, "  skipped    column `{name}` exists already with this type")?;
        }
        self.write_schema(out)?;
        let fragments: usize = self.chunks.iter().map(|chunk| chunk.fragments.len()).sum();
        let (rows, chunks) = (count_text(self.rows()), self.chunks.len());
        writeln!(out, "  rows       {rows} in {fragments} fragments, {chunks} chunks")?;
        let cost = &self.cost;
        writeln!(out, "  read       {}", bytes_text(cost.read_bytes))?;
        let verify = bytes_text(cost.verify_bytes);
        writeln!(out, "  write      up to {}, read back {verify}", bytes_text(cost.write_bytes))?;
        if let Some(free) = cost.free_bytes {
            let needed = bytes_text(cost.needed_bytes);
            writeln!(out, "  space      {needed} needed, {} free", bytes_text(free))?;
        }
        for (index, fate) in &self.indices {
            let fate = match fate {
                IndexFate::Rebuild if self.target.is_unchanged() => "kept",
                IndexFate::Rebuild => "rebuilt after the swap with the same parameters",
                IndexFate::Drop => "dropped, as asked",
            };
            let (name, kind, column) = (&index.name, &index.kind, &index.column);
            writeln!(out, "  index      `{name}` ({kind} on `{column}`): {fate}")?;
        }
        if !self.target.is_unchanged() {
            writeln!(out, "  undo       {}", self.undo_text())?;
        }
        Ok(())
    }

    fn undo_text(&self) -> String {
        let Some(undo) = self.inverse() else {
            return "`rollback`, at once; what was written after the swap cannot be carried back"
                .to_owned();
        };
        let undo: Vec<_> = undo.iter().map(Change::text).collect();
        let undo = undo.join(", ");
        format!("`rollback`, at once; `rollback --keep-writes` carries later writes back ({undo})")
    }

    fn write_schema(&self, out: &mut String) -> std::fmt::Result {
        let before = ArrowSchema::from(&self.before);
        let after = ArrowSchema::from(&self.target.schema);
        writeln!(out, "  schema")?;
        for field in after.fields() {
            let mark = if before.field_with_name(field.name()).is_ok() { ' ' } else { '+' };
            writeln!(out, "           {mark} {}", field_text(field))?;
        }
        for field in before.fields() {
            if after.field_with_name(field.name()).is_err() {
                writeln!(out, "           - {}", field_text(field))?;
            }
        }
        Ok(())
    }
}

fn schema_json(schema: &Schema) -> Value {
    let arrow = ArrowSchema::from(schema);
    let fields = arrow.fields().iter().map(|field| {
        json!({
            "name": field.name(),
            "type": type_text(field.data_type()),
            "nullable": field.is_nullable(),
        })
    });
    Value::Array(fields.collect())
}

/// `1_500_000` as `1,500,000`.
pub fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in binary units.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: &[&str] = &["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes;
    let mut unit = "KiB";
    let mut rest = 0;
    for name in UNITS {
        unit = name;
        rest = scaled % 1024 * 10 / 1024;
        scaled /= 1024;
        if scaled < 1024 {
            break;
        }
    }
    format!("{scaled}.{rest} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(count_text(0), "0");
        assert_eq!(count_text(1_234_567), "1,234,567");
        assert_eq!(bytes_text(1023), "1023 B");
        assert_eq!(bytes_text(1536), "1.5 KiB");
        assert_eq!(bytes_text(3 << 40), "3.0 TiB");
    }
}
