//! What the system tells this process while it runs.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use relance::{Cancel, Event, SharedProgress};

use crate::cli::INTERRUPTED;

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

/// Asked for by Ctrl-C and by a termination; another one ends the process at once. Those who wait for
/// `progress` hear of it.
///
/// It is listened to on a thread of its own: those of the runtime may all wait for a disk that does not
/// answer.
pub(super) fn cancel_on_signal(progress: &SharedProgress) -> Cancel {
    let cancel = Cancel::default();
    let (asked, progress) = (cancel.clone(), Arc::clone(progress));
    let (ready, listening) = channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // Without it, the first one ends the process.
        let Ok(runtime) = runtime else { return };
        runtime.block_on(listen(&asked, &progress, &ready));
    });
    // What begins after this is stopped cleanly. Nobody listens when the sender is gone.
    let _ = listening.recv();
    cancel
}

async fn listen(asked: &Cancel, progress: &SharedProgress, ready: &Sender<()>) {
    let Ok(mut stops) = Stops::listen() else { return };
    // Whoever waits for it is there.
    let _ = ready.send(());
    stops.next().await;
    asked.cancel();
    let text = "stopping at the next safe place; asked once more, it ends at once";
    progress.event(Event::Note(text.to_owned()));
    stops.next().await;
    let text = "ended at once, as after a crash: `relance status` tells what is there, and `relance \
                resume` goes on";
    // Nobody reads a closed stderr.
    let _ = writeln!(io::stderr().lock(), "error: {text}");
    std::process::exit(INTERRUPTED.into());
}

/// Ctrl-C, and on Unix SIGTERM.
#[cfg(unix)]
struct Stops {
    interrupted: tokio::signal::unix::Signal,
    terminated: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Stops {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupted = signal(SignalKind::interrupt())?;
        Ok(Self { interrupted, terminated: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupted.recv() => {}
            _ = self.terminated.recv() => {}
        }
    }
}

/// Ctrl-C.
#[cfg(windows)]
struct Stops(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Stops {
    fn listen() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) {
        let _ = self.0.recv().await;
    }
}
