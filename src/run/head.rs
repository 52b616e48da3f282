//! Following the live table: whether others have written, and what moves with its newest version.

use std::sync::Arc;

use lance::Dataset;

use crate::error::{Error, Kind, Result};
use crate::journal::Journal;
use crate::retry::{is_of_gone, retrying};
use crate::run::{context::Context, planning::plan_staged, session::Session};
use crate::table::history::{self, RollbackPoint};
use crate::table::{open::Opener, open::newest, tag};

/// A version that others have made, and the pin as it stood.
pub(crate) struct News {
    live: Arc<Dataset>,
    pin: Option<tag::Seen>,
}

impl Session {
    /// The newest version of the table, if others have written since; looks at the same time how the pin stands, and then
    /// whether the journal is still this run's own. Where there is nothing new, whatever comes next looks at the journal.
    ///
    /// # Errors
    /// `Locked`, when another run took over; `Failed`, when it cannot be read.
    pub(crate) async fn news(&mut self, ctx: &Context) -> Result<Option<News>> {
        self.pinned().await?;
        self.look(ctx).await
    }

    /// The newest version, after the `error` that something of the source is gone: others have compacted the table, and
    /// cleaned it up before the source was pinned.
    ///
    /// # Errors
    /// `error`, where it says anything else, or the source is the newest version; those of [`news`](Self::news).
    pub(crate) async fn news_after(&mut self, ctx: &Context, error: Error) -> Result<News> {
        if error.kind() != Kind::Failed || !is_of_gone(&error) {
            return Err(error);
        }
        // What is gone cannot be pinned either.
        let _ = self.pinned().await;
        let news = self.look(ctx).await?.ok_or(error)?;
        ctx.say(format!("version {} was cleaned away by others", self.source.version_id()));
        Ok(news)
    }

    async fn look(&mut self, ctx: &Context) -> Result<Option<News>> {
        let (source, id) = (Arc::clone(&self.source), self.journal.header().id.clone());
        let look = || newest(&source);
        let look = retrying(&ctx.progress, &ctx.cancel, "looking at the table", look);
        let see = || tag::see_pin(&source, &id);
        let see = retrying(&ctx.progress, &ctx.cancel, "looking at the pin", see);
        let (live, pin) = tokio::try_join!(look, see)?;
        if live.version_id() == source.version_id() {
            return Ok(None);
        }
        // In this order: a run that takes over writes the journal first, and the pin then.
        self.journal.expect_own().await?;
        Ok(Some(News { live, pin }))
    }

    /// Moves source, plan and journal to the [news](Self::news): what others left alone stays staged. The pin is on its way
    /// then: a swap waits for it.
    ///
    /// # Errors
    /// `Refused`, when others changed the schema.
    pub(crate) async fn move_to(&mut self, ctx: &Context, news: News) -> Result<()> {
        let News { live, pin } = news;
        let (from, version) = (self.source.version_id(), live.version_id());
        let id = self.journal.header().id.clone();
        let (to, progress, cancel) =
            (Arc::clone(&live), Arc::clone(&ctx.progress), ctx.cancel.clone());
        self.pinning.spawn(async move {
            let moving = || tag::move_pin(&to, &id, pin.clone());
            retrying(&progress, &cancel, "pinning the source", moving).await
        });
        let plan = plan_staged(ctx, &live, &self.journal).await?;
        // What the table had already was looked at when the migration began.
        let before = std::mem::replace(&mut self.plan, plan);
        self.plan.skipped_values = before.skipped_values;
        self.plan.target.skipped = before.target.skipped;
        self.source = live;
        ctx.say(format!("the table moved from version {from} to {version}"));
        self.journal.move_to(self.source.version_id(), &self.plan.chunks);
        if let Some(supply) = &self.supply {
            supply.expect_fragments(&self.plan.chunks);
        }
        Ok(())
    }

    /// Waits until the source is pinned.
    ///
    /// # Errors
    /// `Failed`, when the tag could not be written.
    pub(crate) async fn pinned(&mut self) -> Result<()> {
        while let Some(moved) = self.pinning.join_next().await {
            match moved {
                Ok(moved) => moved?,
                Err(died) => {
                    let error = Error::failed("pinning the source died; this is a bug in relance");
                    return Err(error.caused_by(died));
                }
            }
        }
        Ok(())
    }

    /// Whether the live table has moved on from the version that is staged.
    pub(crate) async fn lags(&self, ctx: &Context) -> Result<bool> {
        lags(ctx, &self.source).await
    }
}

/// Times that what was cleaned away is looked for again in a newer version.
const GONE_TRIES: u32 = 5;

/// Does `act`, which begins with the newest version and writes nothing; again, where others have compacted and cleaned up what
/// it reads meanwhile. Where the newest version stays the same, something is missing in it, and it is not read again and again.
///
/// # Errors
/// Those of `act`; of looking which version is the newest.
pub(crate) async fn on_what_is_there<T, A: Future<Output = Result<T>>>(
    ctx: &Context,
    opener: &Opener,
    mut act: impl FnMut() -> A,
) -> Result<T> {
    let mut newest = None;
    for _ in 1..GONE_TRIES {
        match act().await {
            Err(error) if error.kind() == Kind::Failed && is_of_gone(&error) => {
                let found = opener.found().await?.map(|live| live.version_id());
                if found == newest {
                    return Err(error);
                }
                newest = found;
                ctx.say("others have cleaned away what was read; the newest version is looked at");
            }
            done => return done,
        }
    }
    act().await
}

/// Whether `error` is of something that is gone, and the table is too: others have dropped it.
pub(crate) async fn is_dropped(ctx: &Context, error: &Error) -> bool {
    is_of_gone(error) && matches!(ctx.opener().found().await, Ok(None))
}

/// Whether the live table has moved on from `source`.
///
/// # Errors
/// `Failed`, when it cannot be looked at.
pub(crate) async fn lags(ctx: &Context, source: &Dataset) -> Result<bool> {
    let looking = || history::head(source);
    let head = retrying(&ctx.progress, &ctx.cancel, "looking at the table", looking).await?;
    Ok(head != source.version_id())
}

/// Moves the pin of a migration that was taken over to the version of `live`.
///
/// # Errors
/// `Interrupted`, when the swap has landed; `Failed`, when the tag cannot be written.
pub(crate) async fn pin_head(ctx: &Context, live: &Dataset, journal: &Journal) -> Result<()> {
    let id = &journal.header().id;
    let head = live.version_id();
    match history::rollback_point(live, id).await? {
        Some(RollbackPoint { swapped: Some(version), .. }) => {
            return Err(Error::interrupted(format!(
                "the swap of this migration has landed as version {version}; `resume` tidies up"
            )));
        }
        Some(point) => {
            let moving = || tag::write_pin(live, id);
            retrying(&ctx.progress, &ctx.cancel, "pinning the source", moving).await?;
            if point.version != head {
                ctx.say(format!("the table moved from version {} to {head}", point.version));
            }
        }
        None => tag::pin(live, id, head).await?,
    }
    Ok(())
}
