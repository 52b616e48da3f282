//! How fast a migration may go, and where its time went.

use std::time::Instant;

use crate::support::{Db, wait_until};

const REWRITE: &[&str] = &["--add", "n:int64=7", "--strategy", "rewrite"];

/// What is encoded anew, too.
const COMPUTE: &[&str] = &["--compute", "n=length(text)", "--strategy", "rewrite"];

/// About 5 MB, in four fragments.
fn sample(db: &Db) {
    db.relance("sample", "t", &["--rows", "20000", "--dim", "64"]).expect(0);
}

#[test]
fn a_rate_holds_and_is_what_the_time_went_into() {
    holds(COMPUTE, &["scan", "transform", "write", "verify"]);
    // Pages are copied as they are.
    holds(REWRITE, &["scan", "write", "verify"]);
}

fn holds(changes: &[&str], wanted: &[&str]) {
    let db = Db::new();
    sample(&db);
    let began = Instant::now();
    let ran = db.relance("migrate", "t", &[changes, &["--max-rate", "3MB", "--json"]].concat());
    let outside = began.elapsed().as_secs_f64();
    let json = ran.expect(0).json();
    let bytes = json["report"]["bytes_written"].as_f64().unwrap();
    assert!(bytes / outside < 3.15e6, "{bytes} bytes in {outside} s");
    assert_eq!(json["time"]["limited_by"], "--max-rate");
    let parts = json["time"]["seconds"].as_object().unwrap();
    assert!(wanted.iter().all(|part| parts.contains_key(*part)), "{parts:?}");
    let of = |part: &str| parts.get(part).map_or(0.0, |seconds| seconds.as_f64().unwrap());
    // What works ahead of a writer that waits costs nothing.
    assert!(of("throttled") > of("scan") + of("transform") + of("memory"), "{parts:?}");
    let sum: f64 = parts.values().map(|seconds| seconds.as_f64().unwrap()).sum();
    let swapped = json["report"]["swapped_after_seconds"].as_f64().unwrap();
    assert!((swapped..outside).contains(&sum), "{sum} s of {outside} s: {parts:?}");
}

#[test]
fn a_rate_is_changed_while_it_runs() {
    let db = Db::new();
    sample(&db);
    let file = db.path().join("control.toml");
    std::fs::write(&file, "max-rate = 1000").unwrap();
    let name = file.to_str().unwrap();
    let more = [REWRITE, &["--control", name, "--progress", "json"]].concat();
    let mut child = db.start("migrate", "t", &more);
    // At this rate it would take longer than anybody waits.
    wait_until("something is staged", || !db.staged_files().is_empty());
    std::fs::write(&file, "max-rate = \"fast\"").unwrap();
    std::fs::write(&file, "max-rate = \"none\"").unwrap();
    wait_until("it is done", || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success());
    db.relance("verify", "t", &[]).expect(0);
}

#[test]
fn a_trace_and_a_breakdown_name_the_parts() {
    let db = Db::new();
    sample(&db);
    let nowhere = db.path().join("nowhere/trace.json");
    let before = db.files();
    let more = [REWRITE, &["--trace", nowhere.to_str().unwrap()]].concat();
    db.relance("migrate", "t", &more).expect(2).says("--trace");
    assert_eq!(db.files(), before);
    let file = db.path().join("trace.json");
    let more = [REWRITE, &["-v", "--trace", file.to_str().unwrap()]].concat();
    db.relance("migrate", "t", &more).expect(0).says("seconds: ").says(" in all");
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let events = trace.as_array().unwrap();
    for name in ["scan", "transform", "write", "verify", "commit"] {
        let of =
            |kind: &str| events.iter().filter(|e| e["name"] == name && e["ph"] == kind).count();
        assert!(of("b") > 0 && of("b") == of("e"), "{name}");
    }
}

#[test]
fn settings_are_tried_on_the_table_and_nothing_is_left_of_it() {
    let db = Db::new();
    sample(&db);
    // What a killed run left.
    let left = db.table("t__relance_tune").join("data/0-relance-0123-left.lance");
    let before = db.files();
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    std::fs::write(&left, b"left").unwrap();
    let picture = db.path().join("tune.svg");
    let more = ["--time", "1s", "--json", "--plot", picture.to_str().unwrap()];
    let json = db.relance("tune", "t", &more).expect(0).json();
    let trials = json["trials"].as_array().unwrap();
    let of = |knob: &str| {
        let values = trials.iter().map(|trial| trial[knob].as_u64().unwrap());
        values.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(of("batch_bytes") == 7 && of("workers") >= 2 && of("queue") == 4, "{trials:?}");
    assert!(trials.iter().all(|trial| trial["bytes_per_second"].as_f64().unwrap() > 0.0));
    // Everything of a kind is tried equally often, and what was asked for is kept where nothing is faster.
    for trial in trials {
        let [low, middle, high] =
            ["seconds_min", "seconds", "seconds_max"].map(|name| trial[name].as_f64().unwrap());
        assert!(0.0 < low && low <= middle && middle <= high, "{trial}");
    }
    let rounds = trials[..7].iter().map(|trial| trial["rounds"].as_u64().unwrap());
    assert_eq!(rounds.collect::<std::collections::BTreeSet<_>>().len(), 1, "{trials:?}");
    assert!(json["differs"] == true || json["best"]["batch_bytes"] == 256 << 10, "{json}");
    assert!(std::fs::read_to_string(&picture).unwrap().contains("peak memory"));
    std::fs::remove_file(&picture).unwrap();
    assert_eq!(db.files(), before);
    let flags = json["flags"].as_str().unwrap().split(' ').collect::<Vec<_>>();
    db.relance("migrate", "t", &[REWRITE, &flags].concat()).expect(0);
    db.relance("tune", "t", &["--time", "1s"]).expect(0).says("<- best").says("--batch-size");
    db.relance("tune", "nothing", &[]).expect(1);
}

/// The folders that settings are tried in.
fn scratches(db: &Db) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(db.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains("__relance_tune_")).collect()
}

#[cfg(target_os = "linux")] // which tells whether a process is there
#[test]
fn two_that_try_settings_at_once_leave_each_other_alone() {
    let db = Db::new();
    sample(&db);
    let before = db.files();
    let signal = |pid: u32, name: &str| {
        let mut kill = std::process::Command::new("kill");
        crate::support::run(kill.args([name, &pid.to_string()])).expect(0);
    };
    let first = db.start("tune", "t", &["--time", "1s", "--json"]);
    wait_until("its trials", || !db.staged_files().is_empty());
    signal(first.id(), "-STOP");
    let scratch = scratches(&db);
    assert_eq!(scratch.len(), 1);
    db.relance("tune", "t", &["--time", "1s"]).expect(0);
    assert_eq!(scratches(&db), scratch, "it waits, and is not dead");
    // The scratch is no table to anybody.
    let tables = run_status(&db);
    assert_eq!(tables.as_array().unwrap().len(), 1, "{tables}");
    signal(first.id(), "-CONT");
    crate::support::ran(first.wait_with_output().unwrap()).expect(0);
    assert_eq!(db.files(), before);
    assert!(scratches(&db).is_empty());
}

fn run_status(db: &Db) -> serde_json::Value {
    let mut status = std::process::Command::new(crate::support::binary());
    let ran = crate::support::run(status.arg("status").arg(db.path()).arg("--json"));
    ran.expect(0).json()["tables"].clone()
}

#[cfg(target_os = "linux")] // which tells whether a process is there
#[test]
fn what_a_killed_one_left_is_removed_by_the_next() {
    let db = Db::new();
    sample(&db);
    let before = db.files();
    let mut killed = db.start("tune", "t", &["--time", "1s"]);
    wait_until("its trials", || !db.staged_files().is_empty());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(scratches(&db).len(), 1);
    db.relance("tune", "t", &["--time", "1s"]).expect(0);
    assert_eq!(db.files(), before);
    assert!(scratches(&db).is_empty());
}
