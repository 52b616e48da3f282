//! A file that says how fast a run may go, and may be changed while it runs.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use toml_edit::{DocumentMut, Item};

use crate::error::{Error, Result};
use crate::progress::{SharedProgress, note};
use crate::{plan::amounts::bytes_text, settings::parse_bytes, storage::throttle::Throttle};

/// A file that says how fast a run may go.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    /// The rate where the file says none.
    default: Option<u64>,
    /// Whether it was looked for, and when it was written that was heard last.
    looked: bool,
    heard: Option<SystemTime>,
}

impl Control {
    pub(crate) fn of(path: &Path, default: Option<u64>) -> Self {
        Self { path: path.to_path_buf(), default, looked: false, heard: None }
    }

    /// Looks whether the file says something else than before, and has `throttle` follow. What cannot be
    /// understood is told and changes nothing.
    pub(crate) fn hear(&mut self, throttle: &Throttle, progress: &SharedProgress) {
        let written = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
        if self.looked && self.heard == written {
            return;
        }
        let first = !self.looked;
        (self.looked, self.heard) = (true, written);
        let name = self.path.display();
        let rate = match std::fs::read_to_string(&self.path) {
            // No file is as good as one that says nothing.
            Err(_) if written.is_none() && first => return,
            Err(_) if written.is_none() => Ok(self.default),
            Err(error) => Err(Error::usage("it cannot be read").caused_by(error)),
            Ok(text) => max_rate(&text, self.default),
        };
        match rate {
            Ok(rate) => {
                throttle.change(rate);
                let rate = rate.map_or("none".to_owned(), |rate| format!("{}/s", bytes_text(rate)));
                note(progress, format!("{name}: max rate is now {rate}"));
            }
            Err(error) => note(progress, format!("{name} is left alone: {error}")),
        }
    }
}

/// What `text` says of the rate; `default`, when it says nothing.
fn max_rate(text: &str, default: Option<u64>) -> Result<Option<u64>> {
    let document: DocumentMut =
        text.parse().map_err(|error| Error::usage("not TOML").caused_by(error))?;
    if let Some((key, _)) = document.iter().find(|(key, _)| *key != "max-rate") {
        return Err(Error::usage(format!("`{key}` is not known, only `max-rate` is")));
    }
    let rate = match document.get("max-rate") {
        None => return Ok(default),
        Some(Item::Value(toml_edit::Value::String(text))) if text.value() == "none" => {
            return Ok(None);
        }
        Some(Item::Value(toml_edit::Value::String(text))) => parse_bytes(text.value())?,
        Some(Item::Value(toml_edit::Value::Integer(bytes))) => {
            u64::try_from(*bytes.value()).map_err(|_| Error::usage("`max-rate` is negative"))?
        }
        Some(_) => return Err(Error::usage("`max-rate` is no number of bytes")),
    };
    if rate == 0 {
        return Err(Error::usage("`max-rate` must be at least one byte a second, or \"none\""));
    }
    Ok(Some(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_a_rate_or_none() {
        for (text, rate) in [
            ("", Some(7)),
            ("max-rate = \"50MB\"", Some(50_000_000)),
            ("max-rate = 1024\n# slower at night", Some(1024)),
            ("max-rate = \"none\"", None),
        ] {
            assert_eq!(max_rate(text, Some(7)).unwrap(), rate, "{text}");
        }
        for bad in ["max-rate", "rate = 1", "max-rate = 0", "max-rate = -1", "max-rate = true"] {
            assert!(max_rate(bad, None).is_err(), "{bad}");
        }
    }
}
