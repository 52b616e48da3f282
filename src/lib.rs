//! Migrates `LanceDB` tables, however large, to a new schema: columns are added, computed, cast, filled,
//! renamed and dropped, several at once, by the cheapest [`Strategy`] that can do it. What is new is
//! written beside the live table, verified, and swapped in by one atomic commit. No full backup is made
//! and no row is lost; readers go on reading the version that they have.
//!
//! ```no_run
//! # async fn example() -> relance::Result<()> {
//! use relance::{Change, Ended, Location, Migration};
//!
//! let documents = Location::new("data/my_lancedb", "documents")?;
//! let migration = Migration::of(documents)
//!     .change(Change::parse_add("category:string=general")?)
//!     .change(Change::parse_add("is_active:bool not null=true")?);
//! println!("{}", migration.plan().await?.text());
//! if let Ended::Swapped(report) = migration.migrate().await? {
//!     println!("version {} has {} rows", report.version_swapped, report.rows);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The [`guide`] explains it step by step; [`guide::architecture`] is for whoever reads the code.
//!
//! # What survives a crash
//!
//! Nothing before the swap changes what a reader of the live table sees, and the swap is one commit
//! that lands on one version or not at all. Whatever dies, whenever, the live table is the old one or
//! the new one, whole. What was staged is a table of its own, `<table>__relance_staging`, and is its own
//! journal: [`Migration::resume`] goes on from it, [`Migration::abort`] removes it and every file that
//! the migration wrote. The version before the swap stays under a tag until [`Migration::finalize`];
//! [`Migration::rollback`] puts it back.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(feature = "internals"),
    allow(dead_code, unreachable_pub, reason = "tests and benches use it, through `internals`")
)]

mod budget;
mod cancel;
mod chunk;
#[cfg(feature = "cli")]
pub mod cli;
mod clock;
mod error;
mod escape;
mod guard;
pub mod guide;
mod journal;
mod limits;
mod location;
mod meter;
mod phase;
mod plan;
mod process;
mod progress;
mod retry;
mod run;
mod schema;
mod secret;
mod settings;
mod span;
mod spent;
mod stage;
mod storage;
mod storage_version;
mod store_options;
mod supply;
mod table;
mod tally;
mod transform;
mod verify;

pub use cancel::Cancel;
pub use clock::{Clock, SystemClock};
pub use error::{Error, Kind, Result};
pub use location::{Location, STAGING_SUFFIX};
pub use phase::Phase;
pub use plan::cost::Cost;
pub use plan::requests::{Commits, Prices, StoreEstimate};
pub use plan::tuning::{Knobs, Trial, Tuned};
pub use plan::{
    Example, Finding, IndexFacts, IndexFate, JoinTrial, Nulled, Plan, ProducerTrial, Request,
    SavedPlan, SkippedValues, Strategy,
};
pub use progress::{Amount, Event, Progress, SharedProgress, Silent};
pub use run::report::{
    Aborted, Ended, Finalized, Held, KeptVersion, NullsStatus, PinStatus, PointStatus, Report,
    RolledBack, StagedStatus, TableStatus, Unused, Verified,
};
pub use run::{Migration, Writes};
pub use schema::cast::Problem;
pub use schema::change::{Add, Cast, Change, Compute};
pub use schema::elsewhere::{By, Join, OnDuplicate, OnMissing, Produce, Take};
pub use schema::target::IfExists;
pub use schema::types::{parse_new_type, parse_type};
pub use settings::{
    BatchSize, Hold, OnBadValue, Preflight, Settings, Verify, parse_batch_size, parse_bytes,
    parse_duration,
};
pub use span::SPAN_TARGET;
pub use spent::SPANS;
pub use storage::traffic::{PhaseFigures, StoreFigures};
pub use supply::Producer;
pub use table::database::table_names;
pub use table::sample::{Sample, Sampled};
pub use tally::RunFigures;
pub use transform::digest::Digest;

/// What the crate's own tests and benches need besides. Nothing in here is promised.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::schema::target::Target;
    pub use crate::transform::Transform;
    pub use crate::transform::digest::ColumnDigest;
}

/// Its example is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
