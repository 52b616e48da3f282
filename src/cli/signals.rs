//! What the system tells this process while a command runs.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use crate::{Cancel, Event, SharedProgress};

/// Makes a write beyond the limit of `ulimit -f` fail with an error that can be told: the signal that comes
/// with it ends a process that does not listen to it. On Linux and macOS the signal has the same number.
pub(super) fn survive_file_limit() {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use tokio::signal::unix::{SignalKind, signal};
        const SIGXFSZ: i32 = 25;
        // A process that listened once is not ended any more, and nobody needs to hear the signal.
        drop(signal(SignalKind::from_raw(SIGXFSZ)));
    }
}

/// Stops a run when the process is told to: the first Ctrl-C or termination asks it to stop cleanly, the
/// second leaves it as it is. It listens until it is dropped, so that a later run in this process does not
/// hear signals through it.
#[derive(Debug)]
pub(super) struct Signals {
    cancel: Cancel,
    /// The thread that listens ends when this is dropped.
    _over: oneshot::Sender<()>,
}

impl Signals {
    /// Starts to listen. Those who wait for `progress` hear of the first signal, `leave` is called at the
    /// second.
    ///
    /// The listener has a thread of its own: those of the runtime may all wait for a disk that does not
    /// answer.
    pub(super) fn listen(progress: &SharedProgress, leave: impl FnOnce() + Send + 'static) -> Self {
        let cancel = Cancel::default();
        let (over, is_over) = oneshot::channel();
        let (asked, progress) = (cancel.clone(), Arc::clone(progress));
        let (ready, listening) = channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // Without a runtime the first signal ends the process.
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                tokio::select! {
                    () = listen(&asked, &progress, &ready, leave) => {}
                    _ = is_over => {}
                }
            });
        });
        // Waits, so that what begins after this is stopped cleanly. The sender is gone when it cannot listen.
        let _ = listening.recv();
        Self { cancel, _over: over }
    }

    /// What the first signal cancels.
    pub(super) fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }
}

async fn listen(
    asked: &Cancel,
    progress: &SharedProgress,
    ready: &Sender<()>,
    leave: impl FnOnce(),
) {
    let Ok(mut stops) = Stops::listen() else { return };
    // `listen` above waits for it.
    let _ = ready.send(());
    stops.next().await;
    asked.cancel();
    let text = "stopping at the next safe place; asked once more, it ends at once";
    progress.event(Event::Note(text.to_owned()));
    stops.next().await;
    let text = "ended at once, as after a crash: `relance status` tells what is there, and where \
                something is staged, `relance resume` goes on";
    // Nobody reads a closed stderr.
    let _ = writeln!(io::stderr().lock(), "error: {text}");
    leave();
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
