//! Logging to stderr, for those who ask.

use tracing_subscriber::EnvFilter;

/// Logs as much as `verbose` asks for; `RELANCE_LOG` overrides it.
pub(super) fn start(verbose: u8) {
    let level = match verbose {
        0 => "off",
        1 => "relance=debug",
        _ => "relance=debug,lance=info,lancedb=info",
    };
    let filter = EnvFilter::try_from_env("RELANCE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let started =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    // A second start changes nothing, and is no error.
    drop(started);
}
