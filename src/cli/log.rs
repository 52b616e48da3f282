//! Listening to the run: a log for those who ask, where the time goes, and a trace of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use relance::{Error, Result, SPAN_TARGET, escape_line};
use tracing::Level;
use tracing_chrome::{ChromeLayerBuilder, FlushGuard, TraceStyle};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, registry};

use crate::cli::breakdown::Breakdown;

/// What listens. A trace is complete when this is dropped.
pub(super) struct Log {
    pub(super) breakdown: Breakdown,
    _trace: Option<FlushGuard>,
}

/// Writes log lines, of which each comes in one piece, with control characters escaped: Lance logs names and
/// errors as they are.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        writeln!(self.0, "{}", escape_line(text.trim_end_matches('\n')))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Has what panics say escaped: Lance's repeat what is in a damaged file.
pub(super) fn escape_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // Nobody reads a closed stderr.
        let _ = writeln!(io::stderr().lock(), "{}", escape_line(&panic.to_string()));
    }));
}

/// Logs as much as `verbose` asks for; `RELANCE_LOG` overrides it. Writes a trace to `trace`, for Chrome or
/// Perfetto.
///
/// # Errors
/// `Usage`, when `trace` cannot be written.
pub(super) fn start(verbose: u8, trace: Option<&Path>) -> Result<Log> {
    let level = match verbose {
        0 => "off",
        1 => "relance=debug",
        _ => "relance=debug,lance=info,lancedb=info",
    };
    let filter = EnvFilter::try_from_env("RELANCE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let ours = || Targets::new().with_target(SPAN_TARGET, Level::INFO);
    let (chrome, guard) = match trace {
        None => (None, None),
        Some(path) => {
            let name = path.display();
            let file = File::create(path).map_err(|error| {
                Error::usage(format!("--trace: cannot write {name}")).caused_by(error)
            })?;
            let builder = ChromeLayerBuilder::new().writer(file);
            let (layer, guard) = builder.trace_style(TraceStyle::Async).build();
            (Some(layer.with_filter(ours())), Some(guard))
        }
    };
    let breakdown = Breakdown::begin();
    let log = fmt::layer().with_ansi(false).with_writer(|| Escaped(io::stderr()));
    let log = log.with_filter(filter);
    let all = registry().with(log).with(breakdown.clone().with_filter(ours())).with(chrome);
    // A second start changes nothing, and is no error.
    drop(all.try_init());
    Ok(Log { breakdown, _trace: guard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_one_line() {
        let mut out = Vec::new();
        Escaped(&mut out).write_all("open a\u{1b}[2J\nINFO b\n".as_bytes()).unwrap();
        assert_eq!(out, b"open a\\u{1b}[2J\\nINFO b\n");
    }
}
