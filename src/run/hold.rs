//! Waiting before the swap.

use std::time::Duration;

use crate::error::{Kind, Result};
use crate::phase::Phase;
use crate::plan::catchup::Need;
use crate::progress::{Amount, note};
use crate::run::report::{Ended, Held};
use crate::run::{Migration, Underway};
use crate::settings::Hold;

/// How often a migration that waits looks at the table.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Migration {
    /// Stages and verifies, and ends there, or goes on catching up until another run takes over.
    pub(super) async fn hold(&self, underway: &mut Underway) -> Result<Ended> {
        self.stage(underway, Phase::Stage).await?;
        self.tell_verified(underway);
        self.begin_phase(Phase::Hold, Amount::default());
        let waits = self.settings.hold == Hold::Wait;
        self.keep_held(underway, !waits).await?;
        if !waits {
            return Ok(self.held(underway, false));
        }
        note(&self.progress, format!("waiting; {} swaps", self.command("resume")));
        match self.wait(underway).await {
            Ok(()) => {
                self.keep_held(underway, true).await?;
                Ok(self.held(underway, false))
            }
            Err(error) if error.kind() == Kind::Locked => {
                underway.journal.end_beats().await;
                self.remove_fresh(underway).await?;
                Ok(self.held(underway, true))
            }
            Err(error) => Err(error),
        }
    }

    /// Catches up until it is asked to stop.
    async fn wait(&self, underway: &mut Underway) -> Result<()> {
        let mut lost = underway.journal.lost();
        loop {
            tokio::select! {
                error = &mut lost => return Err(error),
                more = self.pause(LOOK_EVERY) => if !more { return Ok(()) },
            }
            if self.look(underway).await? || self.is_stale(underway) {
                // However long it waits, no round before this one counts.
                underway.staged_first = None;
                underway.rounds = crate::plan::catchup::Rounds::default();
                self.stage(underway, Phase::Hold).await?;
                self.keep_held(underway, false).await?;
            }
        }
    }

    /// Makes everything durable, so that it can be looked at and taken over.
    async fn keep_held(&self, underway: &mut Underway, released: bool) -> Result<()> {
        self.checkpoint(&mut underway.journal, Phase::Hold, released).await?;
        let doomed = underway.journal.take_doomed();
        self.worker(underway).await?.remove(doomed).await?;
        underway.journal.show_deletions(&underway.source).await
    }

    /// Whether staged files have grown too old while it waited.
    fn is_stale(&self, underway: &Underway) -> bool {
        let now = self.store_time(&underway.journal);
        let mut chunks = underway.plan.chunks.iter();
        chunks.any(|chunk| underway.journal.need(chunk, now) != Need::Nothing)
    }

    fn held(&self, underway: &Underway, taken_over: bool) -> Ended {
        let header = underway.journal.header();
        Ended::Held(Held {
            table: self.location.table().to_owned(),
            id: header.id.clone(),
            rows: header.rows,
            values_nulled: underway.values_nulled(),
            taken_over,
        })
    }
}
