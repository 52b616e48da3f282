//! The one commit that makes the staged fragments the live table, and the look before it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use lance::Dataset;

use crate::commit::{Act, Outcome, commit_next, properties};
use crate::error::{Context, Error, Kind, Result};
use crate::journal::Journal;
use crate::phase::Phase;
use crate::progress::{Amount, note};
use crate::retry::{Backoff, retrying};
use crate::run::prepare::Prepared;
use crate::run::report::seconds;
use crate::run::{Migration, Underway};
use crate::{datafile, history, span};

/// Transaction property of the swap that holds the request, for `verify`.
pub(super) const PROPERTY_REQUEST: &str = "relance.request";

/// What became of the swap.
pub(super) enum Swap {
    /// It landed.
    Landed(Arc<Dataset>),
    /// Somebody was first: there is something to catch up with.
    Lost,
}

impl Migration {
    /// Whether the live table has moved on from the version that is staged.
    pub(super) async fn look(&self, underway: &Underway) -> Result<bool> {
        let live = &underway.source;
        let head = retrying(&self.progress, "looking at the table", || history::head(live)).await?;
        Ok(head != live.version_id())
    }

    /// Makes the staged fragments the live table, if nobody was faster.
    pub(super) async fn swap(&self, underway: &mut Underway) -> Result<Swap> {
        let began = Instant::now();
        let _committing = span::commit();
        self.begin_phase(Phase::Swap, Amount::default());
        self.checkpoint(&mut underway.journal, Phase::Swap, false).await?;
        expect_files(&underway.source, &underway.journal).await?;
        if self.cancel.is_cancelled() {
            self.checkpoint(&mut underway.journal, Phase::Verify, true).await?;
            return Err(self.interrupted());
        }
        if self.look(underway).await? {
            return Ok(Swap::Lost);
        }
        let outcome = self.commit(underway).await?;
        match outcome {
            Outcome::Landed(live) => {
                let (version, took) = (live.version_id(), seconds(began.elapsed()));
                let since = seconds(underway.began.elapsed());
                note(
                    &self.progress,
                    format!(
                        "swapped in as version {version}: the swap took {took} s, {since} s after the start"
                    ),
                );
                underway.clock(Phase::Swap, took);
                underway.swapped_after = Some(since);
                Ok(Swap::Landed(Arc::new(*live)))
            }
            Outcome::LostRace { head } => {
                note(&self.progress, format!("version {head} was first; catching up with it"));
                Ok(Swap::Lost)
            }
            Outcome::Unknown { attempted, error } => Err(self.unknown(attempted).caused_by(error)),
        }
    }

    async fn commit(&self, underway: &mut Underway) -> Result<Outcome> {
        let header = underway.journal.header();
        let mut properties = properties(&header.id, Act::Swap);
        let request = serde_json::to_string(&header.request);
        let request = request.doing(|| "write the request as JSON".to_owned())?;
        properties.insert(PROPERTY_REQUEST.to_owned(), request);
        let live = &Arc::clone(&underway.source);
        let mut backoff = Backoff::of(&self.progress, "swap");
        loop {
            let outcome = async {
                let swap = Prepared::of(underway).await?;
                let (operation, version) = (swap.operation.clone(), swap.storage_version);
                let outcome = commit_next(live, operation, version, properties.clone()).await?;
                // What cannot be removed now is found by name later; the outcome stands.
                let _ = match &outcome {
                    Outcome::Landed(_) => swap.tidy(live, false).await,
                    Outcome::LostRace { .. } => swap.tidy(live, true).await,
                    Outcome::Unknown { .. } => Ok(()),
                };
                Ok(outcome)
            };
            match outcome.await {
                Err(error) => backoff.after(error).await?,
                outcome => return outcome,
            }
        }
    }

    /// The error of a commit that may or may not have landed.
    pub(super) fn unknown(&self, attempted: u64) -> Error {
        let table = self.location.table();
        let message = format!(
            "whether version {attempted} of `{table}` was committed is not known: the store gave no \
             answer. Nothing was deleted"
        );
        let advice = format!(
            "when the store answers again, {} tells, and {} goes on from there",
            self.command("status"),
            self.command("resume")
        );
        Error::new(Kind::OutcomeUnknown, message).with_advice(&advice)
    }
}

/// Fails when a staged file is gone: a cleanup that was told to remove files of unfinished writes takes
/// ours too, and a swap would name what is not there.
async fn expect_files(live: &Dataset, journal: &Journal) -> Result<()> {
    let store = live.object_store(None).await;
    let store = store.doing(|| format!("open the store of {}", live.uri()))?;
    let listed = datafile::list(&store, &live.data_dir(), &journal.header().id).await?;
    let there: BTreeSet<&str> = listed.iter().filter_map(|meta| meta.location.filename()).collect();
    let gone = journal.records().find_map(|record| {
        let mut files = record.files.iter();
        let gone = files.find(|file| !there.contains(file.name.as_str()))?;
        Some((&gone.name, record.chunk))
    });
    let Some((name, chunk)) = gone else { return Ok(()) };
    Err(Error::interrupted(format!(
        "the staged file {name} of chunk {chunk} is gone: something other than relance removed it. Not \
         swapped; `resume` stages it again"
    )))
}
