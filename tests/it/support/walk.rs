//! Walks a table's folder: every file in it must be named by some version of the table.

use std::collections::HashSet;

use lance::Dataset;
use lance::index::DatasetIndexExt;

use crate::support::Db;

/// The files below the folder of `name` that no version of the table names.
pub async fn unreferenced(db: &Db, name: &str) -> Vec<String> {
    let live = db.open(name).await;
    let named = named(&live).await;
    let root = format!("{}/", db.table(name).display());
    let files =
        db.files().into_iter().filter_map(|(file, _)| Some(file.strip_prefix(&root)?.to_owned()));
    // What Lance was writing under a temporary name when its process was killed tells nobody whose it is.
    files.filter(|file| !file.contains("/.tmp") && !is_named(file, &named)).collect()
}

async fn named(live: &Dataset) -> HashSet<String> {
    let mut named = HashSet::new();
    for version in live.versions().await.unwrap() {
        let version = live.checkout_version(version.version).await.unwrap();
        for fragment in version.fragments().iter() {
            named.extend(fragment.files.iter().map(|file| format!("data/{}", file.path)));
            named.extend(fragment.deletion_file.as_ref().map(|file| {
                lance_table::io::deletion::relative_deletion_file_path(fragment.id, file)
            }));
        }
        let transaction = version.manifest().transaction_file.clone();
        named.extend(transaction.map(|file| format!("_transactions/{file}")));
        for index in version.load_indices().await.unwrap().iter() {
            named.insert(format!("_indices/{}", index.uuid));
        }
        let location = version.manifest_location().path.filename().unwrap().to_owned();
        named.insert(format!("_versions/{location}"));
    }
    named.insert("_versions/latest_version_hint.json".to_owned());
    named
}

fn is_named(file: &str, named: &HashSet<String>) -> bool {
    let mut parts = file.split('/');
    match (parts.next(), parts.next()) {
        (Some("_indices"), Some(uuid)) => named.contains(&format!("_indices/{uuid}")),
        (Some("_refs"), _) => true,
        // A blob's own file lies in a folder that is called as its data file.
        (Some("data"), Some(stem)) if file.contains(".blob") => {
            named.contains(&format!("data/{stem}.lance"))
        }
        _ => named.contains(file),
    }
}
