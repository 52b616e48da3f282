//! The command line, as it is typed. No logic.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cli::changes::{Ordered, VERBS};
use crate::settings::{parse_batch_size, parse_bytes, parse_duration};
use crate::{BatchSize, Prices};

/// Migrates LanceDB tables, however large, to a new schema: streamed, verified, swapped in by one
/// atomic commit.
#[derive(Debug, Parser)]
#[command(name = "relance", version, max_term_width = 100, after_help = EXITS)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub asked: Asked,
}

#[derive(Debug, Subcommand)]
pub(super) enum Asked {
    #[command(flatten)]
    Run(Box<Command>),
    #[command(flatten)]
    Print(Paper),
}

/// What is printed of the command itself.
#[derive(Debug, Subcommand)]
pub(super) enum Paper {
    /// Print a script that completes this command's words in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page of relance, or of one of its commands
    Man {
        /// The command
        command: Option<String>,
    },
}

const MIGRATE_EXAMPLES: &str = "\
Examples:
  relance migrate ./db documents --add 'lang:string=en' --dry-run
  relance migrate ./db documents --rename 'txt=text' --cast 'price:decimal128(10, 2)'
  relance migrate s3://bucket/db documents --file migration.toml --hold
  relance plan ./db documents --add 'at:timestamp[us]=now' --out plan.json
  relance migrate ./db documents --plan plan.json";

const EXITS: &str = "\
Exit codes:
  0  done
  1  an error; the live table is as it was
  2  usage
  3  refused by preflight
  4  verification found a difference; not swapped
  5  interrupted, or others write faster than it catches up; `resume` goes on
  6  another migration of this table is staged or running
  7  outcome of the swap unknown; how to find out is printed
  8  swapped, whole; something after it is left for `resume`";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what would happen and what it would cost; writes nothing
    Plan {
        #[command(flatten)]
        place: TableArg,
        #[command(flatten)]
        changes: Changes,
        /// Write the plan to this file too, for `migrate --plan`
        #[arg(long, value_name = "PLAN.json", help_heading = "Output")]
        out: Option<PathBuf>,
        /// What the object store costs: dollars for a thousand requests that write or list, and that read, and for a gigabyte
        /// each way [default: S3's: writes=0.005,reads=0.0004,sent=0,received=0]
        #[arg(long, value_name = "PRICES", value_parser = prices, help_heading = "Output")]
        price: Option<Prices>,
        /// Write an empty object to the store, twice, and remove it: whether these credentials may, and whether the store
        /// commits safely. Nothing is tried on a disk
        #[arg(long, help_heading = "Output")]
        try_store: bool,
        #[command(flatten)]
        engine: Engine,
        #[command(flatten)]
        output: Output,
    },
    /// Stage, catch up with writers, verify and swap
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate {
        #[command(flatten)]
        place: TableArg,
        #[command(flatten)]
        changes: Changes,
        /// Carry out this plan of `plan --out`, as it was shown; refused when the columns are others now
        #[arg(long, value_name = "PLAN.json", conflicts_with_all = VERBS)]
        #[arg(conflicts_with_all = ["to", "filter", "storage_version", "rows_per_file", "on_bad_value"])]
        #[arg(conflicts_with_all = ["preflight", "allow_key_change", "if_exists", "drop_index", "strategy"])]
        plan: Option<PathBuf>,
        /// Show the plan and write nothing, as `relance plan` does
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        engine: Engine,
        #[command(flatten)]
        cutover: Cutover,
        #[command(flatten)]
        output: Output,
    },
    /// Go on with an interrupted or held migration. The changes need not be repeated; if they are, they must
    /// be those that are staged
    Resume {
        #[command(flatten)]
        place: TableArg,
        #[command(flatten)]
        changes: Changes,
        #[command(flatten)]
        engine: Engine,
        #[command(flatten)]
        cutover: Cutover,
        #[command(flatten)]
        output: Output,
    },
    /// Drop a staged migration and every file that it wrote
    Abort {
        #[command(flatten)]
        place: TableArg,
        #[command(flatten)]
        output: Output,
    },
    /// Show what is staged, resumable, swapped; and the rollback points
    Status {
        #[command(flatten)]
        store: Store,
        /// The table; all tables of the database when left out
        table: Option<String>,
        /// Show it again every so often, as 2s or 1m, until no migration runs [default: 5s]. With `--json`, an
        /// object a line
        #[arg(
            long,
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "5s",
            value_name = "EVERY",
            value_parser = duration
        )]
        watch: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
    /// Compare the live table with its rollback point, every value
    Verify {
        #[command(flatten)]
        place: TableArg,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        output: Output,
    },
    /// Restore the version before the swap, in one commit
    Rollback {
        #[command(flatten)]
        place: TableArg,
        /// Discard what others wrote since the swap
        #[arg(long)]
        discard_writes: bool,
        /// Keep what others wrote since the swap: the changes are undone in every row, and the result is
        /// staged, verified and swapped like a migration
        #[arg(long, conflicts_with = "discard_writes")]
        keep_writes: bool,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        output: Output,
    },
    /// Give up the rollback point and reclaim its space
    Finalize {
        #[command(flatten)]
        place: TableArg,
        /// Remove every untagged version before the swap too
        #[arg(long)]
        history: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Measure batch sizes, workers and queues on this table's first rows, and say which to use
    Tune {
        #[command(flatten)]
        place: TableArg,
        #[command(flatten)]
        changes: Changes,
        #[command(flatten)]
        engine: Engine,
        /// About how long to measure, as 30s or 5m
        #[arg(long, default_value = "60s", value_name = "TIME", value_parser = duration)]
        time: Duration,
        /// Draw throughput and peak memory by batch size into this file
        #[arg(long, value_name = "FILE.svg")]
        plot: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Make a sample table (text, vector) to try things on
    Sample {
        #[command(flatten)]
        place: TableArg,
        /// Rows
        #[arg(long, default_value_t = 100_000, value_name = "N")]
        rows: u64,
        /// Dimensions of the vector
        #[arg(long, default_value_t = 128, value_name = "N")]
        dim: u32,
        /// Fragments
        #[arg(long, default_value_t = 4, value_name = "N")]
        fragments: u64,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(super) struct Store {
    /// The database: a directory or an object-store URI, as `lancedb.connect` takes it
    pub db: String,
    /// An option of the object store; repeatable. More of them come from the environment variable
    /// `RELANCE_STORAGE_OPTIONS`, separated by commas, or one a line
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Connection")]
    pub storage_option: Vec<String>,
    /// How long an object store may be away before a command gives up [default: 5m]
    #[arg(long = "store-timeout", value_name = "TIME", value_parser = duration, help_heading = "Connection")]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct TableArg {
    #[command(flatten)]
    pub store: Store,
    /// The table
    pub table: String,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Changes")]
pub(super) struct Changes {
    #[command(flatten)]
    pub ordered: Ordered,
    /// Derive the changes from a schema: a file with it as Arrow JSON, an Arrow IPC file (.arrow), a Parquet
    /// file, or another table of the database.
    /// A dropped and an added column are never taken for a rename
    #[arg(long, value_name = "SCHEMA.json|FILE.arrow|FILE.parquet|TABLE", conflicts_with_all = VERBS)]
    pub to: Option<String>,
    /// Keep only the rows that match this condition over the columns before the changes
    #[arg(long = "where", value_name = "SQL")]
    pub filter: Option<String>,
    /// Rewrite the data files in this storage version
    #[arg(long, value_name = "VERSION")]
    pub storage_version: Option<String>,
    /// Rewrite the data files with this many rows in each [default when they are rewritten: 1048576]
    #[arg(long, value_name = "N")]
    pub rows_per_file: Option<u64>,
    /// What to do with values that a change cannot convert
    #[arg(long, value_enum, default_value_t = BadValue::Fail, value_name = "WHAT")]
    pub on_bad_value: BadValue,
    /// How much of the data to try the changes on before anything is written
    #[arg(long, value_enum, default_value_t = PreflightArg::Full, value_name = "HOW")]
    pub preflight: PreflightArg,
    /// Allow changes to columns of the primary key or the clustering key
    #[arg(long)]
    pub allow_key_change: bool,
    /// What to do when an added column exists already with the same type
    #[arg(long, value_enum, default_value_t = Exists::Skip, value_name = "WHAT")]
    pub if_exists: Exists,
    /// Give up this index, which is lost with its column or need not be rebuilt; repeatable
    #[arg(long, value_name = "NAME")]
    pub drop_index: Vec<String>,
    /// Which strategy carries the changes out
    #[arg(long, value_enum, default_value_t = StrategyArg::Auto, value_name = "STRATEGY")]
    pub strategy: StrategyArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StrategyArg {
    /// The cheapest that covers every change
    Auto,
    /// Write a manifest and no data
    Metadata,
    /// Write the new columns beside the others, a file for each fragment
    Columns,
    /// Stream every row into new fragments
    Rewrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BadValue {
    /// Refuse the migration
    Fail,
    /// Set them to null
    Null,
    /// Set them to null, and copy their rows to `<table>__relance_quarantine`
    Quarantine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PreflightArg {
    /// Every row
    Full,
    /// The first rows of every fragment
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Exists {
    /// Leave it alone, and say so
    Skip,
    /// Refuse the migration
    Error,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "How it is run")]
pub(super) struct Engine {
    /// Rows in a batch, bytes with a unit, or `auto` [default: auto]
    #[arg(long, value_name = "ROWS|BYTES", value_parser = batch_size)]
    pub batch_size: Option<BatchSize>,
    #[command(flatten)]
    pub limits: Limits,
    /// Batches of a chunk that wait between the transform and the writer [default: 2]
    #[arg(long, value_name = "N")]
    pub queue: Option<usize>,
    /// A TOML file that can change the rate while the migration runs: `max-rate = "50MB"`, or "none". It is
    /// read every second
    #[arg(long, value_name = "FILE")]
    pub control: Option<PathBuf>,
    /// How much is read back before the swap
    #[arg(long, value_enum, default_value_t = VerifyArg::Full, value_name = "HOW")]
    pub verify: VerifyArg,
    #[command(flatten)]
    pub calls: Calls,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Values from elsewhere")]
pub(super) struct Calls {
    /// Calls of a producer at once, each of a process of its own [default: the workers]
    #[arg(long, value_name = "N")]
    pub by_parallel: Option<usize>,
    /// How often a call that failed is tried again, after pauses of 0.5 s and more [default: 2]
    #[arg(long, value_name = "N")]
    pub by_retries: Option<u32>,
    /// Time after which a call has failed, as 30s or 5m [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub by_timeout: Option<Duration>,
    /// Numbers that are infinite or none are no values, where a producer gives them
    #[arg(long)]
    pub finite: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "How it is run")]
pub(super) struct Limits {
    /// Chunks at once, and transform threads [default: the processors]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Bytes of record batches in flight [default: 512MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// The most bytes to write in a second; those that `verify` reads
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub max_rate: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Swap")]
pub(super) struct Cutover {
    /// Stop before the swap. `--hold` ends once everything is staged and verified; `--hold=wait` goes on
    /// catching up with writers. `resume` swaps
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "exit",
        value_name = "HOW"
    )]
    pub hold: Option<HoldArg>,
    /// Rounds of catching up with writers once everything was staged [default: 100]
    #[arg(long, value_name = "N")]
    pub max_rounds: Option<u32>,
    /// Time for them, as 30s, 5m or 2h [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    #[allow(clippy::struct_field_names, reason = "it is the flag's name")]
    pub cutover_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HoldArg {
    /// End once everything is staged and verified
    Exit,
    /// Go on catching up until `resume` takes over
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum VerifyArg {
    /// Every value, by digest; what a store confirms by its own checksum need not be read back
    Full,
    /// Every value, by digest, and everything is read back
    #[value(name = "full=read")]
    Read,
    /// Counts, schema and first rows
    Quick,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct Output {
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// How progress is shown on stderr
    #[arg(long, value_enum, default_value_t = ProgressArg::Auto, value_name = "HOW")]
    pub progress: ProgressArg,
    /// Print less
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Write a trace of the run to this file, for Chrome's or Perfetto's trace viewer
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print more, and where the time went; given twice, Lance's log too
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressArg {
    /// A bar on a terminal, plain lines elsewhere
    Auto,
    /// A bar
    Bar,
    /// A line every few seconds
    Plain,
    /// A JSON object a line
    Json,
    /// Nothing
    None,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn prices(text: &str) -> Result<Prices, String> {
    text.parse().map_err(|error: crate::Error| error.to_string())
}

fn batch_size(text: &str) -> Result<BatchSize, String> {
    parse_batch_size(text).map_err(|error| error.to_string())
}
