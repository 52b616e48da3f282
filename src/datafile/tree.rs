//! What lies below a folder, and removing it. A link is never followed: what it leads to is somebody
//! else's, wherever it is.

use std::io;
use std::path::{Path as FilePath, PathBuf};

use futures::TryStreamExt;
use lance_io::local::to_local_path;
use lance_io::object_store::ObjectStore;
use object_store::ObjectMeta;
use object_store::path::Path;

use crate::datafile::{meta_of, names_in, remove};
use crate::error::{Context, Error, Result};

/// What lies below a folder.
#[derive(Debug, Default)]
struct Tree {
    files: Vec<ObjectMeta>,
    /// Links, which only a disk has.
    links: Vec<Path>,
}

/// Every file below `root`, however deep; none, when it is not there.
///
/// # Errors
/// `Failed`, when it cannot be listed.
pub(crate) async fn list_below(store: &ObjectStore, root: &Path) -> Result<Vec<ObjectMeta>> {
    Ok(tree(store, root).await?.files)
}

/// Every file below `root` that a table has there.
///
/// # Errors
/// `Failed`, when it cannot be listed.
pub(crate) async fn list_table(store: &ObjectStore, root: &Path) -> Result<Vec<ObjectMeta>> {
    let mut files = list_below(store, root).await?;
    files.retain(|file| is_of_a_table(&below(root, &file.location)));
    Ok(files)
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
    store: &ObjectStore,
    root: &Path,
    last: Option<&Path>,
) -> Result<Vec<String>> {
    let Tree { files, links } = tree(store, root).await?;
    let is_last = |file: &ObjectMeta| last == Some(&file.location);
    let is_seen = |last: &Path| links.contains(last) || files.iter().any(is_last);
    if let Some(last) = last.filter(|last| !links.is_empty() && !is_seen(last)) {
        let message = format!("{last} is behind a link, which relance does not follow");
        return Err(Error::refused(message).with_advice("put what it leads to in its place"));
    }
    let mut left = Vec::new();
    for link in links.iter().filter(|link| last != Some(*link)) {
        let name = below(root, link);
        if is_manifest(&name) {
            remove(store, link).await?;
        } else {
            left.push(name);
        }
    }
    for file in files.iter().filter(|file| !is_last(file)) {
        let name = below(root, &file.location);
        if is_of_a_table(&name) {
            remove(store, &file.location).await?;
        } else {
            left.push(name);
        }
    }
    left.sort();
    Ok(left)
}

/// Removes the directories below `root`, and it, as far as they are empty. Only a disk has any; what is
/// left does no harm, and what somebody makes there meanwhile stays.
pub(crate) fn remove_empty(store: &ObjectStore, root: &Path) {
    fn remove(directory: &FilePath) {
        if !is_directory(directory) {
            return;
        }
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            remove(&entry.path());
        }
        // Fails when it is not empty, which is the point.
        let _ = std::fs::remove_dir(directory);
    }
    if store.has_direct_local_paths() {
        remove(&PathBuf::from(to_local_path(root)));
    }
}

/// Whether there is a folder at `root`, which only a disk has, and it is no link.
pub(crate) fn is_folder(store: &ObjectStore, root: &Path) -> bool {
    store.has_direct_local_paths() && is_directory(&PathBuf::from(to_local_path(root)))
}

/// Whether `path` is a directory, and not a link to one.
pub(super) fn is_directory(path: &FilePath) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Whether a link stands at `path`, which only a disk can have.
pub(crate) fn is_link(store: &ObjectStore, path: &Path) -> bool {
    let is_disk = store.has_direct_local_paths() || store.scheme() == "file-object-store";
    let meta = || std::fs::symlink_metadata(to_local_path(path));
    is_disk && meta().is_ok_and(|meta| meta.is_symlink())
}

/// The names of what is in `directory`, but for what lies deeper.
///
/// # Errors
/// `Failed`, when it cannot be listed.
pub(crate) async fn names(store: &ObjectStore, directory: &Path) -> Result<Vec<String>> {
    let doing = || format!("list {directory}");
    if store.has_direct_local_paths() {
        let names = names_in(directory).doing(doing)?;
        return Ok(names.into_iter().map(|(name, _)| name).collect());
    }
    store.read_dir(directory.clone()).await.doing(doing)
}

/// Whether no link is on the way from `root` to `location`. Lance's store for tests of stores lists a disk
/// as a store does, and follows links.
pub(super) fn is_without_links(store: &ObjectStore, root: &Path, location: &Path) -> bool {
    if store.scheme() != "file-object-store" {
        return true;
    }
    let mut path = PathBuf::from(to_local_path(root));
    location.prefix_match(root).into_iter().flatten().all(|part| {
        path.push(part.as_ref());
        std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_symlink())
    })
}

async fn tree(store: &ObjectStore, root: &Path) -> Result<Tree> {
    let doing = || format!("list {root}");
    let mut tree = Tree::default();
    if store.has_direct_local_paths() {
        grow(&mut tree, root).doing(doing)?;
        return Ok(tree);
    }
    let listed = store.list(Some(root.clone()));
    let listed =
        listed.try_filter(|meta| std::future::ready(is_without_links(store, root, &meta.location)));
    tree.files = match listed.try_collect().await {
        Err(error) if lance::Error::is_not_found(&error) => Vec::new(),
        listed => listed.doing(doing)?,
    };
    Ok(tree)
}

fn grow(tree: &mut Tree, directory: &Path) -> io::Result<()> {
    for (name, path) in names_in(directory)? {
        let Ok(location) = Path::parse(format!("{directory}/{name}")) else { continue };
        let kind = match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?.file_type(),
        };
        if kind.is_symlink() {
            tree.links.push(location);
        } else if kind.is_dir() {
            grow(tree, &location)?;
        } else {
            tree.files.extend(meta_of(location, &path)?);
        }
    }
    Ok(())
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
    use super::*;

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
        let file = outside.join("3.manifest");
        std::os::unix::fs::symlink(file, table.join("_versions/3.manifest")).unwrap();
        std::fs::write(table.join("notes.txt"), b"theirs").unwrap();
        let store = ObjectStore::local();
        let at = |path: &FilePath| Path::from_absolute_path(path).unwrap();
        let last = at(&table.join("_versions/2.manifest"));
        let left = clear_table(&store, &at(&table), Some(&last)).await.unwrap();
        assert_eq!(left, ["_versions/x", "loop", "notes.txt"]);
        remove(&store, &last).await.unwrap();
        remove_empty(&store, &at(&table));
        remove_empty(&store, &at(&table.join("_versions/x")));
        assert!(!table.join("_versions/3.manifest").is_symlink());
        assert!(outside.join("empty").is_dir() && outside.join("3.manifest").is_file());
        assert!(!table.join("_versions/1.manifest").exists());
        assert!(!table.join("_versions/empty").exists());
        assert!(list_below(&store, &at(&root.join("nowhere"))).await.unwrap().is_empty());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
