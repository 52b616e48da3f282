//! Listening to a run: a log for those who ask, where the time goes, and a trace of it.
//!
//! A process has one subscriber for `tracing`, and it cannot be replaced. So it is set up by the first run,
//! and each run switches its parts on and off again. Runs that go on at the same time share them.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use tracing::Level;
use tracing_chrome::{ChromeLayer, ChromeLayerBuilder, FlushGuard, TraceStyle};
use tracing_subscriber::filter::{Filtered, Targets};
use tracing_subscriber::layer::{Layer as _, Layered, SubscriberExt as _};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, registry};

use crate::cli::breakdown::Breakdown;
use crate::error::redact;
use crate::escape::escape_line;
use crate::{Error, Result, SPAN_TARGET};

/// The trace's layer on the registry, on which the log's is.
type Traced =
    Layered<Filtered<ChromeLayer<Registry>, reload::Layer<Targets, Registry>, Registry>, Registry>;

/// What listens in this process.
struct Listeners {
    /// Which log lines are written.
    filter: Handle<EnvFilter, Traced>,
    /// Which spans are traced.
    traced: Handle<Targets, Registry>,
    /// Where the trace goes. It is one trace layer for all runs: each thread keeps the layer's channel, and
    /// would send the spans of a later run to an earlier one's layer.
    trace: Mutex<FlushGuard>,
}

static LISTENERS: OnceLock<Listeners> = OnceLock::new();

/// What must not be logged, of all runs of this process: Lance logs the addresses that it asks.
static HIDDEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Has `secrets` never logged.
pub(super) fn hide(secrets: &[String]) {
    let mut hidden = HIDDEN.lock().unwrap_or_else(PoisonError::into_inner);
    let new: Vec<_> = secrets.iter().filter(|secret| !hidden.contains(secret)).cloned().collect();
    hidden.extend(new);
}

impl Listeners {
    /// Sets them up, with nothing traced yet.
    fn install(filter: EnvFilter) -> Self {
        let (filter, filter_handle) = reload::Layer::new(filter);
        let (traced, traced_handle) = reload::Layer::new(Targets::new());
        let builder = ChromeLayerBuilder::new().writer(io::sink()).trace_style(TraceStyle::Async);
        let (trace, guard) = builder.build();
        let log = fmt::layer().with_ansi(false).with_writer(|| Escaped(io::stderr()));
        let all = registry().with(trace.with_filter(traced)).with(log.with_filter(filter));
        // Fails where the host of this library has its own subscriber: then that one hears everything.
        drop(all.try_init());
        Self { filter: filter_handle, traced: traced_handle, trace: Mutex::new(guard) }
    }

    /// Logs what passes `filter` from now on.
    fn log(&self, filter: EnvFilter) {
        // Fails where the host's subscriber listens instead.
        drop(self.filter.reload(filter));
    }

    /// Ends the trace that is written, and writes `spans` to `writer` from now on.
    fn trace(&self, spans: Targets, writer: impl Write + Send + 'static) {
        // Fails where the host's subscriber listens instead.
        drop(self.traced.reload(spans));
        let trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.start_new(Some(Box::new(writer)));
    }
}

/// The spans that tell where the time goes.
fn our_spans() -> Targets {
    Targets::new().with_target(SPAN_TARGET, Level::INFO)
}

/// A trace's file. Whoever has the other end of the channel hears when it is complete.
struct TraceFile {
    file: File,
    _complete: Sender<()>,
}

impl Write for TraceFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What listens to one run. When it is dropped, the run's trace is complete and nothing more is logged.
pub(super) struct Log {
    listeners: &'static Listeners,
    breakdown: Breakdown,
    trace_complete: Option<Receiver<()>>,
}

impl Log {
    /// Where the run's time went.
    pub(super) fn breakdown(&self) -> &Breakdown {
        &self.breakdown
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.listeners.log(EnvFilter::new("off"));
        if let Some(complete) = self.trace_complete.take() {
            self.listeners.trace(Targets::new(), io::sink());
            // Ends with an error, which is what is waited for: the sender goes with the file.
            let _ = complete.recv();
        }
    }
}

/// Writes log lines, of which each comes in one piece, with control characters escaped: Lance logs names and
/// errors as they are.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = redact(&text, &HIDDEN.lock().unwrap_or_else(PoisonError::into_inner));
        writeln!(self.0, "{}", escape_line(text.trim_end_matches('\n')))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The runs whose panics are escaped.
static ESCAPING: AtomicUsize = AtomicUsize::new(0);

/// While this is there, what panics say is escaped.
pub(super) struct EscapedPanics(());

impl Drop for EscapedPanics {
    fn drop(&mut self) {
        ESCAPING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Escapes what panics say until the run is over: Lance's panics repeat what is in a damaged file.
pub(super) fn escape_panics() -> EscapedPanics {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if ESCAPING.load(Ordering::Relaxed) == 0 {
                return before(panic);
            }
            // Nobody reads a closed stderr.
            let _ = writeln!(io::stderr().lock(), "{}", escape_line(&panic.to_string()));
        }));
    });
    ESCAPING.fetch_add(1, Ordering::Relaxed);
    EscapedPanics(())
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
    let filter =
        || EnvFilter::try_from_env("RELANCE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let file = match trace {
        None => None,
        Some(path) => Some(File::create(path).map_err(|error| {
            let name = path.display();
            Error::usage(format!("--trace: cannot write {name}")).caused_by(error)
        })?),
    };
    // The first run's filter is there from the start: how much of the `log` crate's is heard is settled then.
    let listeners = LISTENERS.get_or_init(|| Listeners::install(filter()));
    listeners.log(filter());
    let trace_complete = file.map(|file| {
        let (complete, trace_complete) = channel();
        listeners.trace(our_spans(), TraceFile { file, _complete: complete });
        trace_complete
    });
    Ok(Log { listeners, breakdown: Breakdown::begin(), trace_complete })
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

    #[test]
    fn each_run_hears_its_own_time_whether_it_is_traced_or_not() {
        let directory = tempfile::tempdir().unwrap();
        for traced in [false, true, true, false] {
            let file = directory.path().join("trace.json");
            let log = start(0, traced.then_some(file.as_path())).unwrap();
            let span = crate::span::index();
            std::thread::sleep(std::time::Duration::from_millis(5));
            drop(span);
            let seconds = &log.breakdown().json()["seconds"];
            assert!(seconds["index"].as_f64().is_some_and(|index| index > 0.0), "{seconds}");
            drop(log);
            if traced {
                let spans: serde_json::Value =
                    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
                let heard = spans.as_array().unwrap().iter().filter(|span| span["name"] == "index");
                assert!(heard.count() >= 1, "{spans}");
            }
        }
    }
}
