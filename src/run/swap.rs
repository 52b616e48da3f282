//! The one commit that makes the staged fragments the live table, and the look before it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use lance::Dataset;
use lance::dataset::transaction::Operation;

use crate::chunk::ChunkId;
use crate::commit::{Act, Outcome, commit_next, exactly_next, properties};
use crate::error::{Context, Error, Kind, Result};
use crate::phase::Phase;
use crate::progress::{Amount, note};
use crate::retry::{Backoff, retrying};
use crate::run::gate;
use crate::run::prepare::Prepared;
use crate::run::report::seconds;
use crate::run::{Migration, Underway};
use crate::{history, leftover, source, span};

/// Transaction property of the swap that holds the request, for `verify`.
pub(super) const PROPERTY_REQUEST: &str = "relance.request";

/// What became of the swap.
pub(super) enum Swap {
    /// It landed.
    Landed(Arc<Dataset>),
    /// Somebody was first: there is something to catch up with, or to verify again.
    Lost,
}

/// How often files may be touched between their verification and the swap.
const TOUCHED_MAX: u32 = 3;

/// What became of one try.
enum Tried {
    Committed(Outcome),
    /// Nothing was tried: files of these chunks were touched after they were verified.
    Touched(Vec<ChunkId>),
}

impl Migration {
    /// Whether the live table has moved on from the version that is staged.
    pub(super) async fn look(&self, underway: &Underway) -> Result<bool> {
        let live = &underway.source;
        let head =
            retrying(&self.progress, &self.cancel, "looking at the table", || history::head(live))
                .await?;
        Ok(head != live.version_id())
    }

    /// Makes the staged fragments the live table, if nobody was faster.
    pub(super) async fn swap(&self, underway: &mut Underway) -> Result<Swap> {
        let began = Instant::now();
        let _committing = span::commit();
        self.begin_phase(Phase::Swap, Amount::default());
        self.checkpoint(&mut underway.journal, Phase::Swap, false).await?;
        if self.cancel.is_cancelled() {
            self.checkpoint(&mut underway.journal, Phase::Verify, true).await?;
            return Err(self.interrupted());
        }
        if self.look(underway).await? {
            return Ok(Swap::Lost);
        }
        let outcome = match self.commit(underway).await? {
            Tried::Committed(outcome) => outcome,
            Tried::Touched(chunks) => return self.distrust(underway, chunks),
        };
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

    /// Has chunks verified again whose files were touched after they were.
    fn distrust(&self, underway: &mut Underway, chunks: Vec<ChunkId>) -> Result<Swap> {
        underway.touched += 1;
        if underway.touched > TOUCHED_MAX {
            return Err(Error::interrupted(
                "staged files are touched again and again after they were verified, by something other \
                 than relance",
            ));
        }
        for chunk in chunks {
            let text = format!("files of chunk {chunk} were touched; it is verified again");
            note(&self.progress, text);
            underway.journal.distrust(chunk);
        }
        Ok(Swap::Lost)
    }

    async fn commit(&self, underway: &mut Underway) -> Result<Tried> {
        let header = underway.journal.header();
        let mut properties = properties(&header.id, Act::Swap);
        let request = serde_json::to_string(&header.request);
        let request = request.doing(|| "write the request as JSON".to_owned())?;
        properties.insert(PROPERTY_REQUEST.to_owned(), request);
        let live = &Arc::clone(&underway.source);
        let mut backoff = Backoff::of(&self.progress, &self.cancel, "swap");
        loop {
            let outcome = async {
                let swap = Prepared::of(underway).await?;
                match gate::inspect(underway, &swap).await {
                    Ok(touched) if touched.is_empty() => {}
                    other => {
                        // Nothing was tried: nobody can name what was prepared.
                        swap.tidy(live, true).await?;
                        return other.map(Tried::Touched);
                    }
                }
                let (operation, version) = (swap.operation.clone(), swap.storage_version);
                let outcome = commit_next(live, operation, version, properties.clone()).await?;
                // What cannot be removed now is found by name later; the outcome stands.
                let _ = match &outcome {
                    Outcome::Landed(_) => swap.tidy(live, false).await,
                    Outcome::LostRace { .. } => swap.tidy(live, true).await,
                    Outcome::Unknown { .. } => Ok(()),
                };
                Ok(Tried::Committed(outcome))
            };
            match outcome.await {
                Err(error) => backoff.after(error).await?,
                outcome => return outcome,
            }
        }
    }

    /// Looks at the version that was swapped in. Where it is not whole, since something removed a file of it at
    /// that very moment (a cleanup that was told to take files of unfinished writes, say), the version before
    /// it is put back, unless others have written since.
    ///
    /// # Errors
    /// `Mismatch` then; otherwise what kept it from looking.
    ///
    /// # Crash
    /// The live table is the swapped version, or the one before it again.
    pub(super) async fn look_after(
        &self,
        underway: Box<Underway>,
        swapped: &Arc<Dataset>,
    ) -> Result<Box<Underway>> {
        let (version, before) = (swapped.version_id(), underway.source.version_id());
        let looked = async {
            gate::sync_commit(swapped).await?;
            gate::inspect_swapped(&underway, swapped).await
        };
        let error = match looked.await {
            Ok(()) => return Ok(underway),
            Err(error) if error.kind() == Kind::Mismatch => error,
            Err(error) => return Err(self.unfinished(version, error)),
        };
        let id = underway.journal.header().id.clone();
        let operation = Operation::Restore { version: before };
        match exactly_next(swapped, operation, properties(&id, Act::Rollback)).await? {
            Outcome::Landed(live) => {
                let back = self.drop_broken(*underway, &live).await;
                let message = format!(
                    "version {version} was swapped in and is not whole, so version {before} was put back as \
                     version {}. Nothing of the table is lost; migrate again, without a cleanup beside it",
                    live.version_id()
                );
                let error = Error::mismatch(message).caused_by(error);
                Err(match back {
                    Ok(()) => error,
                    Err(left) => error.with_lines(left.report(&[]).lines()),
                })
            }
            Outcome::LostRace { head } => {
                let rollback = self.command("rollback");
                let message = format!(
                    "version {version} was swapped in and is not whole, and others have committed version \
                     {head} since, so it was not taken back by itself"
                );
                let advice = format!("{rollback} goes back, and says what would be lost");
                Err(Error::mismatch(message).with_advice(&advice).caused_by(error))
            }
            Outcome::Unknown { attempted, error } => Err(self.unknown(attempted).caused_by(error)),
        }
    }

    /// Drops what is left of a migration whose swap was taken back.
    async fn drop_broken(&self, mut underway: Underway, live: &Dataset) -> Result<()> {
        self.checkpoint(&mut underway.journal, Phase::Done, false).await?;
        let header = underway.journal.header().clone();
        let (keep, first) = (HashSet::new(), header.first_version);
        leftover::remove(live, &header.id, &keep, first, Some(&mut underway.journal)).await?;
        source::unpin(live, &header.id).await?;
        underway.journal.remove().await.map(drop)
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
