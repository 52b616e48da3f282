//! Where a table is, and how to get at it.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{collections::BTreeMap, fmt};

use crate::error::{Error, Result};
use crate::secret::{is_option, is_secret_name, mask_secrets, secrets_in};
use crate::store_options::check;

/// What the name of every staging table ends with.
pub const STAGING_SUFFIX: &str = "__relance_staging";

/// What the name of a table of rows with bad values ends with.
const QUARANTINE_SUFFIX: &str = "__relance_quarantine";

/// How long an object store may be away before a command gives up.
const STORE_TIMEOUT: Duration = Duration::from_mins(5);

/// What stands between the name of a table and the id of a run that tries settings for it.
const TUNE_SUFFIX: &str = "__relance_tune";

/// Whether `table` is one of relance's own, made for another.
pub(crate) fn is_own(table: &str) -> bool {
    table.ends_with(STAGING_SUFFIX) || tried_table(table).is_some()
}

/// The table that settings are tried for in `table`, if they are. Earlier versions had no run's id there.
pub(crate) fn tried_table(table: &str) -> Option<&str> {
    let (live, rest) = table.rsplit_once(TUNE_SUFFIX)?;
    let is_run = |run: &str| run.len() == 12 && run.bytes().all(|byte| byte.is_ascii_hexdigit());
    (rest.is_empty() || rest.strip_prefix('_').is_some_and(is_run)).then_some(live)
}

/// Schemes whose commits are atomic in Lance 14 (lance-table `src/io/commit.rs`,
/// `commit_handler_from_url`). On any other, two writers could both believe that they won.
const SAFE_SCHEMES: &[&str] = &[
    "file",
    "file-object-store",
    "memory",
    "shared-memory",
    "s3",
    "gs",
    "az",
    "abfss",
    "oss",
    "tos",
    "cos",
    "goosefs",
];

/// Variables of the environment that have the address of an S3.
const S3_ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"];

/// Schemes that other tools have for the same stores.
const SCHEMES_MEANT: &[(&str, &str)] = &[
    ("s3a", "s3://"),
    ("s3n", "s3://"),
    ("gcs", "gs://"),
    ("azure", "az://"),
    ("adl", "az://"),
    ("abfs", "abfss:// or az://"),
    ("wasb", "az://"),
    ("wasbs", "az://"),
];

/// A database and a table in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    database: String,
    table: String,
    storage_options: BTreeMap<String, String>,
    store_timeout: Duration,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.storage_options.keys().collect();
        f.debug_struct("Location")
            .field("database", &mask_secrets(&self.database))
            .field("table", &self.table)
            .field("storage_options", &names)
            .field("store_timeout", &self.store_timeout)
            .finish()
    }
}

impl Location {
    /// The table `table` in `database`: a directory or an object-store URI, as `lancedb.connect` takes it.
    ///
    /// # Errors
    /// `Usage`, for a `db://` URI, one with credentials in it, or an unusable table name; `Refused`, for a store that cannot commit
    /// atomically.
    pub fn new(database: &str, table: &str) -> Result<Self> {
        check_table_name(table)?;
        let database = check_database(database)?;
        Ok(Self {
            database,
            table: table.to_owned(),
            storage_options: BTreeMap::new(),
            store_timeout: STORE_TIMEOUT,
        })
    }

    /// The same place, with the options that its object store needs.
    #[must_use]
    pub fn with_storage_options(
        mut self,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        self.storage_options.extend(options);
        self
    }

    /// The same place, whose object store may be away for `timeout` before a command gives up. Default: five minutes. Until it
    /// answered for the first time, eight seconds at most: its address may be wrong.
    #[must_use]
    pub fn with_store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout;
        self
    }

    /// Fails when its options have a mistake that can be told before the store is asked.
    pub(crate) fn check_options(&self) -> Result<()> {
        if self.directory().is_some() {
            return Ok(());
        }
        if self.store_timeout.is_zero() {
            return Err(Error::usage("a store has no time to answer: its timeout is 0"));
        }
        let mut all = self.storage_options.clone();
        if self.database.starts_with("s3://") {
            // An endpoint that is given counts, and none of the environment then.
            let has_endpoint = all.keys().any(|name| is_endpoint(name));
            for name in S3_ENDPOINTS.into_iter().chain(["AWS_CONDITIONAL_PUT"]) {
                let value = std::env::var(name).ok().filter(|value| !value.is_empty());
                if let Some(value) = value.filter(|_| !has_endpoint || !is_endpoint(name)) {
                    all.entry(name.to_ascii_lowercase()).or_insert(value);
                }
            }
        }
        check(all.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// The address of its object store, if it has one of its own, so that it need not be what its scheme says.
    pub(crate) fn endpoint(&self) -> Option<String> {
        let given = self.storage_options.iter().find(|(name, _)| is_endpoint(name));
        let mut names =
            S3_ENDPOINTS.into_iter().chain(["AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL"]);
        let set = || names.find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()));
        let endpoint = given.map(|(_, endpoint)| endpoint.clone()).or_else(set);
        endpoint.map(|endpoint| mask_secrets(&endpoint).into_owned())
    }

    /// Whether its object store has to be tried before anybody relies on its commits: what is said of S3, GCS and Azure, others say of
    /// stores of their own too.
    pub(crate) fn has_unknown_commits(&self) -> bool {
        self.is_tried() && self.endpoint().is_some()
    }

    /// Whether it is in a store in which something can be written to try it.
    pub(crate) fn is_tried(&self) -> bool {
        let tried = ["s3://", "gs://", "az://", "abfss://"];
        tried.iter().any(|scheme| self.database.starts_with(scheme))
    }

    /// Whether its object store speaks S3's language: its tags are checksums, and it copies parts of objects.
    pub(crate) fn speaks_s3(&self) -> bool {
        self.database.starts_with("s3://")
    }

    /// How long its object store may be away.
    pub(crate) fn store_timeout(&self) -> Duration {
        self.store_timeout
    }

    /// The database, without a trailing slash; a directory as an absolute path.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The object store's options. They may hold credentials: never print them.
    pub fn storage_options(&self) -> &BTreeMap<String, String> {
        &self.storage_options
    }

    /// The values that must never be printed.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        for (name, value) in &self.storage_options {
            secrets.extend(is_secret_name(name).then(|| value.clone()));
            // An endpoint may have a user and a password in it.
            secrets.extend(secrets_in(value));
        }
        secrets
    }

    /// The URI of the table's dataset.
    pub fn uri(&self) -> String {
        format!("{}/{}.lance", self.database, self.table)
    }

    /// The name of the staging table.
    pub fn staging_table(&self) -> String {
        format!("{}{STAGING_SUFFIX}", self.table)
    }

    /// The URI of the staging table's dataset.
    pub fn staging_uri(&self) -> String {
        format!("{}/{}.lance", self.database, self.staging_table())
    }

    /// The table beside it that takes rows with bad values.
    pub(crate) fn put_aside(&self) -> Result<Self> {
        self.sibling(&format!("{}{QUARANTINE_SUFFIX}", self.table))
    }

    /// The name of the table that the run `run` tries settings in.
    pub(crate) fn tune_table(&self, run: &str) -> String {
        format!("{}{TUNE_SUFFIX}_{run}", self.table)
    }

    /// The database's directory, if it is one.
    pub fn directory(&self) -> Option<PathBuf> {
        (!self.database.contains("://")).then(|| PathBuf::from(&self.database))
    }

    /// Another table of the same database.
    ///
    /// # Errors
    /// `Usage`, for an unusable name.
    pub fn sibling(&self, table: &str) -> Result<Self> {
        check_table_name(table)?;
        Ok(Self { table: table.to_owned(), ..self.clone() })
    }
}

/// Whether the option `name` says where a store is.
fn is_endpoint(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ends = ["endpoint", "endpoint_url", "endpoint_url_s3", "base_url", "use_emulator"];
    ends.iter().any(|end| name.ends_with(end))
}

fn check_table_name(table: &str) -> Result<()> {
    if is_option(table) {
        return Err(stray_option(table));
    }
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if table.is_empty() || !table.chars().all(allowed) || table.starts_with('.') {
        return Err(Error::usage(format!(
            "`{}` is not a table name: letters, digits, `_`, `-` and `.` only",
            mask_secrets(table)
        )));
    }
    let staging = table.strip_suffix(STAGING_SUFFIX).map(|live| (live, "relance's staging table"));
    let tried = tried_table(table).map(|live| (live, "where relance tries settings"));
    let Some((live, what)) = staging.or(tried) else { return Ok(()) };
    Err(Error::usage(format!("`{table}` is {what}; name the table itself: `{live}`")))
}

/// The error of an option of a store that stands where something else should.
fn stray_option(option: &str) -> Error {
    let masked = mask_secrets(option);
    Error::usage(format!("`{masked}` is an option of an object store"))
        .with_advice("write --storage-option before it")
}

fn check_database(database: &str) -> Result<String> {
    if database.trim().is_empty() {
        return Err(Error::usage("the database is empty; name a directory or a URI"));
    }
    let Some((scheme, rest)) = database.split_once("://") else {
        if is_option(database) && !Path::new(database).exists() {
            return Err(stray_option(database));
        }
        return absolute(database);
    };
    let masked = mask_secrets(database);
    if masked != database {
        return Err(Error::usage(format!(
            "`{masked}` has credentials in it, where programs show and log them"
        ))
        .with_advice("give them with --storage-option KEY=VALUE, or in the environment"));
    }
    // Lance reads it in small letters too.
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "db" => Err(Error::usage(
            "`db://` is LanceDB Cloud: its tables are behind a server, where relance cannot stage \
             files. Name the bucket or directory that holds the tables",
        )),
        "file" => absolute(rest),
        known if SAFE_SCHEMES.contains(&known) => {
            Ok(format!("{known}://{}", rest.trim_end_matches('/')))
        }
        "s3+ddb" => Err(Error::refused(
            "`s3+ddb://` commits through a table in DynamoDB, which this build has no client for",
        )
        .with_advice(
            "S3 commits atomically by itself: write and migrate the table as s3:// throughout",
        )),
        other => {
            let error = Error::refused(format!(
                "`{other}://` has no atomic commit that Lance knows, so a swap could lose a write there"
            ));
            let meant = SCHEMES_MEANT.iter().find(|(known, _)| *known == other);
            Err(match meant {
                Some((_, meant)) => error.with_advice(&format!("LanceDB calls it {meant}")),
                None => error,
            })
        }
    }
}

fn absolute(directory: &str) -> Result<String> {
    let path = std::path::absolute(Path::new(directory));
    let path = path.map_err(|error| {
        Error::usage(format!("`{directory}` is not a directory")).caused_by(error)
    })?;
    let text = path.to_str().map(|text| text.trim_end_matches('/').to_owned());
    text.ok_or_else(|| Error::usage(format!("`{directory}` is not a path in UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn uris_stand_beside_each_other() {
        let location = Location::new("s3://bucket/db/", "t").unwrap();
        assert_eq!(location.uri(), "s3://bucket/db/t.lance");
        assert_eq!(location.staging_uri(), "s3://bucket/db/t__relance_staging.lance");
        assert_eq!(location.directory(), None);
        let local = Location::new("file:///tmp/db", "t").unwrap();
        assert_eq!(local.uri(), "/tmp/db/t.lance");
    }

    #[test]
    fn own_tables_are_told_from_others() {
        let tried = Location::new("/tmp", "t").unwrap().tune_table("0123456789ab");
        assert_eq!(tried_table(&tried), Some("t"));
        assert!(is_own(&tried) && is_own("t__relance_tune") && is_own("t__relance_staging"));
        for other in ["t", "t__relance_tuned", "t__relance_tune_mine", "__relance_stagings"] {
            assert!(!is_own(other), "{other}");
        }
    }

    #[test]
    fn bad_places_are_named() {
        let kind = |database: &str, table: &str| Location::new(database, table).unwrap_err().kind();
        assert_eq!(kind("db://cloud", "t"), Kind::Usage);
        assert_eq!(kind("ftp://host/db", "t"), Kind::Refused);
        let large = Location::new("S3://bucket/Db/", "t").unwrap();
        assert_eq!(large.uri(), "s3://bucket/Db/t.lance");
        for (given, meant) in [("s3a", "s3://"), ("gcs", "gs://"), ("s3+ddb", "DynamoDB")] {
            let error = Location::new(&format!("{given}://b/db"), "t").unwrap_err();
            assert!(error.report(&[]).contains(meant), "{}", error.report(&[]));
        }
        assert_eq!(kind("/tmp", "a/b"), Kind::Usage);
        assert_eq!(kind("/tmp", ""), Kind::Usage);
        assert_eq!(kind("/tmp", "t__relance_staging"), Kind::Usage);
        assert_eq!(kind("/tmp", "t__relance_tune"), Kind::Usage);
        assert_eq!(kind("/tmp", "t__relance_tune_0123456789ab"), Kind::Usage);
        assert_eq!(kind(" ", "t"), Kind::Usage);
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for (database, table) in [
            ("s3://AKIA:hush@bucket/db", "t"),
            ("s3://AKIA:hu/sh@bucket/db", "t"),
            ("https://a.blob.core.windows.net/c?sig=hush", "t"),
            ("db://user:hush@cloud", "t"),
            ("file://user:hush@host/db", "t"),
            ("aws_secret_access_key=hush", "t"),
            ("s3://bucket/db", "aws_secret_access_key=hush"),
            ("s3://bucket/db", "s3://AKIA:hush@bucket"),
        ] {
            let error = Location::new(database, table).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{database} {table}");
            let report = error.report(&[]);
            assert!(report.contains("***") && !report.contains("hush"), "{report}");
            assert!(!report.contains("hu/sh"), "{report}");
        }
        let container = "abfss://container@account.dfs.core.windows.net/db";
        assert_eq!(Location::new(container, "t").unwrap().database(), container);
    }

    #[test]
    fn debug_never_shows_an_option() {
        let options = [("aws_secret_access_key".to_owned(), "hush".to_owned())];
        let location = Location::new("s3://bucket", "t").unwrap().with_storage_options(options);
        assert!(!format!("{location:?}").contains("hush"));
        assert_eq!(location.secrets(), ["hush"]);
        let endpoint = [("aws_endpoint".to_owned(), "http://user:hush@host:9000".to_owned())];
        let location = Location::new("s3://bucket", "t").unwrap().with_storage_options(endpoint);
        let report = Error::failed("cannot reach http://user:hush@host:9000 (hush)");
        let report = report.report(&location.secrets());
        assert_eq!(report, "cannot reach http://***@host:9000 (***)");
    }
}
