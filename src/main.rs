//! The `relance` command.

mod cli;

use std::process::ExitCode;

/// Lance allocates a batch's buffers on one thread and frees them on another, over and over: the
/// system's allocator gives the pages back each time and faults them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
