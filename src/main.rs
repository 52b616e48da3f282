//! The `relance` command.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    relance::cli::run_with(std::env::args_os(), allocator::keep_freed).into()
}
