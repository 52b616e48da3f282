//! Uploads in parts that were begun and never ended: no listing of objects shows them, and S3 and GCS bill for their bytes.
//!
//! `object_store` gives up an upload whose id is known, and has no call for a list of them; so that request is made here,
//! signed by it. Azure forgets the parts of such an upload by itself.

use std::fmt;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lance_io::object_store::ObjectStoreParams;
use object_store::client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{Error, MultipartId, Result};
use serde::Deserialize;
use url::Url;

use crate::retry::Answer;
use crate::storage::traffic::Request;
use crate::storage::watch::Watch;

/// Pages of a list, of a thousand each, that are looked at: others are of the next run.
const PAGES_MAX: usize = 100;

/// What such a list is called.
const LIST: &[u8] = b"<ListMultipartUploadsResult";

/// An upload that was begun and did not end.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    /// The object that it was to become.
    pub path: Path,
    id: MultipartId,
}

/// The parameters of a request for a page.
type Query = Vec<(&'static str, String)>;

/// What differs between the stores.
#[async_trait]
trait Bucket: fmt::Debug + Send + Sync {
    fn uploads(&self) -> &dyn MultipartStore;

    /// A request for the bucket itself with `query`, which bears the credentials.
    async fn signed(&self, query: Query) -> Result<HttpRequest>;
}

/// The unfinished uploads of a bucket.
#[derive(Debug)]
pub(crate) struct Uploads {
    bucket: Box<dyn Bucket>,
    client: HttpClient,
    watch: Watch,
}

impl Uploads {
    /// Those of the bucket of `uri`, which is opened with `params`; `None`, where it is of no store that keeps any.
    ///
    /// # Errors
    /// When `params` do not do.
    pub(crate) async fn of(
        uri: &str,
        params: &ObjectStoreParams,
        watch: Watch,
    ) -> lance::Result<Option<Self>> {
        let Ok(url) = Url::parse(uri) else { return Ok(None) };
        let opened: Option<(Box<dyn Bucket>, HttpClient)> = match url.scheme() {
            #[cfg(feature = "aws")]
            "s3" => Some(s3::open(&url, params).await?),
            #[cfg(feature = "gcs")]
            "gs" => Some(gcs::open(&url, params)?),
            _ => None,
        };
        Ok(opened.map(|(bucket, client)| Self { bucket, client, watch }))
    }

    /// Every upload of an object below `root` that was begun and did not end.
    ///
    /// # Errors
    /// The store's, and when its answer is no list.
    pub(crate) async fn below(&self, root: &Path) -> Result<Vec<Upload>> {
        let (prefix, mut after, mut all) = (format!("{root}/"), Query::new(), Vec::new());
        for _ in 0..PAGES_MAX {
            let mut query = vec![("uploads", String::new()), ("prefix", prefix.clone())];
            query.extend(after.iter().cloned());
            let what = (Request::List, prefix.as_str());
            let page = self.watch.aside(what, || self.page(query.clone())).await?;
            for one in page.uploads {
                all.push(Upload { path: Path::parse(&one.key)?, id: one.id });
            }
            let next = page.next_key.filter(|_| page.is_truncated);
            let Some(next) = next else { return Ok(all) };
            let before = std::mem::replace(&mut after, vec![("key-marker", next)]);
            after.extend(page.next_id.map(|id| ("upload-id-marker", id)));
            if after == before {
                return Ok(all);
            }
        }
        Ok(all)
    }

    fn page(&self, query: Query) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            let request = self.bucket.signed(query).await?;
            let lost = |error: HttpError| not_answered(&error);
            let response = self.client.execute(request).await.map_err(lost)?;
            let status = response.status();
            let body = response.into_body().bytes().await.map_err(lost)?;
            self.watch.received(body.len() as u64);
            if !status.is_success() {
                let is_final =
                    status.is_client_error() && ![408, 425, 429].contains(&status.as_u16());
                let text = format!("it does not list unfinished uploads: {status}");
                return Err(Answer { text, is_final }.into());
            }
            read_page(body.as_ref())
        })
    }

    /// Gives `upload` up: its parts are gone then. One that is gone already is as good.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn give_up(&self, upload: &Upload) -> Result<()> {
        let what = (Request::Delete, upload.path.as_ref());
        let ended = self
            .watch
            .aside(what, || self.bucket.uploads().abort_multipart(&upload.path, &upload.id));
        match ended.await {
            Err(Error::NotFound { .. }) => Ok(()),
            ended => ended,
        }
    }
}

/// What became of a request without an answer. What the client says of it may have the signed URL in it.
fn not_answered(error: &HttpError) -> Error {
    let text = format!("the request for unfinished uploads failed: {:?}", error.kind());
    if matches!(error.kind(), HttpErrorKind::Decode | HttpErrorKind::Unknown) {
        return unexpected(&text);
    }
    let lost = std::io::Error::new(std::io::ErrorKind::ConnectionReset, text);
    Error::Generic { store: "object store", source: Box::new(lost) }
}

fn unexpected(text: &str) -> Error {
    Answer { text: text.to_owned(), is_final: true }.into()
}

/// A request for what is at `url`.
fn request_of(url: &Url) -> Result<HttpRequest> {
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    let uri = url.as_str().parse();
    *request.uri_mut() = uri.map_err(|_| unexpected("its address is no URL"))?;
    Ok(request)
}

/// A page of the list, as S3 and GCS both give it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    #[serde(rename = "NextKeyMarker")]
    next_key: Option<String>,
    #[serde(rename = "NextUploadIdMarker")]
    next_id: Option<String>,
    #[serde(default, rename = "Upload")]
    uploads: Vec<Listed>,
}

/// Reads a page. Others than of this kind would be read as empty ones.
fn read_page(text: &[u8]) -> Result<Page> {
    let unread = || unexpected("its list of unfinished uploads cannot be read");
    let is_one = text.windows(LIST.len()).any(|word| word == LIST);
    if is_one { quick_xml::de::from_reader(text).map_err(|_| unread()) } else { Err(unread()) }
}

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "UploadId")]
    id: String,
}

#[cfg(feature = "aws")]
mod s3 {
    use std::time::Duration;

    use lance_io::object_store::{StorageOptions, providers::aws::build_aws_credential};
    use object_store::aws::{
        AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key, resolve_bucket_region,
    };
    use object_store::client::{HttpConnector, ReqwestConnector};
    use object_store::signer::{SignedUrlOptions, Signer};

    use super::{
        Bucket, HttpClient, HttpRequest, HttpRequestBody, MultipartStore, ObjectStoreParams, Path,
        Query, Result, Url, async_trait, request_of,
    };

    /// How long a signed request may wait to be sent.
    const VALID: Duration = Duration::from_mins(5);

    /// Opens the bucket of `url` as Lance does (lance-io 14 `src/object_store/providers/aws.rs`).
    pub(super) async fn open(
        url: &Url,
        params: &ObjectStoreParams,
    ) -> lance::Result<(Box<dyn Bucket>, HttpClient)> {
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
        let builder = AmazonS3Builder::new().with_client_options(client.clone());
        let builder = known
            .into_iter()
            .fold(builder, |builder, (key, value)| builder.with_config(key, value));
        let bucket =
            builder.with_url(url.as_str()).with_credentials(credentials).with_region(region);
        Ok((Box::new(bucket.build()?), ReqwestConnector::default().connect(&client)?))
    }

    #[async_trait]
    impl Bucket for AmazonS3 {
        fn uploads(&self) -> &dyn MultipartStore {
            self
        }

        async fn signed(&self, query: Query) -> Result<HttpRequest> {
            let options = SignedUrlOptions::default().with_query(query);
            // A request that is told no other method is a GET.
            let get = HttpRequest::new(HttpRequestBody::empty()).method().clone();
            request_of(&self.signed_url_opts(get, &Path::default(), VALID, &options).await?)
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
        Bucket, HttpClient, HttpRequest, MultipartStore, ObjectStoreParams, Query, Result, Url,
        async_trait, request_of, unexpected,
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
    ) -> lance::Result<(Box<dyn Bucket>, HttpClient)> {
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
    impl Bucket for Gcs {
        fn uploads(&self) -> &dyn MultipartStore {
            &self.store
        }

        async fn signed(&self, query: Query) -> Result<HttpRequest> {
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
    fn a_page_is_read() {
        let page = "<?xml version='1.0'?><ListMultipartUploadsResult xmlns='http://s3'><Bucket>b</Bucket>\
            <NextKeyMarker>k2</NextKeyMarker><NextUploadIdMarker>u2</NextUploadIdMarker>\
            <IsTruncated>true</IsTruncated><Upload><Key>a/b &amp; c</Key><UploadId>u1</UploadId>\
            <Owner><ID>o</ID></Owner></Upload><CommonPrefixes><Prefix>p</Prefix></CommonPrefixes>\
            <Upload><Key>k2</Key><UploadId>u2</UploadId></Upload></ListMultipartUploadsResult>";
        let page = read_page(page.as_bytes()).unwrap();
        let keys: Vec<_> = page.uploads.iter().map(|one| (&*one.key, &*one.id)).collect();
        assert_eq!(keys, [("a/b & c", "u1"), ("k2", "u2")]);
        assert!(page.is_truncated && page.next_key.as_deref() == Some("k2"));
        let none = read_page(b"<ListMultipartUploadsResult/>").unwrap();
        assert!(!none.is_truncated && none.uploads.is_empty());
        for other in
            [&b""[..], b"<html/>", b"<ListBucketResult/>", b"{}", b"<ListMultipartUploadsResult"]
        {
            assert!(read_page(other).is_err(), "{other:?}");
        }
    }
}
