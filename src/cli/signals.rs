//! What the system tells this process while it runs.

use relance::Cancel;

/// Has a write beyond the limit of `ulimit -f` fail, with an error that can be told: the signal that comes
/// with it ends a process that does not listen. On Linux and macOS it is called by the same number.
pub(super) fn survive_file_limit() {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use tokio::signal::unix::{SignalKind, signal};
        const SIGXFSZ: i32 = 25;
        // Whoever listened once is not ended any more; nobody has to hear it.
        drop(signal(SignalKind::from_raw(SIGXFSZ)));
    }
}

/// Asked for by Ctrl-C and by a termination.
pub(super) fn cancel_on_signal() -> Cancel {
    let cancel = Cancel::default();
    let asked = cancel.clone();
    tokio::spawn(async move {
        stop_signal().await;
        asked.cancel();
    });
    cancel
}

/// Waits for Ctrl-C, or on Unix for SIGTERM too.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
