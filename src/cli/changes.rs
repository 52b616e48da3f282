//! The flags that ask for changes. Clap groups arguments by flag; here they keep the order in which they were
//! typed, in which they are applied.

use std::path::PathBuf;

use crate::Change;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// The flags, with what each takes and what it does.
const FLAGS: &[(&str, &str, &str)] = &[
    (
        "add",
        "NAME:TYPE[ not null][=LITERAL]",
        "Add a column filled with the literal, or with nulls without one. TYPE as PyArrow prints it; times also \
         take `now`",
    ),
    ("compute", "NAME[:TYPE]=SQL", "Add a column computed from the others"),
    ("cast", "NAME:TYPE", "Change a column's type"),
    ("set", "NAME=SQL", "Change the values of a column that exists"),
    ("fill", "NAME=LITERAL", "Replace a column's nulls with a value"),
    ("rename", "OLD=NEW", "Rename a column"),
    ("drop", "NAME", "Drop a column"),
    ("nullable", "NAME", "Allow nulls in a column"),
    ("not-null", "NAME", "Forbid nulls in a column"),
    (
        "replace",
        "NAME:TYPE",
        "Replace a column by what a program gives (--by), in whatever type and dimension; its index is built again",
    ),
    (
        "join",
        "FILES|TABLE",
        "Take columns over by a key (--on, --take) from Parquet, Arrow IPC, CSV or JSON-lines files, one or many (`*`), a \
         Lance table's URI, or a table of the database",
    ),
];

/// The flags that say more of the change before them.
const DETAIL_FLAGS: &[(&str, &str, &str)] = &[
    (
        "by",
        "PROGRAM",
        "What gives the values of the --add or --replace before: it reads an Arrow IPC stream on stdin, and writes one \
         with a batch of one column for each batch to stdout",
    ),
    ("inputs", "NAME,NAME", "The columns that it is given"),
    ("by-version", "TEXT", "What it computes, as you name it: `resume` goes on only with the same"),
    ("by-batch", "ROWS", "Rows that it is given at once, at most [default: 256]"),
    ("keep-old", "NAME", "Keep the column that is replaced beside the new one, under this name"),
    (
        "on",
        "KEY[=THERE]",
        "The key of the --join before: columns of the table, and what they are called there",
    ),
    (
        "take",
        "NAME[=THERE]",
        "The columns that the --join before takes over; those that exist get other values",
    ),
    (
        "on-missing",
        "error|null|keep",
        "What becomes of rows whose key is not there [default: error]",
    ),
    (
        "on-duplicate",
        "error|first|last",
        "What becomes of keys that are there more than once [default: error]",
    ),
];

/// The names of the flags.
pub(super) const VERBS: [&str; 12] = [
    "add", "compute", "cast", "set", "fill", "rename", "drop", "nullable", "not-null", "replace",
    "join", "file",
];

/// Changes and files of changes, in the order in which they were typed.
#[derive(Debug, Clone, Default)]
pub(super) struct Ordered {
    pub items: Vec<ChangeArg>,
}

/// A change, or a file of them.
#[derive(Debug, Clone)]
pub(super) enum ChangeArg {
    Change(Change),
    File(PathBuf),
}

impl Args for Ordered {
    fn augment_args(command: Command) -> Command {
        let mut command = command;
        for (verb, shape, help) in FLAGS {
            let parse =
                |text: &str| Change::parse_part(verb, text).map_err(|error| error.to_string());
            let arg = Arg::new(*verb)
                .long(*verb)
                .value_name(*shape)
                .help(format!("{help}; repeatable"))
                .action(ArgAction::Append)
                .value_parser(parse);
            command = command.arg(arg);
        }
        for (name, shape, help) in DETAIL_FLAGS {
            let arg = Arg::new(*name).long(*name).value_name(*shape).help(*help);
            command =
                command.arg(arg.action(ArgAction::Append).help_heading("Values from elsewhere"));
        }
        command.arg(
            Arg::new("file")
                .long("file")
                .value_name("MIGRATION.toml")
                .help("Read changes from a file, in its order: [[change]] tables with a flag's name and its value")
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(PathBuf)),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn wrong(what: &dyn std::fmt::Display) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{what}\n"))
}

impl FromArgMatches for Ordered {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found: Vec<(usize, ChangeArg)> = Vec::new();
        for (verb, ..) in FLAGS {
            let values = matches.get_many::<Change>(verb).into_iter().flatten().cloned();
            let places = matches.indices_of(verb).into_iter().flatten();
            found.extend(places.zip(values.map(ChangeArg::Change)));
        }
        let files = matches.get_many::<PathBuf>("file").into_iter().flatten().cloned();
        let places = matches.indices_of("file").into_iter().flatten();
        found.extend(places.zip(files.map(ChangeArg::File)));
        let mut details: Vec<(usize, &str, &String)> = Vec::new();
        for (name, ..) in DETAIL_FLAGS {
            let values = matches.get_many::<String>(name).into_iter().flatten();
            let places = matches.indices_of(name).into_iter().flatten();
            details.extend(places.zip(values).map(|(place, text)| (place, *name, text)));
        }
        details.sort_by_key(|(place, ..)| *place);
        found.sort_by_key(|(place, _)| *place);
        for (place, name, text) in details {
            let before = found.iter_mut().rev().find(|(other, _)| *other < place);
            let Some((_, ChangeArg::Change(change))) = before else {
                return Err(wrong(&format!("--{name} comes after the change that it is of")));
            };
            *change = change.clone().detailed(name, text).map_err(|error| wrong(&error))?;
        }
        let completed = found.into_iter().map(|(_, asked)| match asked {
            ChangeArg::Change(change) => change.completed().map(ChangeArg::Change),
            file @ ChangeArg::File(_) => Ok(file),
        });
        let items = completed.collect::<crate::Result<_>>().map_err(|error| wrong(&error))?;
        Ok(Self { items })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
