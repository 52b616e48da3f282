//! Imports and calls go one way: a layer uses only those above it in the list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The layers, the lowest first. A module uses those of the layers before its own, and those that stand
/// before it in its own. What is not named is the layer below them all: small nouns, each a file of its own.
const LAYERS: [&[&str]; 6] = [
    &["schema", "transform", "plan"],
    &["storage"],
    &["table"],
    &["supply"],
    &["journal", "stage", "verify"],
    &["run"],
];

/// Folders whose files call each other in no circle.
const FOLDERS_WITHOUT_CIRCLES: &[&str] = &["run", "table", "supply", "journal", "stage", "verify"];

#[test]
fn imports_go_one_way() {
    let places: Vec<&str> = LAYERS.into_iter().flatten().copied().collect();
    let place = |module: &str| places.iter().position(|known| *known == module);
    let mut wrong = Vec::new();
    for Source { module, file, text } in sources() {
        for used in used_modules(&text) {
            if used != module && place(&used) > place(&module) {
                wrong.push(format!("{file}: {module} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn small_nouns_are_used_in_no_circle() {
    let named: BTreeSet<&str> = LAYERS.into_iter().flatten().copied().collect();
    let mut nouns: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Source { module, text, .. } in sources() {
        if !named.contains(module.as_str()) {
            let mut used = used_modules(code_of(&text));
            used.remove(&module);
            nouns.insert(module, used);
        }
    }
    assert_eq!(circles(&nouns), Vec::<BTreeSet<String>>::new());
}

#[test]
fn calls_go_one_way() {
    for folder in FOLDERS_WITHOUT_CIRCLES {
        let files = sources().into_iter().filter(|source| source.module == *folder);
        let files: BTreeMap<String, String> =
            files.map(|source| (source.file, code_of(&source.text).to_owned())).collect();
        assert!(files.len() > 1, "{folder} was not found");
        assert_eq!(circles(&calls(&files)), Vec::<BTreeSet<String>>::new(), "in {folder}");
    }
}

#[test]
fn the_pure_layers_never_touch_a_dataset_or_async() {
    for Source { module, file, text } in sources() {
        if !LAYERS[0].contains(&module.as_str()) {
            continue;
        }
        // Where rayon meets async.
        let meets = file.ends_with("pool.rs");
        let code = code_of(&text);
        assert!(!code.contains("lance::"), "{file} uses lance::");
        assert!(meets || !code.contains("async "), "{file} is async");
    }
}

/// The library builds without the feature `cli`, so nothing else in it may name the command's packages.
#[test]
fn only_the_command_uses_its_packages() {
    for Source { file, text, .. } in sources() {
        for package in [
            "clap",
            "clap_complete",
            "clap_mangen",
            "indicatif",
            "mimalloc",
            "plotters",
            "tracing_chrome",
            "tracing_subscriber",
        ] {
            assert!(!text.contains(&format!("{package}::")), "{file} uses {package}");
        }
    }
}

#[test]
fn only_the_command_prints() {
    for Source { file, text, .. } in sources() {
        assert!(!text.contains("println!"), "{file} prints");
    }
}

/// Whether a path is one of a disk is asked in one place.
#[test]
fn only_the_storage_knows_of_disks() {
    for Source { file, text, .. } in sources() {
        let asks = ["has_direct_local_paths", "to_local_path"];
        let asks = asks.iter().any(|name| code_of(&text).contains(name));
        let may = ["storage/disk.rs", "storage/object.rs"].contains(&file.as_str());
        assert!(!asks || may, "{file} asks whether a path is local");
    }
}

#[test]
fn what_calls_each_other_in_a_circle_is_found() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let files = [
        file("a.rs", "fn alpha() { beta(1) }"),
        file("b.rs", "fn beta(n: u8) { self.gamma() } fn common() {}"),
        file("c.rs", "fn gamma() { alpha() } fn common() {}"),
        file("d.rs", "fn delta() { alpha(); common() }"),
    ];
    let circle = ["a.rs", "b.rs", "c.rs"].map(str::to_owned).into_iter().collect();
    assert_eq!(circles(&calls(&files.into_iter().collect())), vec![circle]);
}

/// A file of the library.
struct Source {
    /// Its top module.
    module: String,
    /// Its path below `src`.
    file: String,
    text: String,
}

/// Every file of the library but for its front pages and the command.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let module = file.split(['/', '.']).next().unwrap().to_owned();
        if matches!(module.as_str(), "lib" | "main" | "allocator" | "cli" | "guide" | "python") {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(Source { module, file, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

/// What is not a unit test.
fn code_of(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

/// The modules that `use crate::` names, and those named in full.
fn used_modules(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            let inner = list.split('}').next().unwrap();
            used.extend(inner.split(',').map(|item| first_word(item.trim())));
        } else {
            used.insert(first_word(rest));
        }
    }
    used
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Which file calls which, by the names of functions that one file alone defines.
fn calls(files: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut defined: BTreeMap<String, BTreeSet<&String>> = BTreeMap::new();
    for (file, text) in files {
        for rest in text.split("fn ").skip(1) {
            defined.entry(first_word(rest)).or_default().insert(file);
        }
    }
    let mut calls: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in files {
        let own = calls.entry(file.clone()).or_default();
        for name in called(text) {
            // Every type may have one.
            let is_known = name != "default";
            if let Some(others) = defined.get(&name)
                && is_known
                && others.len() == 1
                && !others.contains(file)
            {
                own.extend(others.iter().map(|other| (*other).clone()));
            }
        }
    }
    calls
}

/// The names before an opening bracket.
fn called(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices('(') {
        let name = text[..at].chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_');
        names.insert(name.collect::<Vec<_>>().into_iter().rev().collect());
    }
    names
}

/// The sets of those who reach each other.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reached = |start: &String| {
        let mut seen = BTreeSet::new();
        let mut todo = vec![start.clone()];
        while let Some(next) = todo.pop() {
            for used in uses.get(&next).into_iter().flatten() {
                if seen.insert(used.clone()) {
                    todo.push(used.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        uses.keys().map(|one| (one, reached(one))).collect();
    let circle = |one: &String| {
        let others = reached[one].iter();
        let back = others.filter(|other| reached.get(*other).is_some_and(|all| all.contains(one)));
        back.cloned().collect::<BTreeSet<_>>()
    };
    let all: BTreeSet<BTreeSet<String>> = uses.keys().map(circle).collect();
    all.into_iter().filter(|circle| !circle.is_empty()).collect()
}
