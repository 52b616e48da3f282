//! How long the allocator keeps memory that nobody uses.

use std::time::Duration;

use crate::cli::args::Command;

/// The variable by which a user sets mimalloc's purge delay. Whoever sets it is heard.
const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Keeps the peak a tenth lower than mimalloc's own second does, for a few processor cycles more.
const DELAY: Duration = Duration::from_millis(200);

/// For those who have little memory: a fifth lower, for an eighth more of processor time.
const DELAY_SMALL: Duration = Duration::from_millis(50);

/// Bytes of `--memory` below which memory counts as little.
const SMALL_BYTES: u64 = 256 << 20;

/// How long memory is kept that `command` freed; `None` leaves it to the allocator: where the user set it,
/// and for commands that allocate little.
pub(super) fn purge_delay(command: &Command) -> Option<Duration> {
    if std::env::var_os(VARIABLE).is_some() {
        return None;
    }
    let memory = match command {
        Command::Migrate { engine, .. }
        | Command::Resume { engine, .. }
        | Command::Tune { engine, .. } => engine.limits.memory,
        Command::Rollback { limits, .. } | Command::Verify { limits, .. } => limits.memory,
        Command::Plan { .. }
        | Command::Abort { .. }
        | Command::Status { .. }
        | Command::Finalize { .. }
        | Command::Sample { .. } => return None,
    };
    let small = memory.is_some_and(|bytes| bytes < SMALL_BYTES);
    Some(if small { DELAY_SMALL } else { DELAY })
}
