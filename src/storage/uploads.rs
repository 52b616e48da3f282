//! Uploads in parts that were begun and never ended: no listing of objects shows them, and S3 and GCS bill for their bytes.
//!
//! `object_store` gives up an upload whose id is known, and has no call for a list of them; so that request is made here,
//! signed by it. Azure forgets the parts of such an upload by itself.

use futures::future::BoxFuture;
use lance_io::object_store::ObjectStoreParams;
use object_store::path::Path;
use object_store::{Error, MultipartId, Result};
use serde::Deserialize;

use crate::storage::bucket::{Bucket, Query, unexpected};
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

/// The unfinished uploads of a bucket.
#[derive(Debug)]
pub(crate) struct Uploads {
    bucket: Bucket,
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
        let bucket = Bucket::of(uri, params).await?;
        Ok(bucket.map(|bucket| Self { bucket, watch }))
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
            let body = self.bucket.list("list unfinished uploads", query).await?;
            self.watch.received(body.len() as u64);
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
