//! Which packages are optimised: `[profile.release.package]` in Cargo.toml, held to its rule.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml_edit::{Document, Item, Value};

/// The packages that take column values apart and put them together, besides Arrow's. What they and relance
/// itself use has to be decided on: it is optimised, or it is one of [`LIGHT`].
const WORKERS: &[&str] = &[
    "relance",
    "lance-arrow",
    "lance-bitpacking",
    "lance-core",
    "lance-encoding",
    "lance-file",
    "lance-linalg",
    "lance-select",
    "fsst",
    "half",
    "lz4",
    "lz4_flex",
    "rayon",
    "rayon-core",
    "roaring",
    "twox-hash",
    "xxhash-rust",
    "zstd",
    "zstd-safe",
];

/// The packages that nobody decided to optimise, and why they can do without.
const LIGHT: &[(&str, &[&str])] = &[
    ("they only pass calls on to packages that are optimised", &["arrow", "futures", "lancedb"]),
    (
        "relance uses no part of Lance or Arrow that is in them for rows",
        &[
            "arrow-csv",
            "arrow-json",
            "lance-arrow-scalar",
            "lance-arrow-stats",
            "lance-datagen",
            "lance-index-core",
            "lance-namespace",
            "lance-namespace-impls",
            "lance-namespace-reqwest-client",
        ],
    ),
    (
        "they work while a plan or a query is made, not for each row",
        &["datafusion", "datafusion-sql", "regex-syntax"],
    ),
    (
        "they run while something is built",
        &[
            "async-recursion",
            "async-trait",
            "cc",
            "crunchy",
            "lance-derive",
            "paste",
            "pin-project",
            "prost-build",
            "seq-macro",
        ],
    ),
    (
        "they are generic or inline, and optimised where they are used",
        &[
            "ahash",
            "arrayref",
            "bitflags",
            "byteorder",
            "cfg-if",
            "hyperloglogplus",
            "itertools",
            "num-complex",
            "num-integer",
            "zerocopy",
        ],
    ),
    (
        "they turn values into text and back, or are for types that are rare",
        &[
            "atoi",
            "base64",
            "chrono-tz",
            "comfy-table",
            "hex",
            "lexical-core",
            "num-bigint",
            "regex",
            "ryu",
        ],
    ),
    (
        "they are called once for a file, a page or a run",
        &[
            "blake3",
            "flatbuffers",
            "fs4",
            "glob",
            "getrandom",
            "libc",
            "log",
            "num_cpus",
            "prost-types",
            "quick-xml",
            "quick_cache",
            "rand",
            "serde",
            "serde_core",
            "serde_json",
            "snafu",
            "strsim",
            "tempfile",
            "toml_edit",
            "tracing",
            "url",
            "uuid",
        ],
    ),
    (
        "they are the command's",
        &[
            "clap",
            "clap_complete",
            "clap_mangen",
            "indicatif",
            "plotters",
            "tracing-chrome",
            "tracing-subscriber",
        ],
    ),
    (
        "what is sent to a store goes through it, at 420 MB/s a processor: more than is sent, and level 3 gives 600",
        &["md-5"],
    ),
    ("they are for tests and benches", &["criterion", "proptest", "stateright"]),
];

#[test]
fn what_the_bytes_of_tables_go_through_is_optimised() {
    let locked = locked(&read("Cargo.lock"));
    let wrong = undecided(&levels(&read("Cargo.toml")), &locked);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_package_that_comes_or_goes_is_noticed() {
    let (levels, locked) = (levels(&read("Cargo.toml")), locked(&read("Cargo.lock")));
    let with = |name: &str, uses: &[&str]| {
        let uses = uses.iter().map(|used| (*used).to_owned()).collect();
        let new = Package { name: name.to_owned(), version: "1.0.0".to_owned(), uses };
        undecided(&levels, &locked.iter().cloned().chain([new]).collect::<Vec<_>>())
    };
    assert_eq!(with("left-pad", &[]), Vec::<String>::new());
    assert!(with("lance-codec", &[])[0].starts_with("`lance-codec` 1.0.0"));
    assert!(with("lance-file", &["mio"])[0].starts_with("`mio`"));
    let kept = locked.iter().filter(|package| package.name != "fsst").cloned();
    assert!(undecided(&levels, &kept.collect::<Vec<_>>())[0].starts_with("Cargo.toml: `fsst`"));
}

/// A package of Cargo.lock.
#[derive(Debug, Clone)]
struct Package {
    name: String,
    version: String,
    /// The packages that it depends on: a name, and a version where the name has several.
    uses: Vec<String>,
}

impl Package {
    /// Whether `spec`, a name or `name@version` with as much of the version as matters, is this package.
    fn is(&self, spec: &str) -> bool {
        let (name, version) = spec.split_once(['@', ' ']).unwrap_or((spec, ""));
        let rest = self.version.strip_prefix(version);
        name == self.name
            && rest.is_some_and(|rest| {
                version.is_empty() || rest.starts_with(['.', '+']) || rest.is_empty()
            })
    }
}

/// What breaks the rule, in words.
fn undecided(levels: &BTreeMap<String, i64>, locked: &[Package]) -> Vec<String> {
    let light: BTreeSet<&str> = LIGHT.iter().flat_map(|(_, names)| *names).copied().collect();
    let is_optimised =
        |package: &Package| levels.iter().any(|(spec, level)| *level == 3 && package.is(spec));
    let mut wrong = BTreeSet::new();
    for spec in levels.keys().map(String::as_str).chain(light.iter().copied()) {
        if !locked.iter().any(|package| package.is(spec)) {
            let file = if light.contains(spec) { "tests/it/levels.rs" } else { "Cargo.toml" };
            wrong.insert(format!("{file}: `{spec}` is no package of Cargo.lock; take it out"));
        }
    }
    let workers = locked.iter().filter(|package| {
        WORKERS.contains(&package.name.as_str())
            || package.name.starts_with("arrow-") && is_optimised(package)
    });
    let used = workers.flat_map(|worker| &worker.uses);
    let used = used.flat_map(|spec| locked.iter().filter(move |package| package.is(spec)));
    let family = locked
        .iter()
        .filter(|package| ["lance", "arrow"].iter().any(|of| package.name.starts_with(of)));
    for package in used.chain(family) {
        let Package { name, version, .. } = package;
        if name != "relance" && !is_optimised(package) && !light.contains(name.as_str()) {
            wrong.insert(format!(
                "`{name}` {version}: do the bytes of tables go through it? Then give it level 3 in Cargo.toml; \
                 otherwise name it in tests/it/levels.rs with a reason"
            ));
        }
    }
    wrong.into_iter().collect()
}

/// The levels of `[profile.release.package]`, that of all the others left out.
fn levels(manifest: &str) -> BTreeMap<String, i64> {
    let manifest: Document<String> = manifest.parse().unwrap();
    let levels = manifest["profile"]["release"]["package"].as_table_like().unwrap();
    let levels = levels.iter().filter(|(spec, _)| *spec != "*");
    levels.map(|(spec, item)| (spec.to_owned(), item["opt-level"].as_integer().unwrap())).collect()
}

/// The packages in `lock`.
fn locked(lock: &str) -> Vec<Package> {
    let lock: Document<String> = lock.parse().unwrap();
    let packages = lock["package"].as_array_of_tables().unwrap().iter();
    let text = |item: &Item| item.as_str().unwrap().to_owned();
    let packages = packages.map(|package| Package {
        name: text(&package["name"]),
        version: text(&package["version"]),
        uses: package.get("dependencies").and_then(Item::as_array).map_or(Vec::new(), |uses| {
            uses.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }),
    });
    packages.collect()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}
