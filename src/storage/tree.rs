//! The files in a table's folder, and removing them. A link is never followed: what it leads to is somebody
//! else's, wherever it is.

use object_store::{ObjectMeta, path::Path};

use crate::error::{Error, Result};
use crate::storage::files::{DataFiles, Tree};

/// Every file below `root` that a table has there.
///
/// # Errors
/// `Failed`, when it cannot be listed.
pub(crate) async fn list_table(files: &dyn DataFiles, root: &Path) -> Result<Vec<ObjectMeta>> {
    let mut listed = files.list_below(root).await?;
    listed.retain(|file| is_of_a_table(&below(root, &file.location)));
    Ok(listed)
}

/// Removes the files of the table at `root`, but for the one at `last`, if one is to stay, and gives the
/// names of what is left alone below it: links, and what no table has. Of links, only those go that stand
/// in the place of a manifest, since Lance would read them as a version; what they lead to stays.
///
/// # Errors
/// `Refused`, when `last` is behind a link; `Failed`, when a file is there and cannot be removed.
///
/// # Crash
/// Calling it again removes the rest.
pub(crate) async fn clear_table(
    files: &dyn DataFiles,
    root: &Path,
    last: Option<&Path>,
) -> Result<Vec<String>> {
    clear_tree(files, root, files.tree(root).await?, last).await
}

/// The same, where what is below `root` was listed already: `tree`.
///
/// # Errors
/// As [`clear_table`].
///
/// # Crash
/// As [`clear_table`].
pub(crate) async fn clear_tree(
    files: &dyn DataFiles,
    root: &Path,
    tree: Tree,
    last: Option<&Path>,
) -> Result<Vec<String>> {
    let is_last = |file: &ObjectMeta| last == Some(&file.location);
    let is_seen = |last| tree.links.contains(last) || tree.files.iter().any(is_last);
    if let Some(last) = last.filter(|last| !tree.links.is_empty() && !is_seen(last)) {
        let message = format!("{last} is behind a link, which relance does not follow");
        return Err(Error::refused(message).with_advice("put what it leads to in its place"));
    }
    let links = tree.links.iter().map(|link| (link, true));
    let all = links.chain(tree.files.iter().map(|file| (&file.location, false)));
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    for (location, is_link) in all.filter(|(location, _)| last != Some(*location)) {
        let name = below(root, location);
        let goes = if is_link { is_manifest(&name) } else { is_of_a_table(&name) };
        if goes {
            gone.push(location.clone());
        } else {
            left.push(name);
        }
    }
    files.remove_all(gone).await?;
    left.sort();
    Ok(left)
}

/// The name of `location`, as it is seen from `root`.
fn below(root: &Path, location: &Path) -> String {
    let name = location.as_ref().strip_prefix(root.as_ref()).unwrap_or(location.as_ref());
    name.trim_start_matches('/').to_owned()
}

/// Whether `name` is that of a version of a Lance table.
fn is_manifest(name: &str) -> bool {
    let name = name.strip_prefix("_versions/").unwrap_or_default();
    name.contains(".manifest") && !name.contains('/')
}

/// Whether `name` is that of a file in a Lance table's folder, or of one that was not written to its end.
fn is_of_a_table(name: &str) -> bool {
    let Some((folder, name)) = name.split_once('/') else { return false };
    let file = name.rsplit('/').next().unwrap_or(name);
    let flat = |marks: &[&str]| file == name && marks.iter().any(|mark| name.contains(mark));
    match folder {
        "_versions" => flat(&[".manifest", "latest_version_hint", ".tmp"]),
        "_transactions" => flat(&[".txn", ".tmp"]),
        "_deletions" => flat(&[".arrow", ".bin", ".tmp"]),
        // `_relance`: the beats of a staging table's runs.
        "_indices" | "_refs" | "_relance" => true,
        "data" => [".lance", ".blob", ".tmp"].iter().any(|mark| file.contains(mark)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;

    use lance_io::object_store::ObjectStore;

    use super::*;
    use crate::storage::files;

    #[test]
    fn only_a_tables_own_files_are_of_it() {
        for name in [
            "_versions/18446744073709551614.manifest",
            "_versions/1.manifest#1",
            "_versions/latest_version_hint.json",
            "_transactions/1-0123.txn",
            "_deletions/0-1-7.bin",
            "_deletions/.tmpAbC",
            "_refs/tags/a.json",
        ] {
            assert!(is_of_a_table(name), "{name}");
        }
        for name in ["notes.txt", "_versions/notes.txt", "_versions/a/1.manifest", "mine/1.txn"] {
            assert!(!is_of_a_table(name), "{name}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn links_are_not_followed() {
        let root = std::env::temp_dir().join(format!("relance-tree-{}", uuid::Uuid::new_v4()));
        let (table, outside) = (root.join("t.lance"), root.join("outside"));
        std::fs::create_dir_all(table.join("_versions/empty")).unwrap();
        std::fs::create_dir_all(outside.join("empty")).unwrap();
        for file in ["t.lance/_versions/1.manifest", "t.lance/_versions/2.manifest"] {
            std::fs::write(root.join(file), b"ours").unwrap();
        }
        std::fs::write(outside.join("3.manifest"), b"theirs").unwrap();
        std::os::unix::fs::symlink(&outside, table.join("_versions/x")).unwrap();
        std::os::unix::fs::symlink("..", table.join("loop")).unwrap();
        let theirs = outside.join("3.manifest");
        std::os::unix::fs::symlink(theirs, table.join("_versions/3.manifest")).unwrap();
        std::fs::write(table.join("notes.txt"), b"theirs").unwrap();
        let files = files::of(&ObjectStore::local());
        let at = |path: &FilePath| Path::from_absolute_path(path).unwrap();
        let last = at(&table.join("_versions/2.manifest"));
        let left = clear_table(files.as_ref(), &at(&table), Some(&last)).await.unwrap();
        assert_eq!(left, ["_versions/x", "loop", "notes.txt"]);
        files.remove(&last).await.unwrap();
        files.remove_empty(&at(&table));
        files.remove_empty(&at(&table.join("_versions/x")));
        assert!(!table.join("_versions/3.manifest").is_symlink());
        assert!(outside.join("empty").is_dir() && outside.join("3.manifest").is_file());
        assert!(!table.join("_versions/1.manifest").exists());
        assert!(!table.join("_versions/empty").exists());
        assert!(files.list_below(&at(&root.join("nowhere"))).await.unwrap().is_empty());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
