//! How long the allocator keeps memory that nobody uses.

use crate::cli::args::Command;

/// The allocator's own variable: milliseconds until it gives freed memory back. Whoever sets it is heard.
const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Milliseconds that keep the peak a tenth lower than the allocator's own second does, for a few processor
/// cycles more.
const DELAY: &str = "200";

/// For those who have little memory: a fifth lower, for an eighth more of processor time.
const DELAY_SMALL: &str = "50";

/// Bytes of `--memory` that count as little.
const SMALL_BYTES: u64 = 256 << 20;

/// The delay for `command`; `None`, where little goes through memory.
fn delay(command: &Command) -> Option<&'static str> {
    let memory = match command {
        Command::Migrate { engine, .. }
        | Command::Resume { engine, .. }
        | Command::Tune { engine, .. } => engine.memory,
        Command::Rollback { .. } | Command::Verify { .. } => None,
        Command::Plan { .. }
        | Command::Abort { .. }
        | Command::Status { .. }
        | Command::Finalize { .. }
        | Command::Sample { .. } => return None,
    };
    let small = memory.is_some_and(|bytes| bytes < SMALL_BYTES);
    Some(if small { DELAY_SMALL } else { DELAY })
}

/// Begins this process anew with the delay for `command`: the allocator reads it once, when a process
/// starts. Where that cannot be done, it goes on as it is.
pub(super) fn settle(command: &Command) {
    let Some(delay) = delay(command).filter(|_| std::env::var_os(VARIABLE).is_none()) else {
        return;
    };
    #[cfg(unix)]
    if let Ok(own) = std::env::current_exe() {
        use std::os::unix::process::CommandExt as _;
        let mut anew = std::process::Command::new(own);
        // Returns only when it fails; then memory is kept longer, and nothing else is different.
        let _ = anew.args(std::env::args_os().skip(1)).env(VARIABLE, delay).exec();
    }
}
