//! What the store itself confirms of staged files: it need not be read back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use tokio::sync::Mutex;

use crate::error::Result;
use crate::limits::LISTED_AT_ONCE;
use crate::stage::{FileSpec, Staged};
use crate::storage::page::ReadBackHashes;

/// Requests for one object that cost as much as a page of a listing.
const LISTED_PAGE_COSTS: u64 = 12;
/// Pages of a listing that is waited for.
const LISTED_PAGES_MAX: u64 = 25;

/// What a store tells of a file, and its tag.
type Tagged = (ObjectMeta, Option<String>);

/// What the store told.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    /// Bytes that it confirmed, of files that were kept and of pages that were seen.
    pub bytes: u64,
    /// What it tells of each file that it was asked for, by name.
    pub dated: Vec<(String, ObjectMeta)>,
}

/// Listings of a table's data files, shared by the chunks that need one at the same time.
#[derive(Debug)]
pub(super) struct Listings {
    /// How many files have to wait for an answer at the same time to be worth one.
    worth: u64,
    /// Counts those who asked.
    asked: AtomicU64,
    latest: Mutex<Latest>,
}

/// The latest listing, and how many had asked when it began.
#[derive(Debug, Default)]
struct Latest {
    asked: u64,
    told: Arc<HashMap<String, Tagged>>,
}

impl Listings {
    /// Those of a table of so many data `files`.
    pub(super) fn of(files: u64) -> Self {
        Self { worth: listing_worth(files), asked: AtomicU64::new(0), latest: Mutex::default() }
    }

    /// What a listing tells that `list` gives and that began after this was called.
    async fn fresh<L: Future<Output = Result<HashMap<String, Tagged>>>>(
        &self,
        list: impl FnOnce() -> L,
    ) -> Result<Arc<HashMap<String, Tagged>>> {
        let own = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut latest = self.latest.lock().await;
        if latest.asked < own {
            // Whoever asks from here on may have sent something that it does not show.
            let asked = self.asked.load(Ordering::SeqCst);
            *latest = Latest { asked, told: Arc::new(list().await?) };
        }
        Ok(Arc::clone(&latest.told))
    }
}

/// How many files are worth a listing of a table of so many `files`, each of which gets another one beside it: a page
/// of it costs as much as a dozen requests for one file (S3), and its pages come one after the other. Many pages take longer than
/// to ask for every file.
fn listing_worth(files: u64) -> u64 {
    let pages = files.saturating_mul(2) / LISTED_AT_ONCE + 1;
    if pages > LISTED_PAGES_MAX { u64::MAX } else { pages * LISTED_PAGE_COSTS }
}

/// Asks the store what it has of those files of `staged` that were kept as they were sent. Those that it confirms are held by
/// `staged` from here on; of the others, nothing that was seen while they were sent counts.
///
/// # Errors
/// `Failed`, when the store cannot be asked.
pub(super) async fn ask(
    files: &FileSpec,
    listings: &Listings,
    staged: &mut Staged,
) -> Result<Confirmed> {
    let waiting = files.sent.as_ref().map_or(0, |sent| sent.files.count());
    let own = staged.fragments.iter().filter_map(|one| one.files.last());
    let sent = own.filter_map(|file| Some((file.path.clone(), files.take_sent(&file.path)?)));
    let sent: Vec<_> = sent.collect();
    if sent.is_empty() {
        if files.sent.is_some() {
            staged.seen = ReadBackHashes::default();
        }
        return Ok(Confirmed::default());
    }
    let told = if waiting < listings.worth {
        let names = sent.iter().map(|(name, _)| name.clone());
        Arc::new(asked_for(files, names.collect()).await?)
    } else {
        listings.fresh(|| listed(files)).await?
    };
    let mut confirmed = Confirmed::default();
    for (name, sent) in sent {
        let told = told.get(&name);
        let answer = told.and_then(|(meta, tag)| sent.is_confirmed_by(meta.size, tag.as_deref()));
        confirmed.dated.extend(told.map(|(meta, _)| (name.clone(), meta.clone())));
        if answer == Some(false) {
            files.sent.iter().for_each(|keeping| keeping.files.was_unconfirmed(&sent));
        }
        if answer != Some(true) {
            staged.seen = ReadBackHashes::default();
        } else if let Some(kept) = sent.kept_bytes() {
            confirmed.bytes += kept;
            staged.held.insert(name, sent);
        }
    }
    confirmed.bytes += staged.seen.bytes();
    Ok(confirmed)
}

/// What the store tells of the migration's files, by name, in one listing.
async fn listed(spec: &FileSpec) -> Result<HashMap<String, Tagged>> {
    let listed = spec.files().list_tagged(&spec.directory, &spec.id).await?.into_iter();
    let named = listed.filter_map(|told| {
        let name = told.0.location.filename()?.to_owned();
        // A copy of it elsewhere below is none.
        (told.0.location == spec.path(&name)).then_some((name, told))
    });
    Ok(named.collect())
}

/// The same of the files called `names`, one by one.
async fn asked_for(spec: &FileSpec, names: Vec<String>) -> Result<HashMap<String, Tagged>> {
    let files = spec.files();
    let asked = names.into_iter().map(|name| {
        let (files, path) = (Arc::clone(&files), spec.path(&name));
        async move { Ok((name, files.head_tagged(&path).await?)) }.boxed()
    });
    let asked: Vec<_> = asked.collect();
    stream::iter(asked).buffered(files.files_at_once()).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_listed_for_many_files_only() {
        let worth = [0, 499, 500, 10_000, 1_000_000].map(listing_worth);
        assert_eq!(worth, [12, 12, 24, 252, u64::MAX]);
    }

    #[tokio::test]
    async fn those_who_ask_meanwhile_share_the_next_listing() {
        let (listings, lists) = (Listings::of(0), AtomicU64::new(0));
        let list = async || {
            let number = lists.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let meta = ObjectMeta {
                location: "a".into(),
                last_modified: chrono::DateTime::UNIX_EPOCH,
                size: number,
                e_tag: None,
                version: None,
            };
            Ok(HashMap::from([("a".to_owned(), (meta, None))]))
        };
        let seen = async || listings.fresh(list).await.unwrap()["a"].0.size;
        // The first one lists at once, the others while it does: they share the next one.
        let seen = futures::join!(seen(), seen(), seen(), seen());
        assert_eq!((seen, lists.load(Ordering::SeqCst)), ((0, 1, 1, 1), 2));
        let failed = listings.fresh(async || Err(crate::error::Error::failed("away"))).await;
        assert!(failed.is_err());
        // What failed is not taken for an answer.
        assert_eq!(listings.fresh(list).await.unwrap()["a"].0.size, 2);
    }
}
