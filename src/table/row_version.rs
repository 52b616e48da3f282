//! What a table with stable row ids keeps of its rows: the version that each appeared in, and the one that last changed it.

use lance_table::{format::Fragment, rowids::version::RowDatasetVersionMeta};

use crate::error::{Doing, Result};

/// `fragments` with `version` in place of every later one; `None`, where there is none. Lance stamps rows with the
/// number of the version that it writes, and one that is only prepared has a number that nobody sees.
///
/// # Errors
/// `Failed`, when what a fragment keeps cannot be read.
pub(crate) fn restamped(fragments: &[Fragment], version: u64) -> Result<Option<Vec<Fragment>>> {
    let mut changed = false;
    let mut all = fragments.to_vec();
    for fragment in &mut all {
        let (last, first) =
            (&mut fragment.last_updated_at_version_meta, &mut fragment.created_at_version_meta);
        for meta in [last, first].into_iter().flatten() {
            if let Some(earlier) = at_most(meta, version)? {
                *meta = earlier;
                changed = true;
            }
        }
    }
    Ok(changed.then_some(all))
}

/// `meta` with `version` in place of every later one; `None`, where there is none, and where the versions lie in a
/// data file: that was there before.
fn at_most(meta: &RowDatasetVersionMeta, version: u64) -> Result<Option<RowDatasetVersionMeta>> {
    if *meta == RowDatasetVersionMeta::Column {
        return Ok(None);
    }
    let read = || "read the versions of a fragment's rows".to_owned();
    let mut sequence = meta.load_sequence().doing(read)?;
    let later = sequence.runs.iter_mut().filter(|run| run.version > version);
    if later.map(|run| run.version = version).count() == 0 {
        return Ok(None);
    }
    RowDatasetVersionMeta::from_sequence(&sequence).doing(read).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_table::rowids::version::RowDatasetVersionSequence;

    #[test]
    fn only_later_versions_are_changed() {
        let meta = |versions: &[u64]| {
            let sequence = RowDatasetVersionSequence::from_versions(versions);
            Some(RowDatasetVersionMeta::from_sequence(&sequence).unwrap())
        };
        let detached = (1 << 63) + 7;
        let mut fragment = Fragment::new(0);
        assert_eq!(restamped(&[fragment.clone()], 4).unwrap(), None);
        fragment.created_at_version_meta = meta(&[1, 1, 3]);
        fragment.last_updated_at_version_meta = meta(&[2, 4, detached]);
        assert_eq!(restamped(&[fragment.clone()], detached).unwrap(), None);
        let after = restamped(&[fragment.clone()], 4).unwrap().unwrap();
        assert_eq!(after[0].created_at_version_meta, fragment.created_at_version_meta);
        let last = after[0].last_updated_at_version_meta.as_ref().unwrap();
        let versions: Vec<u64> = last.load_sequence().unwrap().versions().collect();
        assert_eq!(versions, [2, 4, 4]);
        fragment.last_updated_at_version_meta = Some(RowDatasetVersionMeta::Column);
        assert_eq!(restamped(&[fragment], 4).unwrap(), None);
    }
}
