//! Where the time of a command went, in words and as JSON.

use serde_json::{Value, json};

use crate::spent::{self, Spent};

/// Where the time went since it began.
#[derive(Debug)]
pub(super) struct Breakdown {
    before: Spent,
}

impl Breakdown {
    /// Begins with no time gone.
    pub(super) fn begin() -> Self {
        Self { before: spent::now() }
    }

    /// The parts in words, with their sum.
    pub(super) fn text(&self) -> String {
        let parts = self.spent().parts();
        let all: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let each = parts.iter().map(|(name, seconds)| {
            let percent = 100.0 * seconds / all.max(f64::MIN_POSITIVE);
            format!("{name} {seconds:.3} ({percent:.0} %)")
        });
        let each = each.collect::<Vec<_>>().join(", ");
        format!("seconds: {each}; {all:.3} in all")
    }

    /// What the workers waited for longest; `None` for a short run.
    pub(super) fn limit(&self) -> Option<&'static str> {
        self.spent().limit()
    }

    /// The parts, and what limits the run.
    pub(super) fn json(&self) -> Value {
        let spent = self.spent();
        let parts =
            spent.parts().into_iter().map(|(name, seconds)| (name.to_owned(), json!(seconds)));
        let seconds: serde_json::Map<_, _> = parts.collect();
        json!({ "seconds": seconds, "limited_by": spent.limit() })
    }

    fn spent(&self) -> Spent {
        spent::now().since(&self.before)
    }
}
