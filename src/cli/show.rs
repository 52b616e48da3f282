//! Results for people.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

use crate::cli::progress::seconds_text;
use crate::escape::escape_line;
use crate::plan::amounts::{bytes_text, count_text, counted};
use crate::{
    Aborted, Finalized, Held, PointStatus, Report, RolledBack, RunFigures, STAGING_SUFFIX, Sampled,
    SkippedValues, StagedStatus, TableStatus, Trial, Tuned, Unused, Verified, Verify,
};

/// Characters of a value in a sample.
const CELL_WIDTH: usize = 24;

/// `lines`, each of them one, whatever the names and values in it are.
fn page(lines: &[String]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| escape_line(line)).collect();
    lines.join("\n")
}

/// A migration that is done.
pub(super) fn report(report: &Report) -> String {
    let mut lines = vec![format!(
        "Migrated `{}`: version {} is now version {}",
        report.table, report.version_before, report.version_after
    )];
    for change in &report.changes {
        lines.push(format!("  changed    {change}"));
    }
    for name in &report.skipped {
        lines.push(format!("  skipped    column `{name}` exists already with this type"));
    }
    let values = report.skipped_values.iter().filter_map(SkippedValues::text);
    lines.extend(values.map(|text| format!("  values     {text}")));
    let verified = match (report.verified, report.values_nulled.is_empty()) {
        (Verify::Quick, _) => "verified quickly",
        (Verify::Full | Verify::Read, true) => "every value verified",
        (Verify::Full | Verify::Read, false) => "every value verified to be what was made",
    };
    lines.push(format!("  rows       {}, {verified}", count_text(report.rows)));
    if report.bytes_confirmed > 0 {
        let bytes = bytes_text(report.bytes_confirmed);
        lines.push(format!("  confirmed  {bytes} by the store's own checksums, not read back"));
    }
    let nulled = report.values_nulled.iter();
    lines.extend(nulled.map(|nulled| format!("  to null    {}", nulled.text())));
    lines.push(format!(
        "  written    {} in {} (before: {})",
        bytes_text(report.bytes_written),
        counted(report.fragments_after, "fragment"),
        report.fragments_before
    ));
    if report.rounds > 0 {
        lines.push(format!("  caught up  with writers in {}", counted(report.rounds, "round")));
    }
    if let Some(seconds) = report.swapped_after {
        lines.push(format!("  swapped    {seconds} s after the start"));
    }
    for (names, what) in
        [(&report.indices_rebuilt, "rebuilt"), (&report.indices_dropped, "dropped")]
    {
        if !names.is_empty() {
            lines.push(format!("  indices    {} {what}: {}", names.len(), names.join(", ")));
        }
    }
    let seconds = report.seconds.iter().map(|(phase, seconds)| format!("{phase} {seconds}"));
    lines.push(format!("  seconds    {}", seconds.collect::<Vec<_>>().join(", ")));
    lines.extend(report.store.iter().map(|store| format!("  requests   {}", store.text())));
    lines.push(format!(
        "  rollback   tag `{}` keeps version {}",
        report.rollback_tag, report.version_before
    ));
    lines.extend(report.notes.iter().map(|note| format!("  note       {note}")));
    lines.push("  fields".to_owned());
    lines.extend(report.fields.iter().map(|field| format!("             {field}")));
    let whole = report.sample.iter().all(|batch| batch.num_columns() == report.fields.len());
    let without = if whole { "" } else { "     without columns that are large or cannot be read" };
    lines.push(format!("  sample{without}"));
    lines.extend(sample(report).into_iter().map(|row| format!("             {row}")));
    page(&lines)
}

fn sample(report: &Report) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let mut rows = Vec::new();
    for batch in &report.sample {
        let formatters = batch.columns().iter();
        let formatters = formatters.map(|column| ArrayFormatter::try_new(column, &options));
        let Ok(formatters) = formatters.collect::<Result<Vec<_>, _>>() else {
            continue;
        };
        for row in 0..batch.num_rows() {
            let cells = formatters.iter().map(|formatter| cell(&formatter.value(row).to_string()));
            rows.push(cells.collect::<Vec<_>>().join(" | "));
        }
    }
    rows
}

fn cell(text: &str) -> String {
    let text = escape_line(text);
    if text.chars().count() <= CELL_WIDTH {
        return text.into_owned();
    }
    let kept: String = text.chars().take(CELL_WIDTH - 1).collect();
    format!("{kept}…")
}

/// What was found for a table.
pub(super) fn tuned(tuned: &Tuned) -> String {
    let mut lines = vec![
        format!(
            "Tried on {} of `{}`, {} each, {} in all",
            counted(tuned.sample_rows, "row"),
            tuned.table,
            bytes_text(tuned.row_bytes),
            bytes_text(tuned.sample_bytes),
        ),
        format!(
            "  {:>10}  {:>7}  {:>5}  {:>9}  {:>15}  {:>10}  {:>6}",
            "batch size", "workers", "queue", "MB/s", "seconds", "peak MB", "rounds",
        ),
    ];
    for trial in &tuned.trials {
        let Trial { knobs, rounds, bytes_per_second, peak_bytes, .. } = trial;
        let spread = format!("{:.3} to {:.3}", trial.seconds_min, trial.seconds_max);
        let peak = peak_bytes.map_or("unknown".to_owned(), |bytes| (bytes / 1_000_000).to_string());
        let used = if *trial == tuned.best { "  <- best" } else { "" };
        lines.push(format!(
            "  {:>10}  {:>7}  {:>5}  {:>9.0}  {spread:>15}  {peak:>10}  {rounds:>6}{used}",
            bytes_text(knobs.batch_bytes),
            knobs.workers,
            knobs.queue,
            bytes_per_second / 1e6,
        ));
    }
    lines.push(if tuned.differs {
        format!("Use {}", tuned.flags)
    } else {
        format!("No measurable difference: keep what was asked for ({})", tuned.flags)
    });
    page(&lines)
}

/// A migration that waits.
pub(super) fn held(held: &Held) -> String {
    let Held { table, id, rows, taken_over, values_nulled } = held;
    let rows = counted(*rows, "row");
    if *taken_over {
        return format!("Held `{table}`: migration {id} was taken over by another run");
    }
    let mut lines = vec![format!("Held `{table}`: migration {id} has {rows} staged and verified")];
    lines.extend(values_nulled.iter().map(|nulled| format!("  to null    {}", nulled.text())));
    lines.push(format!(
        "  `relance resume` swaps them in, `relance abort` drops them; the table \
         `{table}{STAGING_SUFFIX}` shows them"
    ));
    page(&lines)
}

/// A migration that was dropped.
pub(super) fn aborted(aborted: &Aborted) -> String {
    let Aborted { table, id, pins, files, bytes, left } = aborted;
    if *pins > 0 {
        return format!(
            "Removed from `{table}` what pinned a version for a migration that is not there ({id}); nothing \
             was staged"
        );
    }
    let (files, bytes) = (counted(*files, "file"), bytes_text(*bytes));
    let first = format!("Aborted migration {id} of `{table}`: {files} removed, {bytes}");
    let lines = [first].into_iter().chain(left.iter().map(|left| format!("  left: {left}")));
    page(&lines.collect::<Vec<_>>())
}

/// A swap that was taken back.
pub(super) fn rolled_back(back: &RolledBack) -> String {
    let dropped = match back.indices_dropped.as_slice() {
        [] => String::new(),
        names => {
            let names = names.join(", ");
            format!("\n  indices dropped with what is taken back: {}", escape_line(&names))
        }
    };
    if back.kept_commits > 0 {
        return format!(
            "Rolled back `{}` as version {}: the changes are taken back from every row, and what was \
             written since is kept ({}){dropped}",
            back.table,
            back.version,
            counted(back.kept_commits, "commit")
        );
    }
    let lost = match back.discarded_commits {
        0 => String::new(),
        count => format!("; {} discarded", counted(count, "commit")),
    };
    let unused = match back.unused {
        None => String::new(),
        Some(Unused { files, bytes }) => format!(
            "\n  {}, {}, {} of the versions that were taken back only: `relance finalize` removes them",
            counted(files, "file"),
            bytes_text(bytes),
            if files == 1 { "is" } else { "are" }
        ),
    };
    format!(
        "Rolled back `{}`: version {} reads as version {} did{lost}{dropped}{unused}",
        back.table, back.version, back.restored
    )
}

/// A rollback point given up.
pub(super) fn finalized(done: &Finalized) -> String {
    let rolled_back = if done.rolled_back { ", which was rolled back," } else { "" };
    let stays = done.kept.iter().any(|kept| kept.version == done.version);
    let gone = if stays { "is no rollback point any more" } else { "is gone" };
    let mut text = format!(
        "Finalized `{}`: version {}{rolled_back} {gone}, {} removed, {} reclaimed",
        done.table,
        done.version,
        counted(done.files, "file"),
        bytes_text(done.bytes)
    );
    let kept = done.kept.iter().map(|kept| format!("{} (`{}`)", kept.version, kept.tag));
    let kept: Vec<_> = kept.collect();
    if !kept.is_empty() {
        text.push_str("\n  tags keep the files of versions that no cleanup removes: ");
        text.push_str(&kept.join(", "));
    }
    let point = |tag: &str| tag.starts_with("relance-") && !tag.contains(".swap");
    if done.kept.iter().any(|kept| point(&kept.tag)) {
        text.push_str("\n  `finalize` again gives up the rollback point before, and its tags");
    }
    if done.older_versions > 0 {
        text.push_str("\n  ");
        text.push_str(&counted(done.older_versions, "older version"));
        text.push_str(
            " may hold some of its files: LanceDB's own cleanup removes them, as \
             `finalize --history` would have done",
        );
    }
    text
}

/// A table that equals its rollback point.
pub(super) fn verified(done: &Verified) -> String {
    let mut lines = vec![format!(
        "Verified `{}`: version {} holds what version {} did, with the changes, in {}",
        done.table,
        done.swapped,
        done.before,
        counted(done.rows, "row")
    )];
    for (column, digest) in &done.columns {
        lines.push(format!("  {digest}  {column}"));
    }
    if done.commits_since > 0 {
        let least = if done.commits_at_least { "at least " } else { "" };
        let commits = counted(done.commits_since, "commit");
        lines.push(format!("  not looked at: {least}{commits} since"));
    }
    page(&lines)
}

/// A table's status, or why it cannot be told.
pub(super) type Looked = Result<TableStatus, Unknown>;

/// A table that could not be looked at.
pub(super) struct Unknown {
    pub(super) table: String,
    pub(super) message: String,
    pub(super) json: Value,
}

/// What is staged of tables, and their rollback points.
pub(super) fn status(tables: &[Looked]) -> String {
    let mut lines = Vec::new();
    for table in tables {
        let table = match table {
            Ok(table) => table,
            Err(unknown) => {
                lines.push(format!("`{}`", unknown.table));
                lines.push(format!("  cannot be looked at: {}", unknown.message));
                continue;
            }
        };
        lines.push(format!("`{}` at version {}", table.table, table.version));
        match &table.staged {
            None => lines.push("  nothing staged".to_owned()),
            Some(staged) => lines.extend(staged_lines(staged)),
        }
        for point in &table.rollback_points {
            lines.extend(point_lines(point));
        }
        lines.extend(table.pins.iter().map(|pin| {
            let (version, id) = (pin.version, &pin.id);
            if pin.finalize {
                format!(
                    "  a rollback point that was not given up to its end: version {version} (migration {id}); \
                     `relance finalize` goes on"
                )
            } else {
                format!(
                    "  a pin without a migration: version {version} (migration {id}); `relance abort` removes it"
                )
            }
        }));
    }
    if lines.is_empty() {
        lines.push("the database has no tables".to_owned());
    }
    page(&lines)
}

fn point_lines(point: &PointStatus) -> Vec<String> {
    let since = if point.commits_at_least {
        let all = counted(point.versions_since, "commit");
        format!("at least {} of {all} since by others", count_text(point.commits_since))
    } else {
        format!("{} by others since", counted(point.commits_since, "commit"))
    };
    let mut lines = vec![format!(
        "  rollback point: version {} (migration {}, swapped as {}, {since})",
        point.version, point.id, point.swapped
    )];
    for nulls in &point.nulls {
        let least = if nulls.at_least { "at least " } else { "" };
        let (column, rows) = (&nulls.column, counted(nulls.rows, "row"));
        lines.push(format!("    `{column}` is null in {least}{rows} written since"));
        lines.push(format!("      {}", nulls.fill));
    }
    let unknown = point.nulls_unknown.iter();
    lines.extend(unknown.map(|why| format!("    nulls since were not counted: {why}")));
    lines
}

fn staged_lines(staged: &StagedStatus) -> Vec<String> {
    if let Some(problem) = &staged.problem {
        return vec![format!("  migration {} {}: {problem}", staged.id, staged.state)];
    }
    let (began, seen) = [staged.began, staged.seen].map(|at| at.format("%Y-%m-%d %H:%M:%S")).into();
    let mut lines = vec![
        format!("  migration {} {} in phase {}", staged.id, staged.state, staged.phase),
        format!("    asked     {}", staged.changes.join(", ")),
        format!("    began     {began} UTC"),
    ];
    lines.extend(staged.progress.as_ref().filter(|run| run.rows > 0).map(progress_line));
    let kept = if staged.alive { " (what an interruption keeps)" } else { "" };
    lines.extend([
        format!(
            "    staged    {} of {}, {} of {}, from version {}{kept}",
            count_text(staged.rows_done),
            counted(staged.rows, "row"),
            staged.chunks_done,
            counted(staged.chunks, "chunk"),
            staged.source_version
        ),
        format!("    last seen {seen} UTC on {}", staged.host),
    ]);
    lines.extend(staged.swap.as_ref().map(|swap| format!("    swap      {swap}")));
    lines
}

/// How far a run was when it was last seen.
fn progress_line(run: &RunFigures) -> String {
    let percent = (run.rows_done * 100).checked_div(run.rows).unwrap_or(100);
    let eta = run.eta_seconds.map_or("unknown".to_owned(), seconds_text);
    let limit = run.limited_by.as_ref().map(|what| format!(", limited by {what}"));
    format!(
        "    progress  {} {percent}%, {} of {} rows, {} rows/s, {}/s, eta {eta}{}",
        run.phase,
        count_text(run.rows_done),
        count_text(run.rows),
        count_text(run.rows_per_second),
        bytes_text(run.bytes_per_second),
        limit.unwrap_or_default()
    )
}

/// A sample table.
pub(super) fn sampled(done: &Sampled) -> String {
    let Sampled { table, rows, dim } = done;
    format!("Made `{table}`: {} of text and vector[{dim}]", counted(*rows, "row"))
}
