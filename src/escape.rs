//! Text that others wrote, as it is shown: names, values and errors come from tables, stores and files, and
//! must neither steer a terminal nor look like lines of relance's own.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Whether `c` would steer a terminal or change the order in which text is read: control characters (C0,
/// DEL and C1), marks and overrides of writing direction, and Unicode's own ends of lines.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` as one line: every control character is escaped as Rust does it, ends of lines too. A backslash
/// stays as it is, so that what is escaped already stays as well.
pub(crate) fn escape_line(text: &str) -> Cow<'_, str> {
    escape(text, is_hidden, push_rust)
}

/// `text` of several lines, each as [`escape_line`] gives it. What is put into such a text has to be escaped
/// before, or it makes lines of its own.
pub(crate) fn escape_text(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && is_hidden(c), push_rust)
}

/// `text`, which is JSON, with the control characters escaped that JSON allows in a string. It stays the same JSON.
pub(crate) fn escape_json(text: &str) -> Cow<'_, str> {
    // All others stand between values.
    escape(
        text,
        |c| !c.is_ascii_whitespace() && is_hidden(c),
        |out, c| {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

/// `text` as one word of a shell's command line.
pub(crate) fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+=,-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    if !text.chars().any(is_hidden) {
        return Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")));
    }
    let escaped = text.replace('\\', r"\\").replace('\'', r"\'");
    let escaped = escape(&escaped, is_hidden, |out, c| {
        let mut bytes = [0; 4];
        for byte in c.encode_utf8(&mut bytes).bytes() {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\{byte:03o}");
        }
    });
    Cow::Owned(format!("$'{escaped}'"))
}

fn push_rust(out: &mut String, c: char) {
    out.extend(c.escape_default());
}

fn escape(
    text: &str,
    is_escaped: impl Fn(char) -> bool,
    push: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.chars().any(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_escaped(c) { push(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// A text that is written line by line: each `writeln!` adds one line, whatever is in its values.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

impl Page {
    /// Adds `line`, which ends with one end of a line. Has the name that `writeln!` looks for.
    #[allow(clippy::unnecessary_wraps, reason = "`writeln!` is used with `?`")]
    pub(crate) fn write_fmt(&mut self, line: fmt::Arguments<'_>) -> fmt::Result {
        let line = line.to_string();
        self.0.push_str(&escape_line(line.strip_suffix('\n').unwrap_or(&line)));
        self.0.push('\n');
        Ok(())
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        for code in (0..0x20_u32).chain(0x7f..0xa0).chain(0x2028..0x202f).chain(0x2066..0x206a) {
            let c = char::from_u32(code).unwrap();
            let shown = escape_line(&format!("a{c}b")).into_owned();
            assert!(shown.is_ascii() && !shown.contains(|c: char| c.is_control()), "{shown:?}");
            assert_eq!(escape_line(&shown), shown, "twice is once");
            assert_eq!(escape_text(&format!("a{c}b")) == "a\nb", c == '\n');
        }
        assert_eq!(escape_line("\u{1b}[31mred\r\n\u{202e}"), r"\u{1b}[31mred\r\n\u{202e}");
        assert_eq!(escape_line("Grüße, 漢字 'x' \\ \"y\""), "Grüße, 漢字 'x' \\ \"y\"");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "a\u{9b}\n": ["\u{7f}", "\u{202e}é", 1] });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = escape_json(&text).into_owned();
            assert!(!shown.contains(['\u{9b}', '\u{7f}', '\u{202e}']), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn a_shell_reads_back_the_same_word() {
        let words = [
            "/tmp/db",
            "s3://b/d@1",
            "",
            "a b",
            "it's",
            "$(x)`y`\\;&|*?~#!\"",
            "é",
            "a\n\u{1b}'\\\u{9b}",
        ];
        for word in words {
            let quoted = shell_word(word);
            assert!(!quoted.chars().any(is_hidden), "{quoted:?}");
            let mut shell = std::process::Command::new("bash");
            if let Ok(output) = shell.args(["-c", &format!("printf %s {quoted}")]).output() {
                assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{quoted}");
            }
        }
        assert_eq!(shell_word("/tmp/db"), "/tmp/db");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_value_makes_no_line() {
        let mut page = Page::default();
        let name = "a\n  index `x`: kept";
        writeln!(page, "  column `{name}`").unwrap();
        writeln!(page, "  end").unwrap();
        assert_eq!(page.into_text(), "  column `a\\n  index `x`: kept`\n  end\n");
    }
}
