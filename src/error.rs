//! One error for the whole crate: what a caller may do next, what happened, and why.

use std::{error::Error as StdError, fmt, io};

use serde_json::{Map, Value, json};

use crate::escape::escape_line;

/// A boxed source error.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller may do about an [`Error`]. The command's exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The request itself is malformed: correct it.
    Usage,
    /// The request cannot be carried out on this table as it is. Nothing was written.
    Refused,
    /// What was staged differs from what was expected. Nothing was swapped.
    Mismatch,
    /// Stopped before the swap, with everything kept: `resume` goes on, `abort` drops it.
    Interrupted,
    /// Another migration of this table is staged or running.
    Locked,
    /// The swap's reply was lost: it may or may not have landed. Nothing was deleted.
    OutcomeUnknown,
    /// The new version is the live table, whole; something that comes after is left for `resume`, and after a
    /// rollback for another one.
    Unfinished,
    /// No table has the name that was given.
    NoTable,
    /// Anything else. The live table is as it was.
    Failed,
}

impl Kind {
    /// Its word in the output of `--json`, which stays as it is.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Refused => "refused",
            Self::Mismatch => "mismatch",
            Self::Interrupted => "interrupted",
            Self::Locked => "locked",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::Unfinished => "unfinished",
            Self::NoTable => "no-table",
            Self::Failed => "failed",
        }
    }

    /// The command's exit code, which stays as it is.
    pub fn exit(self) -> u8 {
        match self {
            Self::NoTable | Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Mismatch => 4,
            Self::Interrupted => 5,
            Self::Locked => 6,
            Self::OutcomeUnknown => 7,
            Self::Unfinished => 8,
        }
    }
}

/// What went wrong, for people, with the error it came from.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    details: Map<String, Value>,
    source: Option<BoxError>,
}

impl Error {
    /// An error of `kind` that says `message`, in one line: control characters in it are escaped, since
    /// the names and values that errors repeat are not relance's own.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        let message = escape_line(&message).into_owned();
        Self { kind, message, details: Map::new(), source: None }
    }

    /// A malformed request.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A request that this table does not allow.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// An error that leaves the live table as it was.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// A stop that `resume` goes on from.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// A difference between what was staged and what was expected.
    pub(crate) fn mismatch(message: impl Into<String>) -> Self {
        Self::new(Kind::Mismatch, message)
    }

    /// A commit that landed, and something after it that did not.
    pub(crate) fn unfinished(message: impl Into<String>) -> Self {
        Self::new(Kind::Unfinished, message)
    }

    /// A migration that another run holds.
    pub(crate) fn locked(message: impl Into<String>) -> Self {
        Self::new(Kind::Locked, message)
    }

    /// The same error, with the error it came from.
    #[must_use]
    pub(crate) fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, with what it knows as `name`, for programs.
    #[must_use]
    pub(crate) fn knowing(mut self, name: &str, value: Value) -> Self {
        self.details.insert(name.to_owned(), value);
        self
    }

    /// The same error, with `advice` as its last sentence.
    #[must_use]
    pub(crate) fn with_advice(mut self, advice: &str) -> Self {
        self.message.push_str("\n  ");
        self.message.push_str(&escape_line(advice));
        self
    }

    /// The same error, with each of `lines` as a line of its own after what it says.
    #[must_use]
    pub(crate) fn with_lines<T: AsRef<str>>(self, lines: impl IntoIterator<Item = T>) -> Self {
        lines.into_iter().fold(self, |error, line| error.with_advice(line.as_ref()))
    }

    /// The same error, with `what` before what it says.
    #[must_use]
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.message = format!("{}: {}", escape_line(what), self.message);
        self
    }

    /// The same error, for another that it stops, without what it came from.
    pub(crate) fn again(&self) -> Self {
        let (message, details) = (self.message.clone(), self.details.clone());
        Self { kind: self.kind, message, details, source: None }
    }

    /// What it says, in one line.
    pub(crate) fn line(&self) -> String {
        self.message.replace("\n  ", "; ")
    }

    /// What the caller may do next.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message and every cause, one a line, with `hide` replaced wherever it stands.
    pub fn report(&self, hide: &[String]) -> String {
        let mut lines = vec![self.message.clone()];
        for error in causes(self).skip(1) {
            let text = cause_text(error);
            let line = text.replace("\n  ", "; ");
            let known = lines.iter().any(|known| known.contains(&text) || known.contains(&line));
            if !known {
                lines.push(text);
            }
        }
        redact(&lines.join("\n  because: "), hide)
    }

    /// What `--json` prints of it: its kind, its [report](Self::report), its exit code, and what it knows besides:
    /// `findings`, where values do not go through; `version`, where a swap landed. `hide` is as there.
    pub fn json(&self, hide: &[String]) -> Value {
        let mut json = json!({
            "kind": self.kind.name(), "message": self.report(hide), "exit": self.kind.exit(),
        });
        if let Value::Object(json) = &mut json {
            json.extend(self.details.clone());
        }
        redact_json(&mut json, hide);
        json
    }
}

/// Redacts every text in `value`.
fn redact_json(value: &mut Value, hide: &[String]) {
    match value {
        Value::String(text) => *text = redact(text, hide),
        Value::Array(values) => values.iter_mut().for_each(|value| redact_json(value, hide)),
        Value::Object(object) => object.values_mut().for_each(|value| redact_json(value, hide)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

/// Adds what was being done to an error of another crate.
pub(crate) trait Doing<T> {
    /// Turns the error into [`Kind::Failed`] with `doing` as its message; a full disk, and a file that is
    /// larger than the system allows, are said in words.
    ///
    /// # Errors
    /// Whatever error it was called on.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E> Doing<T> for std::result::Result<T, E>
where
    E: Into<BoxError>,
{
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let source: BoxError = error.into();
            if is_storage_full(source.as_ref()) {
                let what = format!("no space left on the device: {}", doing());
                return Error::failed(what).caused_by(source);
            }
            let mut error = Error::failed(format!("cannot {}", doing()));
            if is_io(source.as_ref(), io::ErrorKind::FileTooLarge, "File too large") {
                error = error.with_advice(
                    "the file is larger than this process may write: raise `ulimit -f`, or ask for \
                     smaller files with --rows-per-file",
                );
            }
            error.caused_by(source)
        })
    }
}

/// `error`, what caused it, what caused that, and so on.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Whether `error`, or anything that caused it, is the device being full.
pub(crate) fn is_storage_full(error: &(dyn StdError + 'static)) -> bool {
    is_io(error, io::ErrorKind::StorageFull, "No space left on device")
}

/// Whether `error`, or anything that caused it, is of `kind`, or says so in the system's words: not everybody
/// keeps what an error came from.
fn is_io(error: &(dyn StdError + 'static), kind: io::ErrorKind, words: &str) -> bool {
    causes(error).any(|error| {
        let io = error.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == kind) || error.to_string().contains(words)
    })
}

/// What a cause says: relance's own may have several lines, which are escaped already.
fn cause_text(error: &(dyn StdError + 'static)) -> String {
    match error.downcast_ref::<Error>() {
        Some(own) => own.message.clone(),
        None => escape_line(&without_location(&error.to_string())).into_owned(),
    }
}

/// Lance ends its messages with the line of its own source: of no use to a reader, and a path of
/// the machine that built it.
fn without_location(text: &str) -> String {
    let is_kept = |part: &&str| !is_location(part.trim_start_matches("location: "));
    text.split(", ").filter(is_kept).collect::<Vec<_>>().join(", ")
}

/// Whether `part` reads as `path.rs:LINE:COLUMN`.
fn is_location(part: &str) -> bool {
    let mut pieces = part.rsplitn(3, ':');
    let column = pieces.next().unwrap_or_default();
    let line = pieces.next().unwrap_or_default();
    let path = pieces.next().unwrap_or_default();
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    number(column) && number(line) && path.strip_suffix(".rs").is_some()
}

/// `text` with every secret replaced.
pub(crate) fn redact(text: &str, hide: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in hide.iter().filter(|secret| secret.len() >= 4) {
        text = text.replace(secret.as_str(), "***");
        // Whatever repeats it may have been escaped.
        text = text.replace(escape_line(secret).as_ref(), "***");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_lists_causes_without_source_locations_or_secrets() {
        let cause = io::Error::other("bad reply with s3cr3t, /build/lance-1.0/src/io.rs:12:3");
        let error = Error::failed("cannot open `t`").caused_by(cause);
        let report = error.report(&["s3cr3t".to_owned()]);
        assert_eq!(report, "cannot open `t`\n  because: bad reply with ***");
    }

    #[test]
    fn every_kind_has_its_exit_code() {
        let kinds = [
            (Kind::Failed, 1),
            (Kind::NoTable, 1),
            (Kind::Usage, 2),
            (Kind::Refused, 3),
            (Kind::Mismatch, 4),
            (Kind::Interrupted, 5),
            (Kind::Locked, 6),
            (Kind::OutcomeUnknown, 7),
            (Kind::Unfinished, 8),
        ];
        for (kind, exit) in kinds {
            assert_eq!(kind.exit(), exit, "{kind:?}");
        }
    }

    #[test]
    fn what_it_knows_is_told_to_programs_without_secrets() {
        let found = json!([{ "column": "a", "examples": [{ "value": "is s3cr3t" }] }]);
        let error = Error::refused("no").knowing("findings", found);
        let told = json!({
            "kind": "refused", "message": "no", "exit": 3,
            "findings": [{ "column": "a", "examples": [{ "value": "is ***" }] }],
        });
        assert_eq!(error.json(&["s3cr3t".to_owned()]), told);
    }

    #[test]
    fn what_others_wrote_makes_no_line_and_steers_no_terminal() {
        let cause = io::Error::other("no\x1b[2J such\n  because: all is well");
        let error = Error::failed("column `a\u{9b}\n  b` is gone").caused_by(cause);
        let error = error.with_advice("try\n`x`").with_lines(["- a\r", "+ b"]);
        let report = r"column `a\u{9b}\n  b` is gone
  try\n`x`
  - a\r
  + b
  because: no\u{1b}[2J such\n  because: all is well";
        assert_eq!(error.report(&[]), report);
        let outer =
            Error::failed("cannot plan").caused_by(error).report(&["column `a\u{9b}".to_owned()]);
        let report = report.replace(r"column `a\u{9b}", "***");
        assert_eq!(outer, format!("cannot plan\n  because: {report}"));
    }

    #[test]
    fn a_full_device_and_a_file_that_is_too_large_are_told_in_words() {
        let told = |cause: io::Error| {
            let failed: std::result::Result<(), _> = Err(cause);
            failed.doing(|| "write a.lance".to_owned()).unwrap_err().to_string()
        };
        let full = told(io::ErrorKind::StorageFull.into());
        assert!(full.starts_with("no space left on the device"));
        let large = told(io::ErrorKind::FileTooLarge.into());
        assert!(large.starts_with("cannot write a.lance\n  the file is larger"));
        let large = told(io::Error::other("File too large (os error 27)"));
        assert!(large.contains("ulimit -f"));
    }
}
