//! Unfinished uploads of runs that died. The store bills for them until somebody gives them up.

use std::sync::atomic::Ordering;

use lance::Dataset;
use object_store::path::Path;

use crate::error::{Doing as _, Result};
use crate::plan::amounts::counted;
use crate::run::context::Context;
use crate::storage::names;
use crate::storage::uploads::{Upload, Uploads};
use crate::table::open::Opener;

/// The uploads that were unfinished when somebody looked: none of whoever begins one later is among them.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    uploads: Option<Uploads>,
    found: Vec<Upload>,
    /// The folders of tables that are relance's own: that of staging, and that of what is put into quarantine.
    own: [Path; 2],
}

impl Unfinished {
    /// Looks for those below `live`, its staging table and its quarantine. That the store does not tell them is no error: it is noted, and
    /// none counts as found.
    pub(crate) async fn uploads_now(ctx: &Context, opener: &Opener, live: &Dataset) -> Self {
        if ctx.location.directory().is_some() {
            return Self::default();
        }
        match Self::listed_now(ctx, opener, &live.branch_location().path).await {
            Ok(found) => found,
            Err(error) => {
                let why = error.report(&ctx.location.secrets()).replace('\n', " ");
                ctx.say(format!("unfinished uploads are not looked for: {why}"));
                ctx.store.keeps_uploads.store(true, Ordering::Relaxed);
                Self::default()
            }
        }
    }

    async fn listed_now(ctx: &Context, opener: &Opener, table: &Path) -> Result<Self> {
        let (_, staging) = opener.staging_place().await?;
        let uploads = Uploads::of(&ctx.location.uri(), opener.params(), ctx.watch()).await;
        let uploads = uploads.doing(|| format!("open the bucket of {}", ctx.location.uri()))?;
        let Some(uploads) = uploads else { return Ok(Self::default()) };
        let (_, aside) = opener.store_at(&ctx.location.put_aside()?.uri()).await?;
        let own = [staging, aside];
        let [staged, put_aside] = &own;
        let listing = async {
            tokio::try_join!(uploads.below(table), uploads.below(staged), uploads.below(put_aside))
        };
        let listed = listing.await;
        let (mut found, staged, put_aside) = listed
            .doing(|| format!("list the unfinished uploads below {}", ctx.location.database()))?;
        found.extend(staged.into_iter().chain(put_aside));
        Ok(Self { uploads: Some(uploads), found, own })
    }

    /// Gives up those of the staging table and of the migrations `ids`, whose runs are dead or were taken over. One that
    /// cannot be given up is told.
    pub(crate) async fn give_up<'a>(
        self,
        ctx: &Context,
        ids: impl Iterator<Item = &'a str> + Clone,
    ) {
        let Some(uploads) = self.uploads else { return };
        let is_ours = |path: &Path| {
            self.own.iter().any(|own| path.prefix_matches(own))
                || ids.clone().any(|id| names::is_of(path, id))
        };
        let mut ended = 0;
        for upload in self.found.iter().filter(|upload| is_ours(&upload.path)) {
            match uploads.give_up(upload).await {
                Ok(()) => ended += 1,
                Err(error) => {
                    // The others would take as long.
                    ctx.say(format!("an unfinished upload of {} is left: {error}", upload.path));
                    ctx.store.keeps_uploads.store(true, Ordering::Relaxed);
                    break;
                }
            }
        }
        if ended > 0 {
            let count = counted(ended, "unfinished upload");
            ctx.say(format!("gave up {count} that nobody ends"));
        }
    }
}
