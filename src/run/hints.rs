//! What to type next: the commands that errors and notes suggest, as a shell takes them.

use crate::error::{Error, Kind};
use crate::{escape::shell_word, run::context::Context};

/// Names of what is left alone that are shown.
const LEFT_SHOWN: usize = 5;

/// What goes on with the staged migration, and what drops it.
pub(crate) fn next_steps(ctx: &Context) -> String {
    let (resume, abort) = (command(ctx, "resume"), command(ctx, "abort"));
    format!("{resume} goes on, {abort} drops what is staged")
}

/// Says what was left alone in the staging table's folder, if anything was.
pub(crate) fn tell_left(ctx: &Context, left: &[String]) {
    let (first, staging) = (left.iter().take(LEFT_SHOWN), ctx.location.staging_table());
    let first: Vec<_> = first.map(|name| format!("`{name}`")).collect();
    let (count, first) = (left.len(), first.join(", "));
    if count > 0 {
        let what = "links, or files that are not relance's, are left alone";
        ctx.say(format!("{count} {what} in the folder of `{staging}`: {first}"));
    }
}

/// A command of relance's on this table, as it is typed.
pub(crate) fn command(ctx: &Context, verb: &str) -> String {
    command_with(ctx, verb, &[])
}

/// The same with `flags`.
pub(crate) fn command_with(ctx: &Context, verb: &str, flags: &[&str]) -> String {
    format!("`{}`", bare_command(ctx, verb, flags))
}

/// The same without backticks around it.
pub(crate) fn bare_command(ctx: &Context, verb: &str, flags: &[&str]) -> String {
    typed(verb, flags, ctx.location.database(), ctx.table())
}

/// The command line of `verb` on `table`. What begins with a dash is no flag after two of them.
fn typed(verb: &str, flags: &[&str], database: &str, table: &str) -> String {
    let dashes = database.starts_with('-') || table.starts_with('-');
    let mut words = vec!["relance", verb];
    let (database, table) = (shell_word(database), shell_word(table));
    if dashes {
        words.extend(flags);
        words.push("--");
    }
    words.extend([database.as_ref(), table.as_ref()]);
    if !dashes {
        words.extend(flags);
    }
    words.join(" ")
}

/// `error`, with what is kept and what to do.
pub(crate) fn kept(ctx: &Context, error: Error) -> Error {
    if matches!(error.kind(), Kind::Locked | Kind::OutcomeUnknown) {
        return error;
    }
    error.with_advice(&format!("the live table is as it was. {}", next_steps(ctx)))
}

/// `error`, which came after the swap as `version`, as what it is there: nothing of the table's is lost,
/// and something is left to do.
pub(crate) fn unfinished(ctx: &Context, version: u64, error: Error) -> Error {
    let swapped = format!("swapped in as version {version}, whole");
    let resume = command(ctx, "resume");
    let error = match error.kind() {
        Kind::Locked => error.with_advice(&format!("{swapped}; another run does the rest")),
        Kind::Interrupted => Error::unfinished(format!("{swapped}; interrupted after that"))
            .with_advice(&format!("{resume} does the rest")),
        Kind::Mismatch => {
            let rollback = command(ctx, "rollback");
            Error::unfinished(format!("{swapped}; a look at it found something else"))
                .with_advice(&format!("{resume} looks again, {rollback} takes it back"))
                .caused_by(error)
        }
        Kind::Usage
        | Kind::Refused
        | Kind::OutcomeUnknown
        | Kind::Unfinished
        | Kind::NoTable
        | Kind::Failed => Error::unfinished(format!("{swapped}; something after that failed"))
            .with_advice(&format!("{resume} does the rest"))
            .caused_by(error),
    };
    error.knowing("version", version.into())
}

pub(crate) fn landed(ctx: &Context, version: u64) -> Error {
    let (resume, rollback) = (command(ctx, "resume"), command(ctx, "rollback"));
    Error::refused(format!("the swap landed as version {version}, so there is nothing to abort"))
        .with_advice(&format!("{resume} finishes it; {rollback} takes it back"))
}

/// The error of a commit that may or may not have landed.
pub(crate) fn unknown(ctx: &Context, attempted: u64) -> Error {
    let (table, status, resume) = (ctx.table(), command(ctx, "status"), command(ctx, "resume"));
    let message = format!(
        "whether version {attempted} of `{table}` was committed is not known: the store gave no \
         answer. Nothing was deleted"
    );
    let advice =
        format!("when the store answers again, {status} tells, and {resume} goes on from there");
    Error::new(Kind::OutcomeUnknown, message).with_advice(&advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_quoted_as_a_shell_needs_it() {
        let resume = |database: &str, table: &str| typed("resume", &[], database, table);
        assert_eq!(resume("/tmp/db", "t"), "relance resume /tmp/db t");
        assert_eq!(resume("s3://b/a+b@1", "t-1"), "relance resume s3://b/a+b@1 t-1");
        assert_eq!(resume("/tmp/a b;c", "t"), "relance resume '/tmp/a b;c' t");
        assert_eq!(resume("/it's $(x) `y`", "t"), r"relance resume '/it'\''s $(x) `y`' t");
        assert_eq!(resume("/a\"b\\c\n", "t"), r#"relance resume $'/a"b\\c\012' t"#);
        assert_eq!(resume("-db", "t"), "relance resume -- -db t");
        let flags = &["--keep-writes"];
        assert_eq!(typed("rollback", flags, "/d", "t"), "relance rollback /d t --keep-writes");
        assert_eq!(typed("rollback", flags, "/d", "-t"), "relance rollback --keep-writes -- /d -t");
    }
}
