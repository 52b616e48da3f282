//! How a migration is run: plain data, with defaults. What is asked for is in [`Request`](crate::Request).

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The size of the record batches that flow through the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BatchSize {
    /// By the width of the rows and their columns, as measured: see [the guide](crate::guide::speed_and_memory).
    Auto,
    /// A number of rows.
    Rows(u32),
    /// About this many bytes, as many rows as fit.
    Bytes(u64),
}

impl BatchSize {
    /// Rows in a batch of rows of this `width`. Never 0.
    pub(crate) fn rows(self, width: Width) -> u32 {
        match self {
            Self::Rows(rows) => rows.max(1),
            Self::Auto | Self::Bytes(_) => {
                let rows = self.bytes(width) / width.bytes.max(1);
                u32::try_from(rows.clamp(1, 1 << 20)).unwrap_or(1)
            }
        }
    }

    /// Bytes in a batch of rows of this `width`.
    pub(crate) fn bytes(self, width: Width) -> u64 {
        match self {
            Self::Auto => {
                let (least, most) = AUTO_BYTES;
                width.columns.saturating_mul(AUTO_COLUMN_BYTES).clamp(least, most)
            }
            Self::Rows(rows) => u64::from(rows).saturating_mul(width.bytes),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// How wide a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Width {
    /// Bytes of a row, on average.
    pub bytes: u64,
    /// Its columns, each field inside a struct or list counted by itself.
    pub columns: u64,
}

/// Bytes of a batch that is sized by itself, at least and at most: below, throughput is the same, but memory
/// is not; above, it falls.
const AUTO_BYTES: (u64, u64) = (256 << 10, 4 << 20);

/// Bytes that such a batch has for each column: with less, handing arrays around costs more than what is in them.
const AUTO_COLUMN_BYTES: u64 = 8 << 10;

/// How much is read back before the swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verify {
    /// Every value of every staged column is decoded and compared by digest. What an object store confirms to have, by its
    /// own checksum of these very bytes, is decoded before they are let go of; all else is read back.
    Full,
    /// The same, and everything is read back, whatever a store says.
    #[serde(rename = "full=read")]
    Read,
    /// Row counts, schema and the first rows of every staged file.
    Quick,
}

impl Verify {
    /// Whether every value is compared.
    pub(crate) fn is_full(self) -> bool {
        self != Self::Quick
    }

    /// The same, or full.
    pub(crate) fn at_least_full(self) -> Self {
        if self.is_full() { self } else { Self::Full }
    }

    /// What a journal says of it; what was not read back stands beside it.
    pub(crate) fn as_recorded(self) -> Self {
        if self.is_full() { Self::Full } else { Self::Quick }
    }
}

/// How a migration is run. Every field has a default, and none changes the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Size of a record batch in the pipeline. Default: by the width of the rows.
    pub batch_size: BatchSize,
    /// Chunks staged at once, and threads of the transform pool. Default: the processors.
    pub workers: usize,
    /// Batches of a chunk that wait between the transform and the writer. Default 2.
    pub queue: usize,
    /// Bytes of record batches in flight, all workers together. Default 512 MiB.
    pub memory_bytes: u64,
    /// Bytes written a second, at most. Default: no limit.
    pub max_rate: Option<u64>,
    /// A file that may change `max_rate` while a migration runs: `max-rate = "50MB"` or `"none"`, in TOML.
    /// Default: none.
    pub control: Option<PathBuf>,
    /// How much is read back before the swap. Default: all.
    pub verify: Verify,
    /// Stop before the swap and wait for `resume`. Default: no.
    pub hold: Hold,
    /// Rounds of catching up with writers after everything was staged for the first time. Default 100.
    pub max_rounds: u32,
    /// Time for them. Default one hour.
    pub cutover_timeout: Duration,
    /// Calls of a producer at once. Default: the workers for a program, which has a process for each; 1 for a function.
    pub by_parallel: Option<usize>,
    /// How often a producer's call that failed is tried again, after pauses of 0.5 s and more. Default 2.
    pub by_retries: u32,
    /// Time after which a producer's call has failed. Default: none.
    pub by_timeout: Option<Duration>,
    /// Whether a number that is infinite or none is no value, where a producer gives it. Default: no.
    pub finite: bool,
    /// Whether `plan` tries an object store: whether an empty object can be written there, not twice, and removed. Default: no,
    /// and `plan` writes nothing.
    pub try_store: bool,
}

/// Whether a migration waits before its swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Hold {
    /// It swaps as soon as nothing lags.
    #[default]
    No,
    /// It ends once everything is staged and verified; `resume` catches up and swaps.
    Exit,
    /// It goes on catching up and verifying until `resume` takes over, or it is stopped.
    Wait,
}

/// What is done about values that a change cannot take over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnBadValue {
    /// The migration is refused.
    #[default]
    Fail,
    /// They become null.
    Null,
    /// They become null, and their rows are copied as they were to `<table>__relance_quarantine`.
    Quarantine,
}

/// How much of the data the changes are tried on before anything is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preflight {
    /// Every row.
    #[default]
    Full,
    /// The first rows of every fragment; the others are tried when they are staged.
    Sample,
}

/// Rows after which a staged file is closed, if nothing else is asked.
pub(crate) const ROWS_PER_FILE: u64 = 1 << 20;

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_size: BatchSize::Auto,
            queue: 2,
            workers: std::thread::available_parallelism().map_or(2, usize::from),
            memory_bytes: 512 << 20,
            max_rate: None,
            control: None,
            verify: Verify::Full,
            hold: Hold::No,
            max_rounds: 100,
            cutover_timeout: Duration::from_hours(1),
            by_parallel: None,
            by_retries: 2,
            by_timeout: None,
            finite: false,
            try_store: false,
        }
    }
}

impl Settings {
    /// Checks every field on its own.
    ///
    /// # Errors
    /// `Usage`, naming the field, when one is zero or out of range.
    pub fn validate(&self) -> Result<()> {
        let Self { batch_size, workers, memory_bytes, max_rate, .. } = self;
        let zero_batch = matches!(batch_size, BatchSize::Rows(0) | BatchSize::Bytes(0));
        let checks = [
            (zero_batch, "batch size must be at least one row or byte"),
            (*workers == 0, "workers must be at least 1"),
            (*workers > 1024, "workers must be at most 1024"),
            (self.queue == 0, "queue must be at least 1"),
            (self.queue > 1024, "queue must be at most 1024"),
            (*memory_bytes < MEMORY_BYTES_MIN, "memory must be at least 16MiB"),
            (*max_rate == Some(0), "max rate must be at least one byte a second"),
            (self.max_rounds == 0, "max rounds must be at least 1"),
            (self.by_parallel == Some(0), "calls at once must be at least 1"),
            (
                self.by_parallel.is_some_and(|calls| calls > 1024),
                "calls at once must be at most 1024",
            ),
            (
                self.by_timeout == Some(Duration::ZERO),
                "the time of a call must be more than nothing",
            ),
        ];
        match checks.into_iter().find(|(bad, _)| *bad) {
            Some((_, message)) => Err(Error::usage(message)),
            None => Ok(()),
        }
    }
}

/// Below this a pipeline of two stages cannot hold a batch in each.
const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// Reads `8192`, `64MiB`, `1.5GB` as bytes.
///
/// # Errors
/// `Usage`, when `text` is not a number with an optional unit.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(not_bytes(text)),
    };
    scaled(number, factor).ok_or_else(|| not_bytes(text))
}

/// Reads `30`, `30s`, `5m`, `2h` and `1d` as a time; without a unit it is seconds.
///
/// # Errors
/// `Usage`, when `text` is not a number with an optional unit.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis: u64 = match unit.trim() {
        "ms" => 1,
        "" | "s" | "sec" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(not_a_time(text)),
    };
    let time = scaled(number, millis).map(Duration::from_millis);
    time.ok_or_else(|| not_a_time(text))
}

fn not_a_time(text: &str) -> Error {
    Error::usage(format!("not a time: `{text}`. Try 30s, 5m or 2h"))
}

/// Reads `8192` as rows, anything with a unit as bytes, and `auto`.
///
/// # Errors
/// `Usage`, when `text` is neither.
pub fn parse_batch_size(text: &str) -> Result<BatchSize> {
    let text = text.trim();
    if text == "auto" {
        return Ok(BatchSize::Auto);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let rows = text.parse::<u32>();
        return rows
            .map(BatchSize::Rows)
            .map_err(|_| Error::usage(format!("batch size is too large: `{text}` rows")));
    }
    parse_bytes(text).map(BatchSize::Bytes).map_err(|_| {
        Error::usage(format!("not a number of rows or bytes: `{text}`. Try 8192 or 64MiB"))
    })
}

/// `number`, which may have a fraction, times `factor`, in whole units.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let mut total = whole.checked_mul(factor)?;
    if !fraction.is_empty() {
        let parts: u64 = fraction.parse().ok()?;
        let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let extra = u128::from(parts) * u128::from(factor) / u128::from(scale);
        total = total.checked_add(u64::try_from(extra).ok()?)?;
    }
    Some(total)
}

fn not_bytes(text: &str) -> Error {
    Error::usage(format!("not a number of bytes: `{text}`. Try 67108864 or 64MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_binary_and_decimal_units() {
        assert_eq!(parse_bytes("64MiB").unwrap(), 64 << 20);
        assert_eq!(parse_bytes("1.5 GB").unwrap(), 1_500_000_000);
        assert_eq!(parse_bytes("7").unwrap(), 7);
        for bad in ["", "MiB", "1.2.3", "3 apples", "-1", "99999999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_take_units() {
        assert_eq!(parse_duration("30").unwrap(), Duration::from_secs(30));
        assert_eq!(parse_duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        for bad in ["", "s", "5 parsecs", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_batch_size_without_a_unit_is_rows() {
        assert_eq!(parse_batch_size("8192").unwrap(), BatchSize::Rows(8192));
        assert_eq!(parse_batch_size("8MiB").unwrap(), BatchSize::Bytes(8 << 20));
        assert!(parse_batch_size("many").is_err());
    }

    #[test]
    fn byte_batches_hold_at_least_one_row() {
        let wide = |bytes| Width { bytes, columns: 1 };
        assert_eq!(BatchSize::Bytes(1 << 20).rows(wide(1 << 30)), 1);
        assert_eq!(BatchSize::Bytes(1 << 20).rows(wide(0)), 1 << 20);
        assert_eq!(BatchSize::Bytes(8 << 20).rows(wide(1 << 10)), 8192);
    }

    #[test]
    fn more_columns_have_larger_batches() {
        let bytes = |columns| BatchSize::Auto.bytes(Width { bytes: 3_200, columns }) >> 10;
        assert_eq!([bytes(1), bytes(32), bytes(100), bytes(9_000)], [256, 256, 800, 4_096]);
    }

    #[test]
    fn zeros_are_usage_errors() {
        let settings = Settings { batch_size: BatchSize::Rows(0), ..Settings::default() };
        let error = settings.validate().unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Usage);
    }
}
