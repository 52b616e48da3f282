//! Taking back: abort before the swap, rollback and finalize after it.

use std::sync::Arc;

use lance::Dataset;
use lance::dataset::cleanup::CleanupPolicyBuilder;
use lance::dataset::transaction::Operation;

use crate::commit::{Act, Outcome, exactly_next, properties};
use crate::error::{Context, Error, Kind, Result};
use crate::history::{self, Other, RollbackPoint};
use crate::journal::{Journal, locked};
use crate::phase::Phase;
use crate::progress::note;
use crate::run::Migration;
use crate::run::report::{Aborted, Finalized, RolledBack, commits_text};
use crate::table::{self, Opener};
use crate::{database, datafile, source};

impl Migration {
    /// Drops the migration that is staged: every file that it wrote, its tag, and the staging table.
    ///
    /// # Errors
    /// `Failed`, when nothing is staged; `Locked`, when a run is alive; `Refused`, when the swap has
    /// landed already.
    ///
    /// # Crash
    /// Calling it again removes the rest. The live table is not touched.
    pub async fn abort(&self) -> Result<Aborted> {
        let (_, live, mut journal) = self.staged().await?;
        self.expect_free(&journal)?;
        let id = journal.header().id.clone();
        let point = history::rollback_point(&live, &id).await?;
        if let Some(version) = point.and_then(|point| point.swapped) {
            return Err(Error::refused(format!(
                "the swap landed as version {version}, so there is nothing to abort"
            ))
            .with_advice(&format!(
                "{} finishes it; {} takes it back",
                self.command("resume"),
                self.command("rollback")
            )));
        }
        // Taking the lease over stops a run that is slow, not dead, at its next checkpoint.
        journal.checkpoint(Vec::new(), self.lease(Phase::Stage, false)).await?;
        let store = live.object_store(None).await;
        let store = store.doing(|| "open the live table's store".to_owned())?;
        let (mut files, mut bytes) = (0, 0);
        for meta in datafile::list(&store, &live.data_dir(), &id).await? {
            datafile::remove(&store, &meta.location).await?;
            files += 1;
            bytes += meta.size;
        }
        source::unpin(&live, &id).await?;
        journal.remove().await?;
        let table = self.location.table().to_owned();
        Ok(Aborted { table, id, files, bytes })
    }

    /// Puts the version before the last swap back, in one commit.
    ///
    /// # Errors
    /// `Failed`, when there is no rollback point; `Refused`, when others have written since and
    /// `discard_writes` is not set; `Locked`, when a migration is staged; `Interrupted`, when somebody
    /// writes at this very moment.
    ///
    /// # Crash
    /// The live table is the swapped one, or the one before it, whole.
    pub async fn rollback(&self, discard_writes: bool) -> Result<RolledBack> {
        let opener = self.opener();
        database::expect_table(&self.location).await?;
        self.refuse_staged(&opener).await?;
        let live = opener.live().await?;
        let (point, swapped) = self.last_point(&live).await?;
        let head = live.version_id();
        let others = history::others_since(&live, &point.id, swapped, head).await?;
        if !others.is_empty() && !discard_writes {
            return Err(self.refuse_writes(&live, swapped, &others).await?);
        }
        let operation = Operation::Restore { version: point.version };
        let outcome = exactly_next(&live, operation, properties(&point.id, Act::Rollback)).await?;
        let version = match outcome {
            Outcome::Landed(live) => live.version_id(),
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
        source::unpin(&live, &point.id).await?;
        Ok(RolledBack {
            table: self.location.table().to_owned(),
            id: point.id,
            restored: point.version,
            version,
            discarded_commits: others.len() as u64,
        })
    }

    /// Gives up the rollback point of the last swap, and reclaims what only that version used. With
    /// `history`, every untagged version before it goes too.
    ///
    /// # Errors
    /// `Failed`, when there is no rollback point; `Locked`, when a migration is staged.
    ///
    /// # Crash
    /// The newest version is not touched; what was not reclaimed is reclaimed by LanceDB's own cleanup.
    pub async fn finalize(&self, history: bool) -> Result<Finalized> {
        let opener = self.opener();
        database::expect_table(&self.location).await?;
        self.refuse_staged(&opener).await?;
        let live = opener.live().await?;
        let (point, _) = self.last_point(&live).await?;
        let versions = live.versions().await;
        let versions = versions.doing(|| "list the table's versions".to_owned())?;
        let older = versions
            .iter()
            .map(|version| version.version)
            .filter(|version| *version < point.version);
        let older: Vec<u64> = older.collect();
        source::unpin(&live, &point.id).await?;
        let mut gone = vec![point.version];
        if history {
            gone.extend(older.iter().copied());
        }
        let policy = CleanupPolicyBuilder::default().versions(gone);
        let policy = policy.doing(|| "plan the cleanup".to_owned())?;
        let policy = policy.error_if_tagged_old_versions(false).build();
        let stats = live.cleanup(policy).execute().await;
        let stats = stats.doing(|| format!("remove version {}", point.version))?;
        Ok(Finalized {
            table: self.location.table().to_owned(),
            id: point.id,
            version: point.version,
            files: stats.data_files_removed
                + stats.index_files_removed
                + stats.deletion_files_removed,
            bytes: stats.bytes_removed,
            older_versions: if history { 0 } else { older.len() as u64 },
        })
    }

    /// The rollback point of the last swap.
    pub(super) async fn last_point(&self, live: &Dataset) -> Result<(RollbackPoint, u64)> {
        let points = history::rollback_points(live).await?;
        let swapped = points.into_iter().rev().find_map(|point| {
            let swapped = point.swapped?;
            Some((point, swapped))
        });
        swapped.ok_or_else(|| {
            let table = self.location.table();
            Error::failed(format!("`{table}` has no rollback point"))
        })
    }

    async fn refuse_writes(&self, live: &Dataset, swapped: u64, others: &[Other]) -> Result<Error> {
        let then = table::source_fragments(&*table::at_version(live, swapped).await?).await?;
        let now = table::source_fragments(live).await?;
        let rows = |all: &[crate::chunk::SourceFragment],
                    not: &[crate::chunk::SourceFragment]|
         -> u64 {
            let known = |id: u64| not.iter().any(|fragment| fragment.id == id);
            all.iter().filter(|fragment| !known(fragment.id)).map(|fragment| fragment.rows).sum()
        };
        let written = rows(&now, &then);
        let before: u64 = then.iter().map(|fragment| fragment.rows).sum();
        let after: u64 = now.iter().map(|fragment| fragment.rows).sum();
        let (commits, table) = (commits_text(others), self.location.table());
        Ok(Error::refused(format!(
            "`{table}` was written to after the swap: {commits} would be lost, with {written} rows \
             written since (the table had {before} rows then, and has {after} now)"
        ))
        .with_advice(&format!("{} --discard-writes gives them up", self.command("rollback"))))
    }

    /// The staged migration, and the live table.
    pub(super) async fn staged(&self) -> Result<(Opener, Arc<Dataset>, Journal)> {
        let opener = self.opener();
        database::expect_table(&self.location).await?;
        let live = opener.live().await?;
        let journal = Journal::open(&opener).await?;
        let journal = journal.ok_or_else(|| {
            let table = self.location.table();
            Error::failed(format!("no migration of `{table}` is staged"))
        })?;
        Ok((opener, live, journal))
    }

    /// Fails when a run of the staged migration is alive.
    pub(super) fn expect_free(&self, journal: &Journal) -> Result<()> {
        let lease = journal.lease();
        if !lease.is_held(self.clock.now(), &super::host(), is_alive) {
            return Ok(());
        }
        let (host, pid, beat) = (&lease.host, lease.pid, lease.beat.format("%H:%M:%S"));
        let table = self.location.table();
        Err(Error::locked(format!(
            "a migration of `{table}` is running: process {pid} on {host}, last seen {beat} UTC"
        ))
        .with_advice("wait for it, or stop it first"))
    }

    /// Fails when a migration is staged.
    pub(super) async fn refuse_staged(&self, opener: &Opener) -> Result<()> {
        if opener.staging().await?.is_none() {
            return Ok(());
        }
        Err(self.describe_locked(opener, locked(opener)).await)
    }

    /// `error`, with what is staged and what to do.
    pub(super) async fn describe_locked(&self, opener: &Opener, error: Error) -> Error {
        let mut error = error;
        if let Ok(Some(journal)) = Journal::open(opener).await {
            let header = journal.header();
            let rows: u64 = journal.records().map(|record| record.rows).sum();
            let changes: Vec<_> = header.request.changes.iter().map(crate::Change::text).collect();
            let began = header.began.format("%Y-%m-%d %H:%M:%S");
            error = error.with_advice(&format!(
                "migration {}, begun {began} UTC: {}; {rows} of {} rows are staged",
                header.id,
                changes.join(", "),
                header.rows
            ));
        }
        error.with_advice(&self.next_steps())
    }

    /// `error`, with what is kept and what to do.
    pub(super) fn keep(&self, error: Error) -> Error {
        if matches!(error.kind(), Kind::Locked | Kind::OutcomeUnknown) {
            return error;
        }
        error.with_advice(&format!("the live table is as it was. {}", self.next_steps()))
    }

    pub(super) fn interrupted(&self) -> Error {
        note(&self.progress, "stopping");
        Error::interrupted("interrupted; what is staged is kept")
    }

    pub(super) fn lost_race(&self, pinned: u64, head: u64) -> Error {
        let table = self.location.table();
        Error::interrupted(format!(
            "`{table}` was written to while the migration ran: it is at version {head}, staged from \
             {pinned}. Not swapped, so that nothing of that is lost; `resume` stages what is new"
        ))
    }

    pub(super) fn unknown(&self, attempted: u64) -> Error {
        let table = self.location.table();
        let message = format!(
            "whether version {attempted} of `{table}` was committed is not known: the store gave no \
             answer. Nothing was deleted"
        );
        let advice = format!("when the store answers again, {} tells", self.command("status"));
        Error::new(Kind::OutcomeUnknown, message).with_advice(&advice)
    }

    fn next_steps(&self) -> String {
        let (resume, abort) = (self.command("resume"), self.command("abort"));
        format!("{resume} goes on, {abort} drops what is staged")
    }

    /// A command of relance's on this table, as it is typed.
    pub(super) fn command(&self, verb: &str) -> String {
        let (database, table) = (self.location.database(), self.location.table());
        let quote = if database.contains([' ', '\'', '&', '?', '*', '$']) { "'" } else { "" };
        format!("`relance {verb} {quote}{database}{quote} {table}`")
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

/// Makes a file and removes it: permissions alone do not tell of a read-only file system.
fn try_write(directory: &std::path::Path) -> std::io::Result<()> {
    let name = format!(".relance-probe-{}", uuid::Uuid::new_v4().simple());
    let file = directory.join(name);
    std::fs::File::create_new(&file)?;
    std::fs::remove_file(&file)
}

/// Whether the process `pid` of this machine is there. Where that cannot be told, it is taken for
/// alive: a lease that is not released then ends by hand.
fn is_alive(pid: u32) -> bool {
    if cfg!(target_os = "linux") {
        return pid != std::process::id()
            && std::path::Path::new("/proc").join(pid.to_string()).exists();
    }
    pid != std::process::id()
}
