//! Staged files that are byte for byte the same: where nothing is read, all files of so many rows are. The
//! first is encoded; the others are further names of it on a disk, and get its bytes elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lance_io::object_store::ObjectStore;
use lance_io::traits::Writer;
use lance_table::format::Fragment;
use object_store::path::Path;
use tokio::io::AsyncWriteExt;

use crate::budget::Throttle;
use crate::datafile;
use crate::error::{Context, Result};

/// Bytes of a file that is kept, at most: constants are encoded in a few hundred.
const BYTES_MAX: usize = 64 << 10;

/// Files that are kept, at most.
const COUNT_MAX: usize = 64;

/// The files that others are like, by their rows; shared by all workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Templates {
    by_rows: Arc<Mutex<HashMap<u64, Template>>>,
}

/// A file that others are like.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    fragment: Fragment,
    bytes: Bytes,
}

impl Templates {
    /// The file of so many `rows`, if there is one.
    pub(crate) fn of_rows(&self, rows: u64) -> Option<Template> {
        self.by_rows.lock().unwrap_or_else(PoisonError::into_inner).get(&rows).cloned()
    }

    /// Keeps the file of `fragment`, if it is a small one, for others of so many `rows`.
    ///
    /// # Errors
    /// `Failed`, when it cannot be read.
    pub(crate) async fn keep(
        &self,
        store: &ObjectStore,
        directory: &Path,
        rows: u64,
        fragment: &Fragment,
    ) -> Result<()> {
        let [file] = fragment.files.as_slice() else { return Ok(()) };
        let size = file.file_size_bytes.get().map_or(u64::MAX, u64::from);
        if usize::try_from(size).map_or(true, |size| size > BYTES_MAX) {
            return Ok(());
        }
        let bytes = datafile::read(store, &directory.clone().join(file.path.as_str())).await?;
        let template = Template { fragment: fragment.clone(), bytes };
        let mut by_rows = self.by_rows.lock().unwrap_or_else(PoisonError::into_inner);
        if by_rows.len() >= COUNT_MAX {
            by_rows.clear();
        }
        by_rows.insert(rows, template);
        Ok(())
    }
}

impl Template {
    /// Makes a new file of the migration `id` with the same bytes. On a disk it is another name for the same
    /// ones, since nobody ever writes into a data file; where a disk cannot do that, they are written.
    ///
    /// # Errors
    /// `Failed`, when it cannot be written; nothing is left of it then.
    ///
    /// # Crash
    /// A file that no journal names is left in `directory`; its name tells whose it is.
    pub(crate) async fn write(
        &self,
        store: &ObjectStore,
        directory: &Path,
        id: &str,
        throttle: &Arc<Throttle>,
    ) -> Result<Fragment> {
        let name = datafile::new_name(id);
        let path = directory.clone().join(name.as_str());
        let first =
            self.fragment.files.first().map(|file| directory.clone().join(file.path.as_str()));
        if !first.is_some_and(|first| datafile::link(store, &first, &path)) {
            let mut writer = datafile::create(store, &path, throttle).await?;
            writer.write_all(&self.bytes).await.doing(|| format!("write {name}"))?;
            // The trait's own: the other one leaves the file unfinished.
            Writer::shutdown(writer.as_mut()).await.doing(|| format!("finish {name}"))?;
        }
        let mut fragment = self.fragment.clone();
        for file in &mut fragment.files {
            file.path.clone_from(&name);
        }
        Ok(fragment)
    }
}
