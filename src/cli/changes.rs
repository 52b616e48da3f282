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
];

/// The names of the flags.
pub(super) const VERBS: [&str; 10] =
    ["add", "compute", "cast", "set", "fill", "rename", "drop", "nullable", "not-null", "file"];

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
            let parse = |text: &str| Change::parse(verb, text).map_err(|error| error.to_string());
            let arg = Arg::new(*verb)
                .long(*verb)
                .value_name(*shape)
                .help(format!("{help}; repeatable"))
                .action(ArgAction::Append)
                .value_parser(parse);
            command = command.arg(arg);
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
        found.sort_by_key(|(place, _)| *place);
        Ok(Self { items: found.into_iter().map(|(_, asked)| asked).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
