//! What must not be shown: which options hold secrets, and where a URI has some.

use std::borrow::Cow;

/// What the names of options with secret values have in them.
const MARKS: &[&str] = &["key", "secret", "token", "password", "sas", "credential", "account"];

/// Schemes whose URIs may be `scheme://CONTAINER@ACCOUNT/…`, which is no secret.
const CONTAINER_SCHEMES: &[&str] = &["az", "abfs", "abfss"];

/// Whether an option called `name` has a secret value.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    MARKS.iter().any(|mark| name.contains(mark))
}

/// `word` with `***` in place of what is secret in it: user and password in a URI, signatures in its query,
/// or the value of `KEY=VALUE` with a key that names a secret.
pub(crate) fn mask_secrets(word: &str) -> Cow<'_, str> {
    let mut masked = Cow::Borrowed(word);
    if is_option(word) {
        let (key, _) = word.split_once('=').unwrap_or_default();
        return Cow::Owned(format!("{key}=***"));
    }
    if let Some(info) = user_info(word) {
        masked = Cow::Owned(masked.replacen(&format!("{info}@"), "***@", 1));
    }
    for (key, value) in query_secrets(word) {
        masked = Cow::Owned(masked.replacen(&format!("{key}={value}"), &format!("{key}=***"), 1));
    }
    masked
}

/// Whether `word` is an option of a store with a secret value, as `KEY=VALUE`.
pub(crate) fn is_option(word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    word.split_once('=').is_some_and(|(key, value)| {
        !value.is_empty() && key.chars().all(is_name) && is_secret_name(key)
    })
}

/// The word among `words`, those of a command line, that gives a secret away: the value of an option that is called
/// after one, or a URI with one in it.
pub(crate) fn secret_among(words: &[String]) -> Option<&str> {
    let names_secret = |word: &str| {
        let name: String = word.chars().filter(char::is_ascii_alphabetic).collect();
        let name = name.to_ascii_lowercase().replace("tokens", "").replace("tokeniz", "");
        let marks = ["secret", "token", "password", "credential", "apikey", "accesskey"];
        marks.iter().any(|mark| name.contains(mark))
    };
    let gives = |(at, word): (usize, &String)| {
        let option = word.starts_with('-') || word.contains('=');
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let next = words.get(at + 1).is_some_and(|next| !next.starts_with('-'));
        let given = !value.is_empty() || (!word.contains('=') && next);
        (option && given && names_secret(name)) || !secrets_in(word).is_empty()
    };
    words
        .iter()
        .enumerate()
        .find(|pair| gives(*pair))
        .map(|(_, word)| word.split('=').next().unwrap_or(word))
}

/// What is secret in `uri`: each part alone, and user and password together.
pub(crate) fn secrets_in(uri: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(info) = user_info(uri) {
        found.push(info.to_owned());
        found.extend(info.split_once(':').map(|(_, password)| password.to_owned()));
        // As clients write it when they repeat it.
        let parsed = url::Url::parse(uri).ok();
        found.extend(parsed.and_then(|url| url.password().map(str::to_owned)));
    }
    found.extend(query_secrets(uri).map(|(_, value)| value.to_owned()));
    found
}

/// The user, and whatever stands with it, in `uri`. Keys may have slashes, which end it by the book.
fn user_info(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let authority = rest.split('/').next().unwrap_or_default();
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (info, _) = match authority.rsplit_once('@') {
        Some(found) => found,
        None if authority.rsplit_once(':').is_some_and(|(_, port)| !is_port(port)) => {
            rest.rsplit_once('@')?
        }
        None => return None,
    };
    let container = CONTAINER_SCHEMES.contains(&scheme) && !info.contains(':');
    (!container).then_some(info)
}

/// The keys of the query of `uri` that have secret values, and these.
fn query_secrets(uri: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = uri.split_once("://").and_then(|(_, rest)| rest.split_once('?'));
    let query = query.map_or("", |(_, query)| query.split('#').next().unwrap_or_default());
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    // An option such as `aws_skip_signature` has none.
    let is_signature = |key: &str| key.to_ascii_lowercase().contains("sig");
    pairs
        .filter(move |(key, value)| !value.is_empty() && (is_secret_name(key) || is_signature(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_on_a_command_line_are_seen() {
        let found = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            secret_among(&words).map(str::to_owned)
        };
        for line in [
            "./e.py --api-key abc",
            "e.py --API_KEY=abc",
            "e --auth-token=x",
            "OPENAI_API_KEY=sk e",
        ] {
            assert!(found(line).is_some(), "{line}");
        }
        assert!(found("e.py http://u:p@host/model").is_some());
        for line in [
            "./e.py --max-tokens 256",
            "e --tokenizer a.json",
            "e.py --key-column id",
            "e --api-key",
            "python e.py -m x",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn only_what_is_secret_is_masked() {
        for (word, masked) in [
            ("s3://AKIA:s3cr3t@bucket/db", "s3://***@bucket/db"),
            ("s3://AKIA:s3/cr+3t@bucket/db", "s3://***@bucket/db"),
            ("s3://AKIA@bucket/db", "s3://***@bucket/db"),
            ("http://u:p@ss@host:9000", "http://***@host:9000"),
            ("abfss://u:p@account/db", "abfss://***@account/db"),
            ("az://c/db?sv=1&sig=abc%3D&se=2", "az://c/db?sv=1&sig=***&se=2"),
            ("s3://b/d?X-Amz-Signature=abc#x", "s3://b/d?X-Amz-Signature=***#x"),
            ("aws_secret_access_key=abc=", "aws_secret_access_key=***"),
        ] {
            assert_eq!(mask_secrets(word), masked);
        }
        for plain in [
            "/tmp/a:b@c",
            "abfss://container@account.dfs.core.windows.net/db",
            "goosefs://host:9200/a@b",
            "s3://bucket/a@b:c",
            "s3://bucket/db?versionId=7",
            "aws_region=us-east-1",
            "aws_skip_signature=true",
            "data/key=7/db",
            "key=",
        ] {
            assert_eq!(mask_secrets(plain), plain);
            assert!(secrets_in(plain).is_empty(), "{plain}");
        }
        let parts = secrets_in("http://user:p[ss@host/?sig=abc");
        assert_eq!(parts, ["user:p[ss", "p[ss", "p%5Bss", "abc"]);
    }
}
