//! The commands that errors and notes suggest, as a shell takes them.

use crate::escape::shell_word;
use crate::progress::note;
use crate::run::Migration;

/// Names of what is left alone that are shown.
const LEFT_SHOWN: usize = 5;

impl Migration {
    /// What goes on with the staged migration, and what drops it.
    pub(super) fn next_steps(&self) -> String {
        let (resume, abort) = (self.command("resume"), self.command("abort"));
        format!("{resume} goes on, {abort} drops what is staged")
    }

    /// Says what was left alone in the staging table's folder, if anything was.
    pub(super) fn tell_left(&self, left: &[String]) {
        let (first, staging) = (left.iter().take(LEFT_SHOWN), self.location.staging_table());
        let first: Vec<_> = first.map(|name| format!("`{name}`")).collect();
        let (count, first) = (left.len(), first.join(", "));
        if count > 0 {
            let what = "links, or files that are not relance's, are left alone";
            note(&self.progress, format!("{count} {what} in the folder of `{staging}`: {first}"));
        }
    }

    /// A command of relance's on this table, as it is typed.
    pub(super) fn command(&self, verb: &str) -> String {
        self.command_with(verb, &[])
    }

    /// The same with `flags`.
    pub(super) fn command_with(&self, verb: &str, flags: &[&str]) -> String {
        format!("`{}`", self.bare_command(verb, flags))
    }

    /// The same without backticks around it.
    pub(super) fn bare_command(&self, verb: &str, flags: &[&str]) -> String {
        typed(verb, flags, self.location.database(), self.location.table())
    }
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
