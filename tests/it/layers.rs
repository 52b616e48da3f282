//! Imports go one way: a layer uses only those below it.

use std::collections::BTreeMap;
use std::path::Path;

/// Each module's layer. A new file stops here until it has one.
const LAYERS: &[(&str, u8)] = &[
    ("escape", 0),
    ("error", 0),
    ("clock", 0),
    ("phase", 0),
    ("chunk", 0),
    ("cancel", 0),
    ("process", 0),
    ("span", 0),
    ("secret", 0),
    ("storage_version", 0),
    ("location", 1),
    ("settings", 1),
    ("schema", 1),
    ("progress", 1),
    ("budget", 1),
    ("transform", 2),
    ("plan", 2),
    ("commit", 3),
    ("guard", 3),
    ("retry", 3),
    ("datafile", 3),
    ("database", 3),
    ("deletion", 4),
    ("table", 4),
    ("sidecar", 4),
    ("template", 4),
    ("source", 5),
    ("pages", 4),
    ("index", 6),
    ("stage", 6),
    ("readback", 6),
    ("journal", 6),
    ("history", 6),
    ("leftover", 7),
    ("sample", 6),
    ("run", 8),
];

/// Neighbours in one layer that may use each other.
const NEIGHBOURS: &[(&str, &str)] =
    &[("transform", "digest"), ("plan", "transform"), ("error", "escape")];

#[test]
fn imports_go_one_way() {
    let layers: BTreeMap<&str, u8> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, file, text) in sources() {
        let Some(own) = layers.get(module.as_str()) else {
            wrong.push(format!("{file}: `{module}` has no layer"));
            continue;
        };
        for used in used_modules(&text) {
            let below = layers.get(used.as_str()).is_none_or(|layer| layer < own);
            let allowed = used == module || NEIGHBOURS.contains(&(module.as_str(), used.as_str()));
            if !below && !allowed {
                wrong.push(format!("{file}: {module} (layer {own}) uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_lower_layers_never_touch_a_dataset_or_async() {
    let layers: BTreeMap<&str, u8> = LAYERS.iter().copied().collect();
    for (module, file, text) in sources() {
        let pure = layers.get(module.as_str()).is_some_and(|layer| *layer < 3);
        // Where rayon and the budget meet async, and nowhere else below layer 3.
        let meets = matches!(module.as_str(), "budget" | "cancel") || file.ends_with("pool.rs");
        let code = text.split("#[cfg(test)]").next().unwrap();
        assert!(!pure || !code.contains("lance::"), "{file} uses lance::");
        assert!(!pure || meets || !code.contains("async "), "{file} is async");
    }
}

/// The library builds without the feature `cli`, so nothing in it may name the command's packages.
#[test]
fn only_the_command_uses_its_packages() {
    for (_, file, text) in sources() {
        for package in
            ["clap", "indicatif", "mimalloc", "plotters", "tracing_chrome", "tracing_subscriber"]
        {
            assert!(!text.contains(&format!("{package}::")), "{file} uses {package}");
        }
    }
}

#[test]
fn only_the_command_prints() {
    for (_, file, text) in sources() {
        assert!(!text.contains("println!"), "{file} prints");
    }
}

/// Every file of the library: its top module, its name, its text.
fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<(String, String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let module = relative.split(['/', '.']).next().unwrap().to_owned();
        if matches!(module.as_str(), "lib" | "main" | "cli") {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            found.push((module, relative, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The modules that `use crate::` names, and those named in full.
fn used_modules(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for rest in text.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            let inner = list.split('}').next().unwrap();
            used.extend(inner.split(',').map(|item| first_word(item.trim())));
        } else {
            used.push(first_word(rest));
        }
    }
    used
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
