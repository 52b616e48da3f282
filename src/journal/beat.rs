//! Showing that a run is alive: a small file beside the journal, written every few seconds, of which only the
//! age is looked at.
//!
//! It says how far the run is, for people, and decides nothing but whether another run may try to take over: whose
//! the journal is stands in the journal alone. It is written by a task of its own, so that a run of which
//! everything else waits is still seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use lance::Dataset;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::clock::{Clock, StoreTime};
use crate::error::{Doing, Error, Result};
use crate::journal::Journal;
use crate::journal::config::{newest_of, to_json};
use crate::journal::record::LEASE_TIME;
use crate::progress::{SharedProgress, note};
use crate::storage::files::DataFiles;
use crate::storage::names::{BEATS, PARTS, directory_of};
use crate::table::open::{data_files_of, newest};
use crate::tally::{RunFigures, Tally};

/// How often a run is seen to be alive.
const BEAT: Duration = Duration::from_secs(5);
/// The pause before a beat that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// A beat that takes longer has failed.
const BEAT_TIME_MAX: Duration = Duration::from_secs(20);

/// Why a run has to stop.
#[derive(Debug, Clone)]
pub(super) enum Lost {
    /// Another run took the migration over.
    TakenOver,
    /// Another run dropped it.
    Dropped,
    /// It could not be shown for so long that others may take it for dead.
    Unseen(String),
}

impl Lost {
    /// What the run that stops says.
    pub(super) fn error(&self) -> Error {
        match self {
            Self::TakenOver => Error::locked(
                "another run took this migration over; this one stops, and has changed nothing since",
            ),
            Self::Dropped => Error::locked(
                "another run dropped this migration; this one stops, and has changed nothing since",
            ),
            Self::Unseen(why) => Error::interrupted(format!(
                "for {} s this run could not be shown to be alive, so that others may take it for dead: \
                 {why}",
                LEASE_TIME.num_seconds()
            )),
        }
    }
}

/// What is written: nobody reads it but people.
#[derive(Debug, Serialize)]
struct Beat<'a> {
    run: &'a str,
    count: u64,
    at: DateTime<Utc>,
    figures: Option<RunFigures>,
}

/// What is read of a beat. Those of older runs have no figures.
#[derive(Deserialize)]
struct Seen {
    figures: Option<RunFigures>,
}

/// The beats of a run, until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Beats {
    stop: watch::Sender<bool>,
    lost: watch::Receiver<Option<Lost>>,
    task: JoinHandle<()>,
    files: Arc<dyn DataFiles>,
    file: Path,
    /// Whether a beat was tried.
    began: Arc<AtomicBool>,
}

impl Beats {
    /// Stops, and removes what shows that the run is alive.
    async fn end(mut self) {
        // It may have ended already.
        let _ = self.stop.send(true);
        let _ = (&mut self.task).await;
        if !self.began.load(Ordering::Relaxed) {
            return;
        }
        // What is left goes with the staging table.
        let _ = self.files.remove(&self.file).await;
        self.files.remove_empty(&directory_of(&self.file));
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What writes the beats of one run.
struct Beater {
    staging: Dataset,
    files: Arc<dyn DataFiles>,
    file: Path,
    /// The migration, and its run.
    id: String,
    run: String,
    count: u64,
    began: Arc<AtomicBool>,
    time: Arc<StoreTime>,
    clock: Arc<dyn Clock>,
    tally: Arc<Tally>,
}

impl Beater {
    async fn run(
        mut self,
        progress: SharedProgress,
        mut stop: watch::Receiver<bool>,
        lost: watch::Sender<Option<Lost>>,
    ) {
        let (mut seen, mut pause) = (Instant::now(), BEAT);
        loop {
            tokio::select! {
                _ = stop.changed() => return,
                () = self.clock.sleep(pause) => {}
            }
            let beat = tokio::time::timeout(BEAT_TIME_MAX, self.beat()).await;
            let why = match beat.unwrap_or_else(|_| Err(Error::failed("the store gave no answer")))
            {
                Ok(None) => {
                    (seen, pause) = (Instant::now(), BEAT);
                    continue;
                }
                Ok(Some(reason)) => {
                    let _ = lost.send(Some(reason));
                    return;
                }
                Err(error) => error.report(&[]).replace('\n', " "),
            };
            if seen.elapsed() >= LEASE_TIME.to_std().unwrap_or_default() {
                let _ = lost.send(Some(Lost::Unseen(why)));
                return;
            }
            if pause != AGAIN {
                note(&progress, format!("cannot show that this run is alive; trying again: {why}"));
            }
            pause = AGAIN;
        }
    }

    /// Shows that the run is alive, if the journal is still its own.
    async fn beat(&mut self) -> Result<Option<Lost>> {
        if let Some(lost) = self.lost().await? {
            return Ok(Some(lost));
        }
        self.count += 1;
        self.began.store(true, Ordering::Relaxed);
        let (at, figures) = (self.clock.now(), self.tally.figures());
        let beat = Beat { run: &self.run, count: self.count, at, figures };
        let text = to_json(&beat)?;
        let doing = || format!("write {}", self.file);
        self.files.store().put(&self.file, text.into_bytes().into()).await.doing(doing)?;
        self.time.saw(self.files.head(&self.file).await?.last_modified);
        Ok(None)
    }

    /// Whether the journal is another run's by now.
    async fn lost(&mut self) -> Result<Option<Lost>> {
        let Some((newest, lease)) = newest_of(&self.staging, &self.id).await? else {
            return Ok(Some(Lost::Dropped));
        };
        self.staging = newest;
        Ok((lease.run != self.run).then_some(Lost::TakenOver))
    }
}

impl Journal {
    /// Shows every few seconds from now on that this run, whose the journal is, is alive, until the journal
    /// is let go, removed or dropped.
    ///
    /// # Errors
    /// `Failed`, when the store of the staging table cannot be opened.
    pub(crate) async fn begin_beats(
        &mut self,
        clock: &Arc<dyn Clock>,
        progress: &SharedProgress,
        tally: &Arc<Tally>,
    ) -> Result<()> {
        let files = data_files_of(&self.staging).await?;
        let file = self.beat_file();
        tokio::join!(self.see_time(), self.remove_other_beats(files.as_ref(), &file));
        let began = Arc::new(AtomicBool::new(false));
        let beater = Beater {
            staging: self.staging.as_ref().clone(),
            files: Arc::clone(&files),
            file: file.clone(),
            id: self.header.id.clone(),
            run: self.lease.run.clone(),
            count: 0,
            began: Arc::clone(&began),
            time: Arc::clone(&self.time),
            clock: Arc::clone(clock),
            tally: Arc::clone(tally),
        };
        let (stop, stopped) = watch::channel(false);
        let (tells, lost) = watch::channel(None);
        let task = tokio::spawn(beater.run(Arc::clone(progress), stopped, tells));
        self.beats = Some(Beats { stop, lost, task, files, file, began });
        Ok(())
    }

    /// Shows no more that the run is alive. Nothing is left of its beats.
    pub(crate) async fn end_beats(&mut self) {
        if let Some(beats) = self.beats.take() {
            beats.end().await;
        }
    }

    /// Ends when the run has to stop, and says why: another one took over, or may do so.
    pub(crate) fn lost(&self) -> BoxFuture<'static, Error> {
        let lost = self.beats.as_ref().map(|beats| beats.lost.clone());
        async move {
            if let Some(mut lost) = lost {
                let found = lost.wait_for(Option::is_some).await.map(|lost| lost.clone());
                if let Ok(Some(lost)) = found {
                    return lost.error();
                }
            }
            pending().await
        }
        .boxed()
    }

    /// The store's time.
    pub(crate) fn time(&self) -> &Arc<StoreTime> {
        &self.time
    }

    /// When the run that has the journal was last seen, by the store's clock: its last checkpoint or its
    /// last beat. Where the journal is another version by now, that one counts.
    ///
    /// # Errors
    /// `Failed`, when the journal is gone or the store cannot be asked.
    pub(crate) async fn last_seen(&self) -> Result<DateTime<Utc>> {
        let files = data_files_of(&self.staging).await?;
        let newest = newest(&self.staging).await?;
        let written = files.head(&newest.manifest_location().path).await?.last_modified;
        let beat = match files.store().head(&self.beat_file()).await {
            Ok(ObjectMeta { last_modified, .. }) => last_modified,
            Err(object_store::Error::NotFound { .. }) => return Ok(written),
            Err(error) => return Err(error).doing(|| "look at a run's beat".to_owned()),
        };
        Ok(written.max(beat))
    }

    /// How far the run that has the journal was at its last beat, if that tells.
    pub(crate) async fn figures(&self) -> Option<RunFigures> {
        let files = data_files_of(&self.staging).await.ok()?;
        let beat = files.store().get(&self.beat_file()).await.ok()?.bytes().await.ok()?;
        serde_json::from_slice::<Seen>(&beat).ok()?.figures
    }

    /// Looks what the store's clock says of the version that was committed just now.
    pub(super) async fn see_time(&self) {
        if let Ok(files) = data_files_of(&self.staging).await
            && let Ok(meta) = files.head(&self.staging.manifest_location().path).await
        {
            self.time.saw(meta.last_modified);
        }
    }

    /// The store's time, of a file that is written for it.
    ///
    /// # Errors
    /// `Failed`, when it cannot be written.
    pub(crate) async fn ask_time(&self) -> Result<DateTime<Utc>> {
        let files = data_files_of(&self.staging).await?;
        let file = self.folder().join(format!("now-{}", Uuid::new_v4().simple()));
        let doing = || format!("write {file}");
        files.store().put(&file, PutPayload::new()).await.doing(doing)?;
        let seen = files.head(&file).await;
        files.remove(&file).await?;
        files.remove_empty(&self.folder());
        Ok(seen?.last_modified)
    }

    /// What runs that had the journal before left: theirs are not looked at any more.
    async fn remove_other_beats(&self, files: &dyn DataFiles, own: &Path) {
        let listed = files.list_below(&self.folder()).await;
        let parts = PARTS.iter().skip(1).fold(self.folder(), |path, part| path.join(*part));
        for meta in listed.unwrap_or_default() {
            if meta.location != *own && !meta.location.prefix_matches(&parts) {
                // It goes with the staging table otherwise.
                let _ = files.remove(&meta.location).await;
            }
        }
    }

    fn folder(&self) -> Path {
        self.staging.branch_location().path.join(BEATS)
    }

    /// The beat of the run that has the journal.
    fn beat_file(&self) -> Path {
        let run = self.lease.run.chars().filter(char::is_ascii_alphanumeric);
        self.folder().join(format!("beat-{}.json", run.collect::<String>()))
    }
}
