//! The options of object stores, as far as a mistake in them can be told before a store is asked.

use crate::error::{Error, Result};

/// The names that the clients of S3, GCS and Azure take, and Lance (`object_store` 0.13 `src/{aws,gcp,azure}/builder.rs` and
/// `src/client/mod.rs`, lance-io 14 `src/object_store.rs`), without their prefix where they may have one.
const KNOWN: &[&str] = &[
    "access_key_id",
    "secret_access_key",
    "session_token",
    "token",
    "region",
    "default_region",
    "endpoint",
    "endpoint_url",
    "bucket",
    "bucket_name",
    "skip_signature",
    "unsigned_payload",
    "checksum_algorithm",
    "virtual_hosted_style_request",
    "imdsv1_fallback",
    "metadata_endpoint",
    "container_credentials_relative_uri",
    "container_credentials_full_uri",
    "web_identity_token_file",
    "role_arn",
    "role_session_name",
    "endpoint_url_sts",
    "endpoint_url_s3",
    "s3_express",
    "request_payer",
    "conditional_put",
    "copy_if_not_exists",
    "disable_tagging",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "service_account",
    "service_account_key",
    "service_account_path",
    "application_credentials",
    "base_url",
    "account_name",
    "account_key",
    "access_key",
    "client_id",
    "client_secret",
    "tenant_id",
    "authority_id",
    "authority_host",
    "sas_key",
    "sas_token",
    "bearer_token",
    "use_emulator",
    "use_fabric_endpoint",
    "use_azure_cli",
    "container_name",
    "federated_token_file",
    "msi_endpoint",
    "msi_resource_id",
    "object_id",
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "read_timeout",
    "timeout",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
    "user_agent",
    "http1_only",
    "http2_only",
    "client_max_retries",
    "client_retry_timeout",
    "download_retry_count",
    "block_size",
];

/// Those that are a time, a number, or one of two things.
const TIMES: &[&str] = &["connect_timeout", "read_timeout", "timeout", "pool_idle_timeout"];
const NUMBERS: &[&str] = &[
    "pool_max_idle_per_host",
    "client_max_retries",
    "client_retry_timeout",
    "download_retry_count",
    "block_size",
];
const SWITCHES: &[&str] = &[
    "allow_http",
    "allow_invalid_certificates",
    "disable_tagging",
    "http1_only",
    "http2_only",
    "imdsv1_fallback",
    "request_payer",
    "s3_express",
    "skip_signature",
    "sse_bucket_key_enabled",
    "unsigned_payload",
    "use_azure_cli",
    "use_emulator",
    "use_fabric_endpoint",
    "virtual_hosted_style_request",
];

/// What the clients take for yes and no (`object_store` 0.13 `src/config.rs`).
const YES: [&str; 5] = ["1", "true", "on", "yes", "y"];
const NO: [&str; 5] = ["0", "false", "off", "no", "n"];

/// What names of options begin with, if with anything.
const PREFIXES: [&str; 5] = ["aws_", "google_", "azure_storage_", "azure_", "gcs_"];

/// Fails when one of the options `(name, value)` is misspelt, or an endpoint is no URL: the clients pass over the one, and
/// panic at the other.
///
/// # Errors
/// `Usage`, naming the option; its value is shown only where it is an endpoint without user and password. `Refused`, where
/// it keeps the store from committing safely.
pub(crate) fn check<'a>(options: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<()> {
    for (name, value) in options.clone() {
        let lower = name.to_ascii_lowercase();
        // A key in JSON has line breaks; what goes into a header or an address has none, and the clients panic at them.
        if value.contains(|letter: char| letter.is_control()) && !lower.contains("service_account")
        {
            let message =
                format!("the option `{name}` has a line break or another control character");
            return Err(Error::usage(message));
        }
        if let Some(meant) = misspelt(&lower) {
            return Err(Error::usage(format!("no object store has an option `{name}`"))
                .with_advice(&format!("did you mean `{meant}`?")));
        }
        check_endpoint(&lower, value)?;
        check_form(name, value)?;
        if bare_name(&lower).1 == "conditional_put" {
            check_conditional_put(name, value)?;
        }
    }
    let lower = options.map(|(name, value)| (name.to_ascii_lowercase(), value));
    let lower: Vec<_> = lower.collect();
    let is_plain = |(name, value): &&(String, &str)| {
        let is_stores =
            ["endpoint", "endpoint_url", "endpoint_url_s3"].contains(&bare_name(name).1);
        is_stores && value.to_ascii_lowercase().starts_with("http://")
    };
    let allows = |name: &str, value: &str| {
        ["allow_http", "use_emulator"].contains(&bare_name(name).1)
            && YES.contains(&value.to_ascii_lowercase().as_str())
    };
    let set = ["AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP"];
    let set =
        set.iter().any(|name| std::env::var(name).is_ok_and(|value| allows("allow_http", &value)));
    match lower.iter().find(is_plain) {
        Some((name, _)) if !set && !lower.iter().any(|(name, value)| allows(name, value)) => {
            Err(Error::usage(format!("the option `{name}` is plain HTTP, which has to be allowed"))
                .with_advice("add the option allow_http=true, or write https://"))
        }
        _ => Ok(()),
    }
}

/// Fails when `value` has not the form that the option `name` has: the clients pass over some of them.
fn check_form(name: &str, value: &str) -> Result<()> {
    let lower = name.to_ascii_lowercase();
    let is_of = |names: &[&str]| names.contains(&bare_name(&lower).1);
    let word = value.to_ascii_lowercase();
    let is_time = value.starts_with(|first: char| first.is_ascii_digit())
        && value.ends_with(|last: char| last.is_ascii_alphabetic());
    let wanted = if is_of(TIMES) && !is_time {
        "a time, as 30s or 5m"
    } else if is_of(NUMBERS) && value.parse::<u64>().is_err() {
        "a whole number"
    } else if is_of(SWITCHES) && !YES.contains(&word.as_str()) && !NO.contains(&word.as_str()) {
        "true or false"
    } else {
        return Ok(());
    };
    Err(Error::usage(format!("the option `{name}` has to be {wanted}")))
}

/// Fails when `value` is another way to commit than that which the stores have.
fn check_conditional_put(name: &str, value: &str) -> Result<()> {
    if value == "etag" {
        return Ok(());
    }
    if !value.eq_ignore_ascii_case("disabled") {
        return Err(Error::usage(format!("the option `{name}` is `etag`, or left out")));
    }
    let message = format!(
        "the option `{name}` switches off what commits are made of: two writers of a table could both \
         believe that they committed"
    );
    Err(Error::refused(message).with_advice("leave it out"))
}

/// Fails when `value` is an endpoint and no URL.
fn check_endpoint(name: &str, value: &str) -> Result<()> {
    let is_endpoint = name.contains("endpoint") && !name.contains("fabric");
    let is_url = value.split_once("://").is_some_and(|(scheme, rest)| {
        matches!(&*scheme.to_ascii_lowercase(), "http" | "https")
            && rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[')
            && rest.is_ascii()
            && url::Url::parse(value).is_ok()
    });
    if !is_endpoint || is_url {
        return Ok(());
    }
    Err(Error::usage(format!("the option `{name}` is no URL"))
        .with_advice("write it as https://HOST, or http://HOST:PORT with allow_http=true"))
}

/// The prefix of `name`, if it has one, and what comes after it.
fn bare_name(name: &str) -> (&'static str, &str) {
    let prefix = PREFIXES.into_iter().find(|prefix| name.starts_with(prefix)).unwrap_or_default();
    (prefix, name.strip_prefix(prefix).unwrap_or(name))
}

/// The option that was meant by `name`, if that is none and looks much like one.
fn misspelt(name: &str) -> Option<String> {
    let (prefix, bare) = bare_name(name);
    if KNOWN.contains(&bare) || KNOWN.contains(&name) || name.starts_with("headers.") {
        return None;
    }
    let distance = |known: &str| strsim::damerau_levenshtein(bare, known);
    let nearest = KNOWN.iter().min_by_key(|known| distance(known))?;
    (distance(nearest) <= 2 && nearest.len() > 4).then(|| format!("{prefix}{nearest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_and_values_are_not() {
        let told =
            |name, value| check([(name, value)].into_iter()).map_err(|error| error.report(&[]));
        for (name, meant) in [
            ("aws_regoin", "aws_region"),
            ("AWS_SECRET_ACESS_KEY", "aws_secret_access_key"),
            ("azure_storage_acount_name", "azure_storage_account_name"),
            ("allow_htp", "allow_http"),
        ] {
            let report = told(name, "hush").unwrap_err();
            assert!(report.contains(name) && report.contains(&format!("`{meant}`")), "{report}");
            assert!(!report.contains("hush"), "{report}");
        }
        for endpoint in ["127.0.0.1:9000", "localhost", "s3.example.com", "ftp://a", "http://"] {
            assert!(told("aws_endpoint", endpoint).unwrap_err().contains("http"), "{endpoint}");
        }
        let plain = ("AWS_ENDPOINT", "http://127.0.0.1:9000");
        let report = check([plain].into_iter()).unwrap_err().report(&[]);
        assert!(report.contains("allow_http=true"), "{report}");
        for allowed in
            [("allow_http", "true"), ("aws_allow_http", "1"), ("AZURE_USE_EMULATOR", "true")]
        {
            assert!(check([plain, allowed].into_iter()).is_ok(), "{allowed:?}");
        }
        assert!(check([plain, ("allow_http", "false")].into_iter()).is_err());
        for (name, value) in [
            ("timeout", "abc"),
            ("AWS_CONNECT_TIMEOUT", "5"),
            ("client_max_retries", "x"),
            ("azure_pool_max_idle_per_host", "-1"),
            ("aws_skip_signature", "perhaps"),
            ("allow_http", ""),
        ] {
            let report = told(name, value).unwrap_err();
            assert!(report.contains(name) && report.contains("has to be"), "{report}");
            assert!(value.is_empty() || !report.contains(&format!("`{value}`")), "{report}");
        }
        for (name, value) in
            [("timeout", "1m 30s"), ("read_timeout", "100ms"), ("aws_skip_signature", "Off")]
        {
            assert_eq!(told(name, value), Ok(()), "{name}");
        }
        for (name, value) in [("aws_region", "us-east-1\n"), ("aws_session_token", "a\rb")] {
            assert!(told(name, value).unwrap_err().contains("control character"), "{name}");
        }
        for endpoint in ["http:///x", "http://ünï:1"] {
            assert!(told("aws_endpoint", endpoint).is_err(), "{endpoint}");
        }
        let unsafe_put = check([("AWS_CONDITIONAL_PUT", "Disabled")].into_iter()).unwrap_err();
        assert_eq!(unsafe_put.kind(), crate::error::Kind::Refused);
        assert_eq!(told("aws_conditional_put", "etag"), Ok(()));
        assert!(told("aws_conditional_put", "").is_err() && told("conditional_put", "x").is_err());
        for (name, value) in [
            ("aws_endpoint", "https://127.0.0.1:9000"),
            ("endpoint", "https://host/path"),
            ("azure_storage_use_emulator", "true"),
            ("google_service_account_key", "{}"),
            ("headers.x-mine", "1"),
            ("something_else_entirely", "1"),
            ("client_max_retries", "3"),
        ] {
            assert_eq!(told(name, value), Ok(()), "{name}");
        }
    }
}
