//! Taking back: abort before the swap, rollback and finalize after it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use lance::Dataset;
use lance::dataset::transaction::Operation;

use crate::chunk::SourceFragment;
use crate::commit::{Act, Outcome, exactly_next, properties};
use crate::error::{Error, Kind, Result, is_storage_full};
use crate::history::{self, Other, RollbackPoint};
use crate::journal::{ChunkRecord, Journal, Opened, Undo, clear_unversioned, locked};
use crate::leftover::{self, Removed};
use crate::phase::Phase;
use crate::plan::Request;
use crate::process::Running;
use crate::run::gate;
use crate::run::look::{cleaned, requested};
use crate::run::planning::{Planned, request_difference};
use crate::run::report::{Aborted, Ended, Finalized, RolledBack, commits_text};
use crate::run::{Migration, reclaim};
use crate::schema::change::Change;
use crate::settings::{Hold, Settings};
use crate::table::{self, Opener};
use crate::{database, index, source};

/// What `rollback` does about what others wrote after the swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Writes {
    /// Refuses, if there is anything.
    #[default]
    Refuse,
    /// Gives it up.
    Discard,
    /// Keeps it: every row is carried back through the inverse of the changes.
    Keep,
}

impl Migration {
    /// Drops the migration that is staged: every file that it wrote, its tag, and the staging table. Where
    /// none is, tags of one that is not there any more.
    ///
    /// # Errors
    /// `Failed`, when nothing is staged; `Locked`, when a run is alive; `Refused`, when the swap has
    /// landed already.
    ///
    /// # Crash
    /// Calling it again removes the rest. The live table is not touched.
    pub async fn abort(&self) -> Result<Aborted> {
        let opener = self.opener();
        database::expect_table(&self.location).await?;
        let live = opener.live().await?;
        let journal = match Opened::look(&opener).await? {
            Opened::Nothing => return self.abort_nothing(&live, &opener).await,
            Opened::Wreck(wreck) => return self.abort_wreck(&live, &wreck).await,
            Opened::Journal(journal) => *journal,
        };
        self.expect_free_or_waiting(&journal).await?;
        match self.abort_staged(&live, journal).await {
            Err(error) if is_storage_full(&error) => self.abort_full(&live, &opener, error).await,
            done => done,
        }
    }

    /// Removes what is left of migrations that are not there, where nothing is staged.
    async fn abort_nothing(&self, live: &Arc<Dataset>, opener: &Opener) -> Result<Aborted> {
        let pins = self.abort_pins(live).await?;
        let files = clear_unversioned(opener).await?;
        let table = self.location.table().to_owned();
        if let Some(aborted) = pins {
            let files = aborted.files + files.unwrap_or_default();
            return Ok(Aborted { files, ..aborted });
        }
        let files = files.ok_or_else(|| self.nothing_staged())?;
        let id = "unknown".to_owned();
        Ok(Aborted { table, id, pins: 0, files, bytes: 0, left: Vec::new() })
    }

    /// Drops the migration of `journal`, which is not running.
    async fn abort_staged(&self, live: &Arc<Dataset>, mut journal: Journal) -> Result<Aborted> {
        let header = journal.header().clone();
        let point = history::rollback_point(live, &header.id).await?;
        if let Some(version) = point.and_then(|point| point.swapped) {
            return Err(self.landed(version));
        }
        // Taking the migration over stops a run that is slow, not dead, before it can name a file that is
        // removed here.
        let live = self.take_over(live, &mut journal, Phase::Plan).await?;
        let swapped = history::find_swap(&live, &header.id, header.first_version).await?;
        if let Some(version) = swapped {
            return Err(self.landed(version));
        }
        // Nobody adopts what the journal does not name: forgotten first, removed then.
        journal.forget_all();
        self.checkpoint(&mut journal, Phase::Plan, false).await?;
        let (keep, first) = (HashSet::new(), header.first_version);
        let removed = leftover::remove(&live, &header.id, &keep, first, Some(&mut journal)).await?;
        source::unpin(&live, &header.id).await?;
        let left = journal.remove().await?;
        self.tell_left(&left);
        let table = self.location.table().to_owned();
        let Removed { files, bytes } = removed;
        Ok(Aborted { table, id: header.id, pins: 0, files, bytes, left })
    }

    /// Drops what is staged where the disk has no room for a commit that says so: the staging table goes first,
    /// so that a run which is slow, not dead, finds that out.
    async fn abort_full(
        &self,
        live: &Arc<Dataset>,
        opener: &Opener,
        full: Error,
    ) -> Result<Aborted> {
        let Some(journal) = Journal::open(opener).await? else { return Err(full) };
        let (header, lease) = (journal.header().clone(), journal.lease());
        if lease.phase == Phase::Swap && !lease.released {
            // It may be asleep just before its commit, and only a commit keeps it out.
            return Err(
                full.with_advice("the run died at its swap: free a few KB first, then abort again")
            );
        }
        let swapped = history::find_swap(live, &header.id, header.first_version).await?;
        if let Some(version) = swapped {
            return Err(self.landed(version));
        }
        let left = journal.remove().await?;
        let (keep, first) = (HashSet::new(), header.first_version);
        let Removed { files, bytes } =
            leftover::remove(live, &header.id, &keep, first, None).await?;
        source::unpin(live, &header.id).await?;
        let table = self.location.table().to_owned();
        Ok(Aborted { table, id: header.id, pins: 0, files, bytes, left })
    }

    /// Takes the last swap back: in one commit that puts the version before it back, as long as nobody
    /// has written since; what was written since is dealt with as `writes` says.
    ///
    /// # Errors
    /// `Failed`, when there is no rollback point; `Refused`, when others have written since and `writes` is
    /// [`Writes::Refuse`], or the changes cannot be taken back from what they wrote; `Locked`, when a
    /// migration is staged; `Interrupted`, when somebody writes at this very moment; `Unfinished`, when it
    /// landed and could not tidy up. With [`Writes::Keep`], those of [`migrate`](Self::migrate) too.
    ///
    /// # Crash
    /// The live table is the swapped one, or the one before it, whole. With [`Writes::Keep`], as
    /// [`migrate`](Self::migrate): [`resume`](Self::resume) goes on.
    pub async fn rollback(&self, writes: Writes) -> Result<RolledBack> {
        let opener = self.opener();
        database::expect_table(&self.location).await?;
        self.expect_tidied(&opener).await?;
        let live = opener.live().await?;
        let (point, swapped) = self.last_point(&live).await?;
        let mut back = history::taken_back(&live, swapped).await?.into_iter();
        if let Some(back) = back.find(|back| back.id == point.id) {
            // It has landed already, and whoever did it died, or failed, before it had tidied up.
            return self.rolled_back(&live, point, swapped, (back.version, 0), Vec::new()).await;
        }
        let head = live.version_id();
        let others = history::others_since(&live, &point.id, swapped, head).await?;
        match writes {
            Writes::Refuse if others.iter().any(Other::changes_rows) => {
                return Err(self.refuse_writes(&live, swapped, &others).await?);
            }
            Writes::Keep if others.iter().any(Other::changes_rows) => {
                let commits = others.len() as u64;
                return Box::pin(self.carry_back(opener, live, point, swapped, commits)).await;
            }
            Writes::Refuse | Writes::Discard | Writes::Keep => {}
        }
        let operation = Operation::Restore { version: point.version };
        let indices = index::names(&live).await.unwrap_or_default();
        let outcome = exactly_next(&live, operation, properties(&point.id, Act::Rollback)).await?;
        let back = match outcome {
            Outcome::Landed(back) => back,
            Outcome::LostRace { head } => {
                let message = format!(
                    "somebody committed version {head} at this moment; nothing was rolled back"
                );
                return Err(Error::interrupted(message).with_advice("look at it, and try again"));
            }
            Outcome::Unknown { attempted, error } => {
                return Err(self.unknown(attempted).caused_by(error));
            }
        };
        let landed = (back.version_id(), others.len() as u64);
        self.rolled_back(&back, point, swapped, landed, indices).await
    }

    /// Tidies up after the version before the swap was put back, as `version`, with so many
    /// commits discarded; the table had these `indices` before.
    async fn rolled_back(
        &self,
        live: &Dataset,
        point: RollbackPoint,
        swapped: u64,
        (version, discarded_commits): (u64, u64),
        indices: Vec<String>,
    ) -> Result<RolledBack> {
        let tidied = async {
            gate::sync_commit(live).await?;
            remove_leftovers(live, &point, swapped).await?;
            source::unpin(live, &point.id).await
        };
        tidied.await.map_err(|error| {
            let restored = point.version;
            Error::unfinished(format!(
                "version {version} reads as version {restored} did; tidying up after that failed"
            ))
            .with_advice(&format!("{} again does the rest", self.command("rollback")))
            .caused_by(error)
        })?;
        // The rows are back: an index list that cannot be read is no reason to fail.
        let has = index::names(live).await.unwrap_or_else(|_| indices.clone());
        Ok(RolledBack {
            table: self.location.table().to_owned(),
            id: point.id,
            restored: point.version,
            version,
            discarded_commits,
            kept_commits: 0,
            indices_dropped: indices.into_iter().filter(|name| !has.contains(name)).collect(),
            unused: self.unused(live, swapped, version).await,
        })
    }

    /// Takes the changes back from every row of the table, those written since included: a migration of
    /// its own, with the inverse changes.
    async fn carry_back(
        &self,
        opener: Opener,
        live: Arc<Dataset>,
        point: RollbackPoint,
        swapped: u64,
        commits: u64,
    ) -> Result<RolledBack> {
        let began = Instant::now();
        let discard = format!(
            "{} gives up what was written since; nothing was changed",
            self.command_with("rollback", &["--discard-writes"])
        );
        let Some(request) = requested(&live, swapped).await? else {
            return Err(cleaned(swapped).with_advice(&discard));
        };
        let Some(changes) = request.inverse() else {
            let message = "what was done cannot be taken back from what was written since: it has no \
                           inverse that gives every row and value back";
            return Err(Error::refused(message).with_advice(&discard));
        };
        let request = Request {
            changes,
            allow_key_change: true,
            allow_index_loss: true,
            ..Request::default()
        };
        let settings = Settings { hold: Hold::No, ..self.settings.clone() };
        let back = Self { request, settings, ..self.clone() };
        let Planned { mut plan, live } = back.plan_head(&opener).await?;
        back.preflight(&live, &mut plan).await?;
        back.expect_writable()?;
        let running = Running::start(&back.run);
        let undo = Undo { id: point.id.clone(), version: point.version };
        let journal = back.begin(&opener, &live, &plan, Some(undo)).await?;
        let underway = back.underway(live, plan, journal, began, running)?;
        let Ended::Swapped(report) = Box::pin(back.carry_out(underway)).await? else {
            return Err(Error::failed(
                "the way back ended before its swap; this is a bug in relance",
            ));
        };
        Ok(RolledBack {
            table: self.location.table().to_owned(),
            id: point.id,
            restored: point.version,
            version: report.version_after,
            discarded_commits: 0,
            kept_commits: commits,
            indices_dropped: report.indices_dropped,
            unused: None,
        })
    }

    fn landed(&self, version: u64) -> Error {
        Error::refused(format!(
            "the swap landed as version {version}, so there is nothing to abort"
        ))
        .with_advice(&format!(
            "{} finishes it; {} takes it back",
            self.command("resume"),
            self.command("rollback")
        ))
    }

    /// Fails when a migration is staged, but for one whose swap has landed: its staging table is only in
    /// the way, and is removed.
    async fn expect_tidied(&self, opener: &Opener) -> Result<()> {
        let Some(mut journal) = Journal::open(opener).await? else {
            return self.refuse_staged(opener).await;
        };
        self.expect_free(&journal).await?;
        let live = opener.live().await?;
        let id = journal.header().id.clone();
        let point = history::rollback_point(&live, &id).await?;
        // A way back that has landed is not taken back by asking for it again.
        let is_undo = journal.header().undo.is_some();
        let swapped = point.and_then(|point| point.swapped).filter(|_| !is_undo);
        let Some(swapped) = swapped else {
            return self.refuse_staged(opener).await;
        };
        self.take_over(&live, &mut journal, Phase::Done).await?;
        // Whatever comes of the rollback, nobody else does this after the journal is gone.
        source::pin_swap(&live, &id, swapped).await?;
        journal.remove().await.map(drop)
    }

    /// Gives up the rollback point of the last swap, and reclaims what only that version used; where there is
    /// none, what only swaps use that were rolled back. With `history`, every untagged version before goes too.
    ///
    /// # Errors
    /// `Failed`, when there is neither; `Locked`, when a migration is staged.
    ///
    /// # Crash
    /// The newest version is not touched; what was not reclaimed is reclaimed by LanceDB's own cleanup.
    pub async fn finalize(&self, history: bool) -> Result<Finalized> {
        let opener = self.opener();
        database::expect_table(&self.location).await?;
        self.refuse_staged(&opener).await?;
        let live = opener.live().await?;
        let Some((point, swapped)) = find_last_point(&live).await? else {
            return self.finalize_taken_back(&live, history).await;
        };
        remove_leftovers(&live, &point, swapped).await?;
        let mut older = reclaim::versions(&live).await?;
        older.retain(|version| *version < point.version);
        source::unpin(&live, &point.id).await?;
        let mut gone = vec![point.version];
        if history {
            gone.extend(older.iter().copied());
        }
        let stats = reclaim::remove(&live, gone).await?;
        Ok(Finalized {
            table: self.location.table().to_owned(),
            id: point.id,
            version: point.version,
            rolled_back: false,
            files: reclaim::files(&stats),
            bytes: stats.bytes_removed,
            older_versions: if history { 0 } else { older.len() as u64 },
        })
    }

    /// The rollback point of the last swap.
    pub(super) async fn last_point(&self, live: &Dataset) -> Result<(RollbackPoint, u64)> {
        find_last_point(live).await?.ok_or_else(|| {
            let table = self.location.table();
            Error::failed(format!("`{table}` has no rollback point"))
        })
    }

    async fn refuse_writes(&self, live: &Dataset, swapped: u64, others: &[Other]) -> Result<Error> {
        let (commits, table) = (commits_text(others), self.location.table());
        let mut message =
            format!("`{table}` was written to after the swap: {commits} would be lost");
        let keep = self.command_with("rollback", &["--keep-writes"]);
        let discard = self.command_with("rollback", &["--discard-writes"]);
        let discard = format!("{discard} gives them up");
        // A cleanup may have taken the swapped version: then how much was written is not known.
        if let Ok(swapped) = table::at_version(live, swapped).await {
            let then = table::source_fragments(&swapped).await?;
            let now = table::source_fragments(live).await?;
            let rows = |all: &[SourceFragment]| all.iter().map(|one| one.rows).sum::<u64>();
            let known: HashSet<u64> = then.iter().map(|one| one.origin.id).collect();
            let new = now.iter().filter(|one| !known.contains(&one.origin.id));
            let written: u64 = new.map(|one| one.rows).sum();
            let (before, after) = (rows(&then), rows(&now));
            let counts = format!(
                ", with {written} rows written since (the table had {before} rows then, and has \
                 {after} now)"
            );
            message.push_str(&counts);
        }
        let advice = match requested(live, swapped).await? {
            Some(request) if request.inverse().is_some() => {
                format!("{keep} carries them back, {discard}")
            }
            Some(_) => format!("they cannot be carried back through what was done; {discard}"),
            None => format!(
                "they cannot be carried back: version {swapped}, which tells what was done, was cleaned \
                 away; {discard}"
            ),
        };
        Ok(Error::refused(message).with_advice(&advice))
    }

    /// The staged migration, and the live table.
    pub(super) async fn staged(&self) -> Result<(Arc<Dataset>, Journal)> {
        let opener = self.opener();
        database::expect_table(&self.location).await?;
        let live = opener.live().await?;
        let journal = Journal::open(&opener).await?;
        Ok((live, journal.ok_or_else(|| self.nothing_staged())?))
    }

    fn nothing_staged(&self) -> Error {
        let table = self.location.table();
        Error::failed(format!("no migration of `{table}` is staged"))
    }

    /// Fails when a migration is staged.
    pub(super) async fn refuse_staged(&self, opener: &Opener) -> Result<()> {
        match Opened::look(opener).await? {
            Opened::Nothing => Ok(()),
            Opened::Journal(_) => Err(self.describe_locked(opener, locked(opener)).await),
            Opened::Wreck(wreck) => {
                let abort = self.command("abort");
                let error = locked(opener).caused_by(wreck.why);
                Err(error.with_advice(&format!("its journal cannot be read; {abort} drops it")))
            }
        }
    }

    /// `error`, with what is staged and what to do.
    pub(super) async fn describe_locked(&self, opener: &Opener, error: Error) -> Error {
        let mut error = error;
        if let Ok(Some(journal)) = Journal::open(opener).await {
            let header = journal.header();
            let rows: u64 = journal.records().map(ChunkRecord::rows_left).sum();
            let changes: Vec<_> = header.request.changes.iter().map(Change::text).collect();
            let began = header.began.format("%Y-%m-%d %H:%M:%S");
            error = error.with_advice(&format!(
                "migration {}, begun {began} UTC: {}; {rows} of {} rows are staged",
                header.id,
                changes.join(", "),
                header.rows
            ));
            if let Ok(live) = opener.live().await
                && !self.request.changes.is_empty()
            {
                let lines = request_difference(live.schema(), &self.request, &header.request);
                if !lines.is_empty() {
                    error = error.with_advice("(- staged, + asked)").with_lines(lines);
                }
            }
        }
        match self.swap_landed(opener).await {
            Some(version) => error.with_advice(&format!(
                "its swap has landed as version {version}; {} finishes it",
                self.command("resume")
            )),
            None => error.with_advice(&self.next_steps()),
        }
    }

    /// The version that the staged migration has been swapped in as, as far as that can be seen.
    async fn swap_landed(&self, opener: &Opener) -> Option<u64> {
        let journal = Journal::open(opener).await.ok()??;
        let live = opener.live().await.ok()?;
        history::rollback_point(&live, &journal.header().id).await.ok()??.swapped
    }

    /// `error`, with what is kept and what to do.
    pub(super) fn keep(&self, error: Error) -> Error {
        if matches!(error.kind(), Kind::Locked | Kind::OutcomeUnknown) {
            return error;
        }
        error.with_advice(&format!("the live table is as it was. {}", self.next_steps()))
    }

    /// Fails when the table's directory cannot be written to, before anything is.
    pub(super) fn expect_writable(&self) -> Result<()> {
        let Some(directory) = self.location.directory() else {
            return Ok(());
        };
        let data = std::path::PathBuf::from(self.location.uri()).join("data");
        for place in [directory, data].into_iter().filter(|place| place.is_dir()) {
            if let Err(error) = try_write(&place) {
                let place = place.display();
                return Err(Error::refused(format!("cannot write to {place}")).caused_by(error));
            }
        }
        Ok(())
    }
}

/// The rollback point of the last swap, and the version that is the swap.
async fn find_last_point(live: &Dataset) -> Result<Option<(RollbackPoint, u64)>> {
    let points = history::rollback_points(live).await?;
    Ok(points.into_iter().rev().find_map(|point| {
        let swapped = point.swapped?;
        Some((point, swapped))
    }))
}

/// Removes what earlier attempts of the same thing left behind; what the swapped version names stays.
async fn remove_leftovers(live: &Dataset, point: &RollbackPoint, swapped: u64) -> Result<()> {
    // Once a cleanup has taken the swapped version, what it named cannot be told from leftovers.
    if let Ok(swapped) = table::at_version(live, swapped).await {
        let keep = leftover::named_by(&swapped);
        leftover::remove(live, &point.id, &keep, point.version, None).await?;
    }
    Ok(())
}

/// Makes a file and removes it: permissions alone do not tell of a read-only file system.
fn try_write(directory: &std::path::Path) -> std::io::Result<()> {
    let name = format!(".relance-probe-{}", uuid::Uuid::new_v4().simple());
    let file = directory.join(name);
    std::fs::File::create_new(&file)?;
    std::fs::remove_file(&file)
}
