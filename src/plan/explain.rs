//! A plan as text for people and as JSON for programs.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema as ArrowSchema};
use lance_core::datatypes::Schema;
use serde_json::{Value, json};

use crate::plan::amounts::{bytes_text, count_text, counted};
use crate::plan::{
    Plan, choice::of_change, columns::WrittenColumns, facts::IndexFacts, finding::SkippedValues,
    indices::IndexFate,
};
use crate::schema::show::{field_text, type_text};
use crate::schema::{blob::is_blob_v1, change::Change};
use crate::{escape::Page, storage_version::abilities};

/// Columns of a schema that is shown whole. Of a wider one, what changes is.
const COLUMNS_SHOWN: usize = 40;

impl Plan {
    /// The plan for people: control characters in names and values are escaped.
    pub fn text(&self) -> String {
        let mut out = Page::default();
        // Writing to a page cannot fail.
        let _ = self.write_text(&mut out);
        out.into_text()
    }

    /// The plan for programs.
    pub fn json(&self) -> Value {
        let chunks = self.chunks.iter().map(|chunk| {
            let sources: Vec<_> =
                chunk.fragments.iter().map(|fragment| fragment.origin.id).collect();
            let (id, rows, bytes) = (chunk.id, chunk.rows(), chunk.bytes());
            json!({ "id": id, "rows": rows, "bytes": bytes, "fragments": sources })
        });
        let indices = self.indices.iter().map(|(index, fate)| {
            let IndexFacts { name, column, kind, .. } = index;
            json!({ "name": name, "column": column, "kind": kind, "fate": fate })
        });
        let details = self.target.changes.iter().map(|change| {
            let (strategy, why) = of_change(change);
            let inverse = change.inverse().map(|inverse| texts(&inverse).join(", "));
            json!({ "change": change.text(), "strategy": strategy, "why": why, "undo": inverse })
        });
        let others = self.others.iter().map(|(strategy, cost)| {
            json!({
                "strategy": strategy,
                "read_bytes": cost.read_bytes,
                "write_bytes": cost.write_bytes,
                "needed_bytes": cost.needed_bytes,
            })
        });
        let skipped: Vec<_> = self.target.skipped.iter().map(|skipped| &skipped.name).collect();
        json!({
            "table": self.table,
            "version": self.version,
            "strategy": self.strategy,
            "why": self.choice.why,
            "changes": texts(&self.target.changes),
            "change_details": details.collect::<Value>(),
            "other_strategies": others.collect::<Value>(),
            "skipped": skipped,
            "skipped_values": self.skipped_values,
            "producers": self.producer_trials,
            "joins": self.join_trials,
            "lost": self.target.lost,
            "bad_values": self.findings,
            "schema_before": schema_json(&self.before),
            "schema_after": schema_json(&self.target.schema),
            "storage_version": self.storage_version.to_manifest_string(),
            "storage_version_before": self.storage_version_before.to_manifest_string(),
            "rows": self.rows,
            "fragments": self.fragments,
            "chunks": chunks.collect::<Value>(),
            "read_bytes": self.cost.read_bytes,
            "write_bytes": self.cost.write_bytes,
            "verify_bytes": self.cost.verify_bytes,
            "needed_bytes": self.cost.needed_bytes,
            "free_bytes": self.cost.free_bytes,
            "store": self.store,
            "copied_columns": self.copied_columns(),
            "indices": indices.collect::<Value>(),
            "undo": self.inverse().map(|undo| texts(&undo)),
        })
    }

    /// Why this strategy.
    pub fn why(&self) -> &str {
        &self.choice.why
    }

    fn copied_columns(&self) -> Vec<String> {
        let columns = WrittenColumns::of(self);
        columns.copied_fields().flatten().map(|field| field.name.clone()).collect()
    }

    fn write_text(&self, out: &mut Page) -> std::fmt::Result {
        writeln!(out, "Plan for `{}` at version {}", self.table, self.version)?;
        writeln!(out, "  strategy   {}: {}", self.strategy, self.why())?;
        self.write_changes(out)?;
        self.write_schema(out)?;
        let chunks = counted(self.chunks.len() as u64, "chunk");
        let (rows, fragments) = (count_text(self.rows), counted(self.fragments, "fragment"));
        writeln!(out, "  rows       {rows} in {fragments}, {chunks}")?;
        self.write_files(out)?;
        self.write_costs(out)?;
        self.write_indices(out)?;
        if !self.is_nothing() {
            writeln!(out, "  undo       {}", self.undo_text())?;
        }
        Ok(())
    }

    fn write_changes(&self, out: &mut Page) -> std::fmt::Result {
        for change in &self.target.changes {
            let (strategy, why) = of_change(change);
            writeln!(out, "  change     {} ({strategy}: {why})", change.text())?;
        }
        for skipped in &self.target.skipped {
            writeln!(out, "  skipped    column `{}` {}", skipped.name, skipped.why)?;
        }
        for text in self.skipped_values.iter().filter_map(SkippedValues::text) {
            writeln!(out, "  values     {text}")?;
        }
        for trial in &self.producer_trials {
            writeln!(out, "  producer   {}", trial.text())?;
        }
        for trial in &self.join_trials {
            writeln!(out, "  join       {}", trial.text())?;
        }
        for finding in &self.findings {
            writeln!(out, "  to null    {}", finding.text())?;
        }
        for lost in &self.target.lost {
            writeln!(out, "  lost       {lost}")?;
        }
        Ok(())
    }

    fn write_costs(&self, out: &mut Page) -> std::fmt::Result {
        let cost = &self.cost;
        writeln!(out, "  read       {}", bytes_text(cost.read_bytes))?;
        let verify = bytes_text(cost.verify_bytes);
        writeln!(out, "  write      up to {}, read back {verify}", bytes_text(cost.write_bytes))?;
        let copied = self.copied_columns();
        if !copied.is_empty() {
            let names = copied.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
            let names = match names.as_slice() {
                names if names.len() <= COLUMNS_SHOWN => names.join(", "),
                names => counted(names.len() as u64, "column"),
            };
            writeln!(
                out,
                "  as it is   {names}: encoded pages, of fragments without deleted rows"
            )?;
        }
        if let Some(free) = cost.free_bytes {
            let needed = bytes_text(cost.needed_bytes);
            writeln!(out, "  space      {needed} needed, {} free", bytes_text(free))?;
        }
        if let Some(store) = &self.store {
            let (writes, reads) = (count_text(store.writes), count_text(store.reads));
            let dollars = store.dollars;
            writeln!(
                out,
                "  requests   about {writes} that write or list, {reads} that read: ${dollars}"
            )?;
            writeln!(out, "  commits    {}", store.commits.text())?;
        }
        for (strategy, cost) in &self.others {
            let (read, write) = (bytes_text(cost.read_bytes), bytes_text(cost.write_bytes));
            writeln!(out, "  instead    {strategy} would read {read} and write up to {write}")?;
        }
        Ok(())
    }

    fn write_indices(&self, out: &mut Page) -> std::fmt::Result {
        for (index, fate) in &self.indices {
            let asked = self.request.drop_indices.contains(&index.name);
            let fate = match fate {
                IndexFate::Keep => "kept",
                // Nothing is done about any of them then.
                IndexFate::Rebuild | IndexFate::Drop if self.is_nothing() => "kept",
                IndexFate::Rebuild => "rebuilt with the same parameters",
                IndexFate::Drop if asked => "dropped, as asked",
                IndexFate::Drop => "dropped with its column",
            };
            let (name, kind, column) = (&index.name, &index.kind, &index.column);
            writeln!(out, "  index      `{name}` ({kind} on `{column}`): {fate}")?;
        }
        Ok(())
    }

    fn write_files(&self, out: &mut Page) -> std::fmt::Result {
        if let Some(filter) = &self.request.filter {
            writeln!(out, "  keep       the rows for which {filter}")?;
        }
        if self.storage_version != self.storage_version_before {
            let (old, new) = (self.storage_version_before, self.storage_version);
            let (old, new) = (old.to_manifest_string(), new.to_manifest_string());
            writeln!(out, "  files      storage version {old} becomes {new}")?;
            let target = &self.target.schema.fields;
            let promoted = target.iter().filter(|field| {
                field.is_blob_v2() && self.before.field_by_id(field.id).is_some_and(is_blob_v1)
            });
            for field in promoted {
                let name = &field.name;
                writeln!(out, "  blobs      those of `{name}` become blob v2")?;
            }
            if let Some(client) = abilities(self.storage_version).oldest_client {
                writeln!(out, "  clients    {client} or newer can read it")?;
            }
        }
        Ok(())
    }

    fn undo_text(&self) -> String {
        let Some(undo) = self.inverse() else {
            return "`rollback`, at once; what was written after the swap cannot be carried back"
                .to_owned();
        };
        let undo = texts(&undo).join(", ");
        format!("`rollback`, at once; `rollback --keep-writes` carries later writes back ({undo})")
    }

    fn write_schema(&self, out: &mut Page) -> std::fmt::Result {
        let before = ArrowSchema::from(&self.before);
        let after = ArrowSchema::from(&self.target.schema);
        writeln!(out, "  schema")?;
        let same = |field: &&Arc<Field>| {
            before
                .field_with_name(field.name())
                .is_ok_and(|old| field_text(old) == field_text(field))
        };
        let kept = after.fields().iter().filter(same).count();
        let short = after.fields().len() > COLUMNS_SHOWN;
        for field in after.fields().iter().filter(|field| !short || !same(field)) {
            let text = field_text(field);
            match before.field_with_name(field.name()) {
                Err(_) => writeln!(out, "           + {text}")?,
                Ok(old) if field_text(old) == text => writeln!(out, "             {text}")?,
                Ok(old) => writeln!(out, "           ~ {text} (was {})", field_text(old))?,
            }
        }
        for field in before.fields() {
            if after.field_with_name(field.name()).is_err() {
                writeln!(out, "           - {}", field_text(field))?;
            }
        }
        if short && kept > 0 {
            writeln!(out, "             and {} as before", counted(kept as u64, "column"))?;
        }
        Ok(())
    }
}

fn texts(changes: &[Change]) -> Vec<String> {
    changes.iter().map(Change::text).collect()
}

fn schema_json(schema: &Schema) -> Value {
    let arrow = ArrowSchema::from(schema);
    let fields = arrow.fields().iter().map(|field| {
        let (name, nullable) = (field.name(), field.is_nullable());
        json!({ "name": name, "type": type_text(field.data_type()), "nullable": nullable })
    });
    fields.collect()
}
