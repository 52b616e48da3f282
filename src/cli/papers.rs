//! What the command prints of itself: completions and manual pages.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::cli::args::{Cli, Paper};
use crate::error::{Error, Result};

/// Prints `paper`, made from the flags as they are.
///
/// # Errors
/// `Usage`, when there is no such command.
pub(super) fn print(paper: &Paper) -> Result<()> {
    let mut command = Cli::command();
    let mut text = Vec::new();
    match paper {
        Paper::Completions { shell } => {
            clap_complete::generate(*shell, &mut command, "relance", &mut text);
        }
        Paper::Man { command: name } => {
            let page = match name {
                None => command,
                Some(name) => {
                    command.build();
                    let found = command.find_subcommand(name).cloned();
                    found.ok_or_else(|| Error::usage(format!("no command is called `{name}`")))?
                }
            };
            // Writing to memory cannot fail.
            let _ = clap_mangen::Man::new(page).render(&mut text);
        }
    }
    // Nobody reads a closed stdout.
    let _ = std::io::stdout().lock().write_all(&text);
    Ok(())
}
