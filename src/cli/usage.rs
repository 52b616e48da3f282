//! What clap says of a command line that it does not take, without the secrets that are in it.

use std::borrow::Cow;

use crate::cli::changes::VERBS;
use crate::secret::mask_secrets;

/// The flag whose values are options of a store.
const OPTION: &str = "--storage-option";

/// What `error` says of the command line `words`.
pub(super) fn told(error: &clap::Error, words: &[String]) -> String {
    let mut text = error.to_string();
    for (word, masked) in masks(words) {
        // As clap shows what was typed.
        text = text.replace(&format!("'{word}'"), &format!("'{masked}'"));
        let (secret, shown) = match word.split_once('=') {
            Some((_, value)) if masked.ends_with("=***") => (value, "***"),
            _ => (word, masked.as_ref()),
        };
        // Shorter ones may stand anywhere by chance.
        if secret.len() >= 4 {
            text = text.replace(secret, shown);
        }
    }
    text
}

/// The words that have secrets in them, and how they are shown instead.
fn masks(words: &[String]) -> Vec<(&str, Cow<'_, str>)> {
    let mut before = "";
    let mut masks = Vec::new();
    for word in words {
        let option = match word.strip_prefix(OPTION) {
            _ if before == OPTION => Some(word.as_str()),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        if let Some(option) = option {
            let (key, value) = option.split_once('=').unwrap_or(("", option));
            let masked = if key.is_empty() { "***".to_owned() } else { format!("{key}=***") };
            masks.extend((!value.is_empty()).then_some((option, masked.into())));
        } else if !is_change(before) {
            let masked = mask_secrets(word);
            masks.extend((masked != word.as_str()).then_some((word.as_str(), masked)));
        }
        before = word;
    }
    masks
}

/// Whether what follows `flag` is a change: it is the user's to see what is wrong with it.
fn is_change(flag: &str) -> bool {
    flag.strip_prefix("--").is_some_and(|name| VERBS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::Parser as _;

    fn told_of(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        told(&Cli::try_parse_from(&words).unwrap_err(), &words)
    }

    #[test]
    fn secrets_are_not_repeated_and_changes_are() {
        for words in [
            &["relance", "plan", "s3://b/d", "t", "aws_secret_access_key=HUSH"][..],
            &["relance", "plan", "s3://b/d", "t", "aws_secret_access_key=H"],
            &["relance", "aws_secret_access_key=HUSH"],
            &["relance", "plan", "d", "t", "s3://k:HUSH@b"],
            &["relance", "plan", "d", "t", "az://c/d?sig=HUSH"],
            &["relance", "plan", "d", "t", "--storage-option", "x=1", "--nonsense", "token=HUSH"],
            &["relance", "--storage-option=anything=HUSH", "plan"],
            &["relance", "plan", "d", "t", "--storage-option", "HUSH", "HUSH"],
        ] {
            let text = told_of(words);
            assert!(
                !text.contains("HUSH") && !text.contains("'aws_secret_access_key=H'"),
                "{text}"
            );
        }
        let text = told_of(&["relance", "plan", "d", "t", "--add", "token:int9=7"]);
        assert!(text.contains("token:int9=7") && text.contains("did you mean `int8`?"), "{text}");
        let text = told_of(&["relance", "plan", "d", "t", "aws_secret_access_key=HUSH"]);
        assert!(text.contains("'aws_secret_access_key=***'"), "{text}");
    }
}
