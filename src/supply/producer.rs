//! Producers: what gives values for batches of other columns, and how it fails.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};

use crate::supply::program::Program;

/// Gives the values of a column. Called from several threads at once, where [`Settings::by_parallel`] allows it, and for
/// each row once, but for those of a call whose result was lost with the process.
///
/// [`Settings::by_parallel`]: crate::Settings::by_parallel
pub trait Producer: Debug + Send + Sync {
    /// The values for the rows of `inputs`, in their order: an array of the declared type, as long as `inputs`.
    ///
    /// # Errors
    /// Whatever went wrong. It is called again for the same rows after a pause, as often as
    /// [`Settings::by_retries`](crate::Settings::by_retries) says.
    fn produce(&self, inputs: &RecordBatch) -> Result<ArrayRef, Box<dyn StdError + Send + Sync>>;
}

/// Why a call gave no values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub why: String,
    /// The last lines that a program wrote to stderr.
    pub lines: Vec<String>,
    /// The rows of the batch that have no value, where the others have.
    pub rows: Vec<usize>,
    /// Whether it has nothing to do with the rows: they are not to become null.
    pub is_of_all: bool,
}

impl Failure {
    pub(super) fn of(why: impl Into<String>) -> Self {
        Self { why: why.into(), lines: Vec::new(), rows: Vec::new(), is_of_all: false }
    }
}

/// What is called.
#[derive(Debug, Clone)]
pub(super) enum Called {
    Program(Arc<Program>),
    Function(Arc<dyn Producer>),
}

impl Called {
    /// What it gives for `inputs`.
    ///
    /// # Errors
    /// Why it gives nothing.
    pub(super) async fn call(&self, inputs: RecordBatch) -> Result<ArrayRef, Failure> {
        match self {
            Self::Program(program) => program.call(&inputs).await,
            Self::Function(function) => {
                let function = Arc::clone(function);
                let called = tokio::task::spawn_blocking(move || {
                    function.produce(&inputs).map_err(|error| error.to_string())
                });
                match called.await {
                    Ok(given) => given.map_err(Failure::of),
                    Err(error) => Err(Failure::of(format!("it panicked: {error}"))),
                }
            }
        }
    }
}
