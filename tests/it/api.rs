//! What the library promises to those who build on it: the command as a function, and no unsafe code.

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

/// The library forbids it (`src/lib.rs`), which holds for all of its modules; so only the command is left.
#[test]
fn only_main_has_unsafe_code() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = std::fs::read_to_string(source.join("lib.rs")).unwrap();
    assert!(library.contains("#![forbid(unsafe_code)]"));
    let main = std::fs::read_to_string(source.join("main.rs")).unwrap();
    assert!(!main.contains("\nmod "), "main.rs has modules that are not the library's");
    let manifest = std::fs::read_to_string(source.join("../Cargo.toml")).unwrap();
    let manifest: toml_edit::Document<String> = manifest.parse().unwrap();
    let binaries = manifest["bin"].as_array_of_tables().unwrap();
    let paths: Vec<PathBuf> =
        binaries.iter().map(|bin| bin["path"].as_str().unwrap().into()).collect();
    assert_eq!(paths, [Path::new("src/main.rs")]);
    assert!(!source.join("bin").exists());
}
