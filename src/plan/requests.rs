//! What a plan asks of an object store, reckoned from a table's statistics, and what that costs.

use std::str::FromStr;

use serde::Serialize;

use crate::error::Error;
use crate::limits::{
    COPIED_FRAGMENT_BYTES_MIN, LISTED_AT_ONCE, PART_BYTES, SEEN_PART_COPY_BYTES, STORE_PACE,
};
use crate::plan::{Facts, Plan, columns::WrittenColumns, strategy::Strategy};

/// Requests of a migration however large the table: looking at it, the journal, the tags, the swap and what comes after.
const WRITES_BESIDES: u64 = 28;
const READS_BESIDES: u64 = 14;
/// How often a table's data files are listed.
const LISTINGS: u64 = 4;
/// Parts of an upload that are of one size.
const PARTS_ALIKE: u64 = 100;
/// Reads of a file's footer, and of what the columns that are read have there. A file that is not larger than the first of these
/// is read whole by it.
const FOOTER_READS: u64 = 2;
const FOOTER_BYTES: u64 = 64 << 10;
/// Bytes of a file up to which it is likely to be kept until the store confirms it.
const HELD_BYTES: u64 = 32 << 20;

/// What a migration asks of an object store, about, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StoreEstimate {
    /// PUT, POST, COPY and LIST requests.
    pub writes: u64,
    /// GET and HEAD requests.
    pub reads: u64,
    /// Bytes to the store, at most.
    pub bytes_sent: u64,
    /// Bytes from the store, at most.
    pub bytes_received: u64,
    /// What that costs.
    pub dollars: f64,
    /// Whether the store commits safely.
    pub commits: Commits,
}

/// Whether of two writers of one version of a table one is refused, which is what every commit relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Commits {
    /// It is: the store is the provider's own.
    Safe,
    /// The store has an address of its own, and has to be tried.
    Untried,
    /// The store has an address of its own, and did it when it was tried just now.
    Tried,
}

impl Commits {
    /// In words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Safe => "safe: this store writes where nothing is, or not at all",
            Self::Untried => {
                "not known for a store at an address of its own: `migrate` tries it before it writes anything else, and \
                 so does `plan --try-store`"
            }
            Self::Tried => "safe: tried just now, this store refused a second object of one name",
        }
    }
}

/// What a store costs, in dollars. The default is that of S3 in a region of its own, where traffic inside is free.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Prices {
    /// A thousand PUT, POST, COPY or LIST requests. Default 0.005.
    pub writes: f64,
    /// A thousand GET or HEAD requests. Default 0.0004.
    pub reads: f64,
    /// A gigabyte (10⁹ bytes) to the store. Default 0.
    pub sent: f64,
    /// A gigabyte from the store. Default 0.
    pub received: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self { writes: 0.005, reads: 0.0004, sent: 0.0, received: 0.0 }
    }
}

impl FromStr for Prices {
    type Err = Error;

    /// Reads `writes=0.005,reads=0.0004,sent=0,received=0.09`; what is left out has its default.
    ///
    /// # Errors
    /// `Usage`, for anything else.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut prices = Self::default();
        let mut named: Vec<&str> = Vec::new();
        for part in text.split(',') {
            let (name, price) = part.split_once('=').unwrap_or((part, ""));
            if named.contains(&name.trim()) {
                return Err(Error::usage(format!("`{}` has two prices", name.trim())));
            }
            named.push(name.trim());
            let price: Option<f64> = price.trim().parse().ok();
            let price = price.filter(|price| price.is_finite() && *price >= 0.0);
            let known = match name.trim() {
                "writes" => Some(&mut prices.writes),
                "reads" => Some(&mut prices.reads),
                "sent" => Some(&mut prices.sent),
                "received" => Some(&mut prices.received),
                _ => None,
            };
            let (Some(known), Some(price)) = (known, price) else {
                return Err(Error::usage(format!("`{part}` is no price")).with_advice(
                    "write dollars for a thousand requests and a gigabyte, as \
                     writes=0.005,reads=0.0004,sent=0,received=0.09",
                ));
            };
            *known = price;
        }
        Ok(prices)
    }
}

impl StoreEstimate {
    /// Of `plan` for a table of these `facts`, which reads `tried` bytes more before anything is written.
    pub(crate) fn of(facts: &Facts, plan: &Plan, tried: u64) -> Self {
        let (strategy, cost, chunks) = (plan.strategy, &plan.cost, plan.chunks.len() as u64);
        let fragments = facts.fragments.len() as u64;
        let (files, sources) = match strategy {
            Strategy::Nothing => return Self::of_requests((2, 2), (0, 0), facts.commits),
            Strategy::Metadata => (0, 0),
            Strategy::Columns => (fragments, if cost.read_bytes == 0 { 0 } else { fragments }),
            Strategy::Rewrite => (chunks.max(1), fragments),
        };
        let each = |bytes: u64, count: u64| bytes.checked_div(count).unwrap_or(0);
        let pages = (fragments + files) / LISTED_AT_ONCE + 1;
        let large = each(facts.bytes(), fragments) >= COPIED_FRAGMENT_BYTES_MIN;
        let inside = facts.speaks_s3 && large && WrittenColumns::of(plan).copies_pages();
        let sent =
            cost.write_bytes - if inside { cost.read_bytes.min(cost.write_bytes) } else { 0 };
        let written = each(cost.write_bytes, files);
        let of_file =
            if inside { written.div_ceil(SEEN_PART_COPY_BYTES) + 3 } else { uploads(written) };
        let writes = files * of_file + pages * LISTINGS;
        let is_small = each(facts.bytes(), fragments) <= FOOTER_BYTES;
        let of_each =
            |bytes| if is_small { 1 } else { FOOTER_READS + reads(each(bytes, fragments)) };
        let read = sources * of_each(cost.read_bytes);
        let before = if tried == 0 { 0 } else { fragments * of_each(tried) };
        let held = each(cost.write_bytes, files) <= HELD_BYTES || strategy == Strategy::Rewrite;
        let (verify, read_back) = if facts.speaks_s3 && held {
            // Files of many constants are listed; of copied pages, the footer and the first rows are read.
            let of_file = if strategy == Strategy::Rewrite {
                FOOTER_READS + 1
            } else {
                u64::from(cost.read_bytes > 0)
            };
            (files * of_file, 0)
        } else {
            (files * reads(each(cost.verify_bytes, files)), cost.verify_bytes)
        };
        let requests = (writes + WRITES_BESIDES, before + read + verify + READS_BESIDES);
        let received = tried.saturating_add(cost.read_bytes).saturating_add(read_back);
        Self::of_requests(requests, (sent, received), facts.commits)
    }

    fn of_requests(
        (writes, reads): (u64, u64),
        (bytes_sent, bytes_received): (u64, u64),
        commits: Commits,
    ) -> Self {
        let estimate = Self { writes, reads, bytes_sent, bytes_received, dollars: 0.0, commits };
        estimate.at(&Prices::default())
    }

    /// The same at these `prices`.
    #[must_use]
    pub fn at(self, prices: &Prices) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let (thousands, gigabytes) =
            (|count: u64| count as f64 / 1_000.0, |bytes: u64| bytes as f64 / 1e9);
        let dollars = thousands(self.writes) * prices.writes
            + thousands(self.reads) * prices.reads
            + gigabytes(self.bytes_sent) * prices.sent
            + gigabytes(self.bytes_received) * prices.received;
        // A thousandth of a cent is said to no more places than it is known.
        Self { dollars: (dollars * 1e5).round() / 1e5, ..self }
    }
}

/// Requests to write a file of so many bytes.
fn uploads(bytes: u64) -> u64 {
    if bytes <= PART_BYTES {
        return 1;
    }
    let (mut left, mut parts, mut part) = (bytes, 0, PART_BYTES);
    while left > part * PARTS_ALIKE {
        left -= part * PARTS_ALIKE;
        parts += PARTS_ALIKE;
        part += PART_BYTES;
    }
    // The upload is begun and completed.
    parts + left.div_ceil(part) + 2
}

/// Requests to read so many bytes of a file: a small one goes by one.
fn reads(bytes: u64) -> u64 {
    let (piece, _) = STORE_PACE;
    bytes.div_ceil(piece).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_have_parts_that_grow() {
        assert_eq!([0, 1, PART_BYTES].map(uploads), [1; 3]);
        assert_eq!(uploads(PART_BYTES + 1), 4);
        assert_eq!(uploads(100 * PART_BYTES), 102);
        // A hundred of 5 MiB, a hundred of 10 MiB.
        assert_eq!(uploads(300 * PART_BYTES), 202);
        assert!(uploads(2 << 40) < 10_000, "what S3 takes");
    }

    #[test]
    fn prices_are_read_and_counted() {
        let prices: Prices = "received=0.09, reads=0".parse().unwrap();
        assert_eq!(prices, Prices { received: 0.09, reads: 0.0, ..Prices::default() });
        let estimate =
            StoreEstimate::of_requests((2_000, 5_000), (0, 10_000_000_000), Commits::Safe);
        assert!((estimate.dollars - 0.012).abs() < 1e-9);
        assert!((estimate.at(&prices).dollars - 0.91).abs() < 1e-9);
        for wrong in
            ["", "reads=1,reads=1", "writes", "writes=x", "writes=-1", "writes=inf", "put=1"]
        {
            assert!(wrong.parse::<Prices>().is_err(), "{wrong}");
        }
    }
}
