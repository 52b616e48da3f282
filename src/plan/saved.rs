//! A plan in a file, to be carried out later.

use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::{Plan, request::Request};
use crate::schema::show::field_text;

/// The form of the file.
const FORMAT: u32 = 1;

/// A plan to be carried out later as it was shown: each `now`, each type and the strategy are settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SavedPlan {
    /// The form that it has in a file.
    pub saved_plan: u32,
    /// The table that it was made for.
    pub table: String,
    /// The version that it was made on.
    pub version: u64,
    /// What is done.
    pub request: Request,
    /// The columns before, as text.
    pub schema: Vec<String>,
}

impl SavedPlan {
    /// Reads what a file holds.
    ///
    /// # Errors
    /// `Usage`, when `text` is no plan, or one of another relance.
    pub fn parse(text: &str) -> Result<Self> {
        let plan: Self = serde_json::from_str(text).map_err(|error| {
            Error::usage("not a plan as `relance plan --out` writes it").caused_by(error)
        })?;
        match plan.saved_plan {
            FORMAT => Ok(plan),
            other => Err(Error::usage(format!(
                "the plan has form {other}, this relance reads {FORMAT}; plan again"
            ))),
        }
    }

    /// Fails when it was made for other columns than `now`.
    ///
    /// # Errors
    /// `Refused`, with the difference.
    pub(crate) fn expect_schema(&self, table: &str, now: &Schema) -> Result<()> {
        let now = columns(now);
        if now == self.schema {
            return Ok(());
        }
        let less = |these: &[String], those: &[String], mark: &str| {
            let less = these.iter().filter(|text| !those.contains(text));
            less.map(|text| format!("{mark} {text}")).collect::<Vec<_>>()
        };
        let lines = [less(&self.schema, &now, "-"), less(&now, &self.schema, "+")].concat();
        let lines = if lines.is_empty() { vec!["the order differs".to_owned()] } else { lines };
        let message = format!("`{table}` has other columns than the plan (- planned, + now):");
        Err(Error::refused(message).with_lines(lines).with_advice("plan again"))
    }
}

impl Plan {
    /// The plan, to be carried out later.
    pub fn saved(&self) -> SavedPlan {
        let (changes, strategy) = (self.changes().to_vec(), Some(self.strategy));
        SavedPlan {
            saved_plan: FORMAT,
            table: self.table.clone(),
            version: self.version,
            request: Request { changes, strategy, ..self.request.clone() },
            schema: columns(&self.schema_before()),
        }
    }
}

fn columns(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|field| field_text(field)).collect()
}
