//! A bucket, opened as Lance opens it, for the requests that `object_store` has no call for: they are signed by it and made
//! here.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use lance_io::object_store::ObjectStoreParams;
use object_store::client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{Error, ObjectStore, Result};
use serde::Deserialize;
use url::Url;

use crate::retry::Answer;

/// The parameters of a request.
pub(super) type Query = Vec<(&'static str, String)>;

/// What differs between the stores.
#[async_trait]
trait Signing: fmt::Debug + Send + Sync {
    fn uploads(&self) -> &dyn MultipartStore;

    fn objects(&self) -> &dyn ObjectStore;

    /// A request for the bucket itself with `query`, which bears the credentials.
    async fn listing(&self, query: Query) -> Result<HttpRequest>;

    /// Whether parts of objects are copied by [`Self::copying`], as far as is known.
    fn copies_parts(&self) -> bool {
        false
    }

    /// A request that has the store write `range` of `from` as a part of `to`. `query` says which part.
    async fn copying(
        &self,
        _from: (&Path, Range<u64>),
        _to: &Path,
        _query: Query,
    ) -> Result<HttpRequest> {
        Err(unexpected("it does not copy parts of objects"))
    }
}

/// A bucket of a store that keeps uploads in parts.
#[derive(Debug)]
pub(crate) struct Bucket {
    signing: Box<dyn Signing>,
    client: HttpClient,
}

impl Bucket {
    /// That of `uri`, which is opened with `params`; `None`, where it is of no store that keeps uploads in parts.
    ///
    /// # Errors
    /// When `params` do not do.
    pub(super) async fn of(uri: &str, params: &ObjectStoreParams) -> lance::Result<Option<Self>> {
        let Ok(url) = Url::parse(uri) else { return Ok(None) };
        let opened: Option<(Box<dyn Signing>, HttpClient)> = match url.scheme() {
            #[cfg(feature = "aws")]
            "s3" => Some(s3::open(&url, params).await?),
            #[cfg(feature = "gcs")]
            "gs" => Some(gcs::open(&url, params)?),
            _ => None,
        };
        Ok(opened.map(|(signing, client)| Self { signing, client }))
    }

    /// What `object_store` does of uploads.
    pub(super) fn uploads(&self) -> &dyn MultipartStore {
        self.signing.uploads()
    }

    /// What `object_store` does of whole objects.
    pub(super) fn objects(&self) -> &dyn ObjectStore {
        self.signing.objects()
    }

    /// What the bucket itself answers to `query`, asked to do `what`.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn list(&self, what: &str, query: Query) -> Result<Bytes> {
        self.ask(what, self.signing.listing(query).await?).await
    }

    /// Whether [`Self::copy_part`] is known to work in such a store, with the options that it was opened with.
    pub(super) fn copies_parts(&self) -> bool {
        self.signing.copies_parts()
    }

    /// Has the store write `range` of `from` as a part of `to`, and gives its answer. `query` says which part.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn copy_part(
        &self,
        from: (&Path, Range<u64>),
        to: &Path,
        query: Query,
    ) -> Result<Bytes> {
        self.ask("copy a part of an object", self.signing.copying(from, to, query).await?).await
    }

    async fn ask(&self, what: &str, request: HttpRequest) -> Result<Bytes> {
        let lost = |error: HttpError| not_answered(what, &error);
        let response = self.client.execute(request).await.map_err(lost)?;
        let status = response.status();
        let body = response.into_body().bytes().await.map_err(lost)?;
        let code = code_of(&body);
        if status.is_success() && code.is_none() {
            return Ok(body);
        }
        let spelled = code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
        let text = format!("it does not {what}: {status}{spelled}");
        let code = code.unwrap_or_default();
        let answer = Answer { text, is_final: !may_pass(status.as_u16(), &code) };
        let (path, source) = ("that is asked for".to_owned(), Box::new(answer.clone()));
        Err(if code == "NoSuchKey" {
            Error::NotFound { path, source }
        } else if OF_CREDENTIALS.iter().any(|word| code.contains(word)) {
            Error::Unauthenticated { path, source }
        } else {
            answer.into()
        })
    }
}

/// What is in the code of an error that has to do with credentials that ended.
const OF_CREDENTIALS: [&str; 2] = ["Token", "Expired"];

/// Whether another answer may come later than one of this `status`, or of this error's `code` where the status says that all is well.
fn may_pass(status: u16, code: &str) -> bool {
    match status {
        200..300 => {
            ["InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout"].contains(&code)
        }
        408 | 425 | 429 => true,
        501 => false,
        _ => status >= 500,
    }
}

/// What became of a request without an answer. What the client says of it may have the signed URL in it.
fn not_answered(what: &str, error: &HttpError) -> Error {
    let text = format!("the request to {what} failed: {:?}", error.kind());
    if matches!(error.kind(), HttpErrorKind::Decode | HttpErrorKind::Unknown) {
        return unexpected(&text);
    }
    let lost = std::io::Error::new(std::io::ErrorKind::ConnectionReset, text);
    Error::Generic { store: "object store", source: Box::new(lost) }
}

/// The code of the error that `answer` is, if it is one: S3 may tell one after it has said that all is well.
fn code_of(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Refused {
        code: String,
    }
    // As long as a copy takes, it sends white space.
    let start = answer.trim_ascii_start();
    let start = start.get(..start.len().min(200)).unwrap_or_default();
    let begins = |mark: &[u8]| start.windows(mark.len()).any(|word| word == mark);
    let is_one = begins(b"<Error>") || begins(b"<Error ");
    let refused: Refused = is_one.then(|| quick_xml::de::from_reader(answer).ok()).flatten()?;
    let letters = refused.code.chars().filter(char::is_ascii_alphanumeric);
    Some(letters.take(60).collect())
}

pub(super) fn unexpected(text: &str) -> Error {
    Answer { text: text.to_owned(), is_final: true }.into()
}

/// A request for what is at `url`.
fn request_of(url: &Url) -> Result<HttpRequest> {
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    let uri = url.as_str().parse();
    *request.uri_mut() = uri.map_err(|_| unexpected("its address is no URL"))?;
    Ok(request)
}

#[cfg(feature = "aws")]
mod s3 {
    use std::fmt::Write as _;
    use std::time::Duration;

    use lance_io::object_store::{StorageOptions, providers::aws::build_aws_credential};
    use object_store::aws::{
        AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key, resolve_bucket_region,
    };
    use object_store::client::{HttpConnector, ReqwestConnector};
    use object_store::signer::{HeaderName, HeaderValue, Method, SignedUrlOptions, Signer};

    use super::{
        HttpClient, HttpRequest, MultipartStore, ObjectStore, ObjectStoreParams, Path, Query,
        Range, Result, Signing, Url, async_trait, request_of, unexpected,
    };

    /// How long a signed request may wait to be sent.
    const VALID: Duration = Duration::from_mins(5);
    /// What says which bytes of which object become a part.
    const COPIED: [HeaderName; 2] = [
        HeaderName::from_static("x-amz-copy-source"),
        HeaderName::from_static("x-amz-copy-source-range"),
    ];

    #[derive(Debug)]
    struct S3 {
        store: AmazonS3,
        name: String,
        /// Whether it is not known that parts are copied with these options: with keys of one's own, each part needs them; with
        /// checksums, each has to be told.
        is_special: bool,
    }

    /// Opens the bucket of `url` as Lance does (lance-io 14 `src/object_store/providers/aws.rs`).
    pub(super) async fn open(
        url: &Url,
        params: &ObjectStoreParams,
    ) -> lance::Result<(Box<dyn Signing>, HttpClient)> {
        let mut options =
            StorageOptions::new(params.storage_options().cloned().unwrap_or_default());
        options.with_env_s3();
        let (known, mut client) = (options.as_s3_options(), options.client_options()?);
        for (key, value) in &known {
            if let Key::Client(key) = key {
                client = client.with_config(*key, value.clone());
            }
        }
        let mut region = known.get(&Key::Region).cloned();
        let has_endpoint =
            known.contains_key(&Key::Endpoint) || known.contains_key(&Key::S3Endpoint);
        if let (None, false, Some(bucket)) = (&region, has_endpoint, url.host_str()) {
            region = Some(resolve_bucket_region(bucket, &client).await?);
        }
        let refreshed = params.s3_credentials_refresh_offset;
        let (given, accessor) = (params.aws_credentials.clone(), params.get_accessor());
        let scheme = options.aws_provider_scheme()?;
        let credentials =
            build_aws_credential(refreshed, given, Some(&known), region, accessor, scheme);
        let (credentials, region) = credentials.await?;
        let by_opendal = options.get("use_opendal").is_some_and(|value| value != "false");
        let is_express = url.authority().ends_with("--x-s3");
        let is_special = by_opendal || is_express || known.keys().copied().any(is_special);
        let builder = AmazonS3Builder::new().with_client_options(client.clone());
        let builder = known
            .into_iter()
            .fold(builder, |builder, (key, value)| builder.with_config(key, value));
        let bucket =
            builder.with_url(url.as_str()).with_credentials(credentials).with_region(region);
        let name = url.host_str().unwrap_or_default().to_owned();
        let opened = S3 { store: bucket.build()?, name, is_special };
        Ok((Box::new(opened), ReqwestConnector::default().connect(&client)?))
    }

    fn is_special(key: Key) -> bool {
        matches!(
            key,
            Key::Encryption(_)
                | Key::Checksum
                | Key::S3Express
                | Key::RequestPayer
                | Key::SkipSignature
        )
    }

    #[async_trait]
    impl Signing for S3 {
        fn uploads(&self) -> &dyn MultipartStore {
            &self.store
        }

        async fn listing(&self, query: Query) -> Result<HttpRequest> {
            let options = SignedUrlOptions::default().with_query(query);
            let (method, bucket) = (Method::GET, Path::default());
            request_of(&self.store.signed_url_opts(method, &bucket, VALID, &options).await?)
        }

        fn objects(&self) -> &dyn ObjectStore {
            &self.store
        }

        fn copies_parts(&self) -> bool {
            !self.is_special
        }

        async fn copying(
            &self,
            (from, range): (&Path, Range<u64>),
            to: &Path,
            query: Query,
        ) -> Result<HttpRequest> {
            let [source, bytes] = COPIED;
            let text = |text: String| {
                HeaderValue::try_from(text).map_err(|_| unexpected("an object's name is no text"))
            };
            let headers = [
                (source, text(source_of(&self.name, from))?),
                (bytes, text(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))?),
            ];
            let options = SignedUrlOptions::default().with_query(query);
            let options = headers.iter().fold(options, |options, (name, value)| {
                options.with_signed_header(name.clone(), value.clone())
            });
            let url = self.store.signed_url_opts(Method::PUT, to, VALID, &options).await?;
            let mut request = request_of(&url)?;
            *request.method_mut() = Method::PUT;
            request.headers_mut().extend(headers);
            Ok(request)
        }
    }

    /// How S3 wants the object `path` of the bucket `name` to be named where it is copied from: each byte that is no letter,
    /// digit, slash or one of `-._~` by its number (S3's "`UploadPartCopy`").
    fn source_of(name: &str, path: &Path) -> String {
        let mut text = format!("{name}/");
        for byte in path.as_ref().bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_source_is_named_by_letters_that_mean_nothing_else() {
            let path = Path::parse("a/x=1+ü/t.lance").unwrap();
            assert_eq!(source_of("b", &path), "b/a/x%3D1%2B%C3%BC/t.lance");
        }
    }
}

#[cfg(feature = "gcs")]
mod gcs {
    use lance_io::object_store::StorageOptions;
    use object_store::StaticCredentialProvider;
    use object_store::client::{HttpConnector, ReqwestConnector};
    use object_store::gcp::{
        GcpCredential, GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey as Key,
    };
    use std::sync::Arc;

    use super::{
        HttpClient, HttpRequest, MultipartStore, ObjectStore, ObjectStoreParams, Query, Result,
        Signing, Url, async_trait, request_of, unexpected,
    };

    const ADDRESS: &str = "https://storage.googleapis.com";

    #[derive(Debug)]
    struct Gcs {
        store: GoogleCloudStorage,
        /// The bucket's own.
        address: Url,
    }

    /// Opens the bucket of `url` as Lance does (lance-io 14 `src/object_store/providers/gcp.rs`), but for identities of other
    /// clouds.
    pub(super) fn open(
        url: &Url,
        params: &ObjectStoreParams,
    ) -> lance::Result<(Box<dyn Signing>, HttpClient)> {
        let mut options =
            StorageOptions::new(params.storage_options().cloned().unwrap_or_default());
        options.with_env_gcs();
        let (known, mut client) = (options.as_gcs_options(), options.client_options()?);
        for (key, value) in &known {
            if let Key::Client(key) = key {
                client = client.with_config(*key, value.clone());
            }
        }
        let address = known
            .get(&Key::BaseUrl)
            .cloned()
            .or_else(|| own_address(known.get(&Key::ServiceAccountKey)?));
        let address = address.unwrap_or_else(|| ADDRESS.to_owned());
        let address = format!("{address}/{}", url.host_str().unwrap_or_default());
        let address = Url::parse(&address).map_err(|_| unexpected("its address is no URL"))?;
        let builder = GoogleCloudStorageBuilder::new().with_client_options(client.clone());
        let builder = known
            .into_iter()
            .fold(builder, |builder, (key, value)| builder.with_config(key, value));
        let token = options.get("google_storage_token").map(|token| {
            Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: token.clone() })) as _
        });
        let builder = match token {
            Some(token) => builder.with_credentials(token),
            None => builder,
        };
        let store = builder.with_url(url.as_str()).build()?;
        Ok((Box::new(Gcs { store, address }), ReqwestConnector::default().connect(&client)?))
    }

    /// The address that a service account's key may name.
    fn own_address(key: &str) -> Option<String> {
        let key: serde_json::Value = serde_json::from_str(key).ok()?;
        key.get("gcs_base_url")?.as_str().map(str::to_owned)
    }

    #[async_trait]
    impl Signing for Gcs {
        fn uploads(&self) -> &dyn MultipartStore {
            &self.store
        }

        fn objects(&self) -> &dyn ObjectStore {
            &self.store
        }

        async fn listing(&self, query: Query) -> Result<HttpRequest> {
            let credential = self.store.credentials().get_credential().await?;
            let mut url = self.address.clone();
            url.query_pairs_mut().extend_pairs(query);
            let mut request = request_of(&url)?;
            if !credential.bearer.is_empty() {
                let bearer = format!("Bearer {}", credential.bearer).parse();
                let bearer = bearer.map_err(|_| unexpected("its token is no text"))?;
                request.headers_mut().insert("authorization", bearer);
            }
            Ok(request)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_from_an_answer() {
        let error = b"<?xml version=\"1.0\"?>\n<Error><Code>Internal<x/>Error</Code></Error>";
        assert_eq!(code_of(error), None, "no code is made of what is none");
        let error = b"\n\n<Error><Code>InternalError</Code><Message>again</Message></Error>";
        assert_eq!(code_of(error).as_deref(), Some("InternalError"));
        let late =
            [&[b' '; 5_000][..], b"<Error xmlns='s3'><Code>SlowDown</Code></Error>"].concat();
        assert_eq!(code_of(&late).as_deref(), Some("SlowDown"));
        assert!(may_pass(200, "SlowDown") && may_pass(503, "") && may_pass(429, ""));
        assert!(!may_pass(200, "AccessDenied") && !may_pass(501, "") && !may_pass(307, ""));
        let copied = b"<CopyPartResult><ETag>&quot;a&quot;</ETag></CopyPartResult>";
        assert_eq!(code_of(copied), None);
    }
}
