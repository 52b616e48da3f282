//! What the library promises to those who build on it: the command as a function, and no unsafe code.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::Db;

/// The spans in the trace that `words` leave behind.
fn traced(db: &Db, words: &[&str], exit: u8) -> Vec<Value> {
    let file = db.path().join("trace.json");
    let mut args: Vec<OsString> = vec!["relance".into(), words[0].into(), db.path().into()];
    args.extend(words[1..].iter().map(OsString::from));
    args.extend(["--quiet".into(), "--trace".into(), file.clone().into()]);
    assert_eq!(relance::cli::run_with(args, |_| {}), exit, "{words:?}");
    let spans = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    spans
}

#[test]
fn the_command_is_called_again_and_again_in_one_process() {
    let db = Db::new();
    let rows = ["--rows", "1000", "--dim", "8", "--fragments", "2"];
    traced(&db, &[&["sample", "t"][..], &rows].concat(), 0);
    for change in ["one:int8=1", "two:int8=2"] {
        let spans = traced(&db, &["migrate", "t", "--add", change, "--strategy", "rewrite"], 0);
        for name in ["scan", "write", "verify"] {
            assert!(spans.iter().any(|span| span["name"] == name), "{change}: no {name}");
        }
        traced(&db, &["resume", "t"], 1);
    }
    assert_eq!(relance::cli::run_with(["relance", "--nonsense"], |_| {}), 2);
}

#[test]
fn the_allocator_is_told_how_long_to_keep_memory() {
    let told = |words: &[&str]| {
        let mut told = None;
        relance::cli::run_with(words, |delay| told = Some(delay.as_millis()));
        told
    };
    let migrate = ["relance", "migrate", "/nowhere", "t", "--drop", "c"];
    assert_eq!(told(&migrate), Some(200));
    assert_eq!(told(&[&migrate[..], &["--memory", "128MiB"]].concat()), Some(50));
    assert_eq!(told(&["relance", "status", "/nowhere"]), None);
    assert_eq!(told(&["relance", "migrate"]), None);
}

/// The library forbids it (`src/lib.rs`), which holds for all of its modules; the command and the Python module have an
/// allocator to set.
#[test]
fn the_library_has_no_unsafe_code() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = std::fs::read_to_string(source.join("lib.rs")).unwrap();
    assert!(library.contains("#![forbid(unsafe_code)]"));
    let main = std::fs::read_to_string(source.join("main.rs")).unwrap();
    let is_module = |line: &&str| line.starts_with("mod ") && line.ends_with(';');
    // Its allocator is for a program to choose.
    assert_eq!(main.lines().filter(is_module).collect::<Vec<_>>(), ["mod allocator;"]);
    let manifest = std::fs::read_to_string(source.join("../Cargo.toml")).unwrap();
    let manifest: toml_edit::Document<String> = manifest.parse().unwrap();
    let binaries = manifest["bin"].as_array_of_tables().unwrap();
    let paths: Vec<PathBuf> =
        binaries.iter().map(|bin| bin["path"].as_str().unwrap().into()).collect();
    assert_eq!(paths, [Path::new("src/main.rs")]);
    assert!(!source.join("bin").exists());
}

/// A caller need not depend on Lance, nor on its version, to use relance. What only tests use is hidden
/// from the documentation, and may name it.
#[test]
fn the_documented_api_names_no_type_of_lances() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = std::fs::read_to_string(source.join("lib.rs")).unwrap();
    let exported = exported(&library);
    assert!(exported.len() > 40 && exported.iter().any(|name| name == "Plan"), "{exported:?}");
    let (mut defined, mut wrong) = (BTreeSet::new(), Vec::new());
    for file in rust_files(&source) {
        let text = std::fs::read_to_string(&file).unwrap();
        let foreign = of_lance(&text);
        for (name, signature) in signatures(&text, &exported) {
            let words = words(&signature);
            let is_type = |word: &String| word.starts_with(char::is_uppercase);
            let names_it = |word: &String| is_type(word) && foreign.contains(word);
            if words.iter().any(|word| word.starts_with("lance") || names_it(word)) {
                wrong.push(format!("{}: {name}: {signature}", file.display()));
            }
            defined.insert(name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unknown: Vec<_> = exported.iter().filter(|name| !defined.contains(*name)).collect();
    assert!(unknown.is_empty(), "where are these defined? {unknown:?}");
}

#[test]
fn a_type_of_lances_is_seen_wherever_it_stands() {
    let text = "use lance_core::datatypes::{Field, Schema as LanceSchema};\n\
                pub struct Plan {\n    pub(crate) chosen: LanceSchema,\n    pub schema: LanceSchema,\n}\n\
                impl Plan {\n    #[doc(hidden)]\n    pub fn hidden(&self) -> Field {\n    }\n    \
                pub fn long(\n        &self,\n    ) -> Vec<Field> {\n    }\n}\n\
                impl From<lance::Error> for Plan {\n}\n\
                pub struct Other {\n    pub schema: LanceSchema,\n}\n";
    let foreign = of_lance(text);
    assert!(foreign.contains("Field") && foreign.contains("LanceSchema"), "{foreign:?}");
    let found: Vec<_> =
        signatures(text, &["Plan".to_owned()]).into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        found,
        [
            "pub schema: LanceSchema,",
            "pub struct Plan {",
            "pub fn long( &self, ) -> Vec<Field> {",
            "impl Plan {",
            "impl From<lance::Error> for Plan {",
        ]
    );
}

/// The names that `library` exports, those of its tests left out.
fn exported(library: &str) -> Vec<String> {
    let documented = library.split("pub mod internals").next().unwrap();
    let mut names = Vec::new();
    for export in documented.split("\npub use ").skip(1) {
        let export = export.split(';').next().unwrap();
        let list = export.rsplit_once("::").unwrap().1;
        let list = export.split_once('{').map_or(list, |(_, list)| list);
        names.extend(words(list));
    }
    names
}

/// The names that `text` imports from a crate of Lance's.
fn of_lance(text: &str) -> BTreeSet<String> {
    let imports = text.split("\nuse ").chain(text.strip_prefix("use "));
    let imports = imports.filter(|import| import.starts_with("lance"));
    imports.flat_map(|import| words(import.split(';').next().unwrap())).collect()
}

/// What a caller sees of the items called `names` in `text`, which is formatted: their fields, variants and
/// methods, and the traits that they have. Each comes with the item's name.
fn signatures(text: &str, names: &[String]) -> Vec<(String, String)> {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    let mut found = Vec::new();
    for item in declarations(&code.lines().collect::<Vec<_>>(), 0) {
        let end =
            if item.head.starts_with("impl") { &['{'][..] } else { &['(', '{', ':', '=', ';'] };
        let name = words(item.head.split(end).next().unwrap().split('<').next().unwrap());
        let name = match item.head.strip_prefix("impl") {
            Some(rest) => words(rest.rsplit(" for ").next().unwrap()).swap_remove(0),
            None => name.last().cloned().unwrap_or_default(),
        };
        if item.hidden || !(item.is_public() || item.is_impl()) || !names.contains(&name) {
            continue;
        }
        let all_seen = ["pub enum", "pub trait"].iter().any(|start| item.head.starts_with(start));
        for member in declarations(&item.body, 4) {
            if all_seen {
                found.push((name.clone(), format!("{} {}", member.head, member.body.join(" "))));
            } else if member.is_public() && !member.hidden {
                found.push((name.clone(), member.head));
            }
        }
        found.push((name, item.head));
    }
    found
}

/// A declaration, up to its body.
struct Declaration<'a> {
    hidden: bool,
    head: String,
    body: Vec<&'a str>,
}

impl Declaration<'_> {
    fn is_public(&self) -> bool {
        self.head.starts_with("pub ")
    }

    fn is_impl(&self) -> bool {
        self.head.starts_with("impl ") || self.head.starts_with("impl<")
    }

    fn has_whole_head(&self) -> bool {
        let count = |c: char| self.head.matches(c).count();
        self.head.ends_with(['{', ';', ',', '}']) && count('(') == count(')')
    }
}

/// The declarations in `lines` that are indented by `indent`.
fn declarations<'a>(lines: &[&'a str], indent: usize) -> Vec<Declaration<'a>> {
    let mut found: Vec<Declaration<'a>> = Vec::new();
    let mut hidden = false;
    for line in lines {
        let inner = line.trim();
        if inner.is_empty() || inner.starts_with("//") {
            continue;
        }
        let deeper = line.len() - line.trim_start().len() > indent || inner.starts_with(['}', ')']);
        match found.last_mut() {
            Some(last) if !last.has_whole_head() => {
                last.head.push(' ');
                last.head.push_str(inner);
            }
            Some(last) if deeper => last.body.push(line),
            _ if inner.starts_with('#') => hidden |= inner.contains("doc(hidden)"),
            _ => {
                found.push(Declaration { hidden, head: inner.to_owned(), body: Vec::new() });
                hidden = false;
            }
        }
    }
    found
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}
