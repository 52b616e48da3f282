//! Bad input gets its own message and exit code, and nothing is written.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use lance::dataset::WriteParams;
use lance_file::version::LanceFileVersion;

use crate::support::{Db, at_version, binary, documents, run, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_named_and_write_nothing() {
    let db = Db::new();
    db.documents("documents", 100, 50).await;
    let before = db.files();
    let cases: &[(&[&str], i32, &str)] = &[
        (&[], 2, "no change was asked for"),
        (&["--add", "n:int9=1"], 2, "did you mean `int8`?"),
        (&["--add", "n:timestamp[xs]=now"], 2, "expected a unit"),
        (&["--add", "n:int8=300"], 2, "`300` is not an int8"),
        (&["--add", "n:timestamp[us]=soon"], 2, "`soon` is not a timestamp[us]"),
        (&["--add", "n:int8=1", "--add", "n:int8=2"], 2, "added twice"),
        (&["--add", "n:int8 not null"], 2, "needs a literal"),
        (&["--add", "text:int8=1"], 3, "exists with another type: it is string, not int8"),
        (&["--add", "text:string=x", "--if-exists", "error"], 3, "exists already"),
        (&["--add", "n:int8=1", "--batch-size", "0"], 2, "batch size must be at least"),
        (&["--add", "n:int8=1", "--batch-size", "many"], 2, "Try 8192 or 64MiB"),
        (&["--add", "n:int8=1", "--workers", "0"], 2, "workers must be at least 1"),
        (&["--add", "n:int8=1", "--memory", "1KiB"], 2, "memory must be at least"),
        (&["--add", "n:int8=1", "--rows-per-file", "0"], 2, "rows per file"),
        (&["--add", "n:int8=1", "--max-rate", "0"], 2, "max rate"),
        (&["--add", "n:int8=1", "--nonsense"], 2, "unexpected argument"),
    ];
    for (args, code, text) in cases {
        for verb in ["plan", "migrate"] {
            let ran = db.relance(verb, "documents", args);
            ran.expect(*code).says(text);
        }
    }
    assert_eq!(db.files(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_newer_files_are_refused() {
    let db = Db::new();
    let old = at_version(LanceFileVersion::V2_1);
    db.write("t", vec![documents(0, 10)], old).await;
    for add in ["n:map<string, int8>", "n:list<map<string, int8>>"] {
        db.relance("migrate", "t", &["--add", add]).expect(3).says("needs storage version 2.2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_are_not_there_are_named() {
    let db = Db::new();
    db.documents("documents", 10, 10).await;
    let add = ["--add", "n:int8=1"];
    db.relance("migrate", "document", &add).expect(1).says("did you mean `documents`?");
    let nowhere = db.path().join("nowhere");
    let ran = run(Command::new(binary()).arg("migrate").arg(&nowhere).arg("t").args(add));
    ran.expect(1).says("there is no database at");
    assert!(!nowhere.exists());
    for (database, code, text) in
        [("db://cloud", 2, "LanceDB Cloud"), ("ftp://h/d", 3, "no atomic commit")]
    {
        let ran = run(Command::new(binary()).args(["migrate", database, "t"]).args(add));
        ran.expect(code).says(text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stdout_is_one_json_object_and_stderr_the_rest() {
    let db = Db::new();
    db.documents("t", 100, 50).await;
    let ran = db.relance("migrate", "t", &["--add", "n:int8=1", "--json", "--progress", "json"]);
    let ran = ran.expect(0);
    assert_eq!(ran.json()["report"]["rows"], 100);
    let events: Vec<serde_json::Value> =
        ran.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(events.iter().any(|event| event["phase"] == "stage"));
    assert!(events.iter().any(|event| event["event"] == "progress" && event["rows"] == 100));
    let failed = db.relance("resume", "t", &["--json"]).expect(1);
    assert_eq!(failed.json()["error"]["exit"], 1);
}

#[test]
fn secrets_are_not_repeated() {
    let db = Db::new();
    let options = [
        "--storage-option",
        "aws_secret_access_key=TOPSECRET123",
        "--storage-option",
        "aws_access_key_id=AKID12345",
        "--storage-option",
        "aws_endpoint=http://127.0.0.1:9",
        "--storage-option",
        "allow_http=true",
        "--storage-option",
        "aws_region=us-east-1",
        "--storage-option",
        "client_max_retries=0",
        "--storage-option",
        "connect_timeout=1s",
    ];
    let ran = run(Command::new(binary())
        .args(["plan", "s3://bucket/db", "t", "--add", "n:int8=1", "-vv"])
        .args(options)
        .current_dir(db.path()));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let all = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!all.contains("TOPSECRET123") && !all.contains("AKID12345"), "{all}");
    let bad =
        run(Command::new(binary()).args(["plan", "s3://b/d", "t", "--storage-option", "HUSH"]));
    assert!(!bad.expect(2).stderr.contains("HUSH"));
}

#[cfg(unix)]
#[test]
fn a_second_interruption_ends_at_once() {
    for signal in ["-INT", "-TERM"] {
        ends_at_the_second(signal);
    }
}

#[cfg(unix)]
fn ends_at_the_second(signal: &str) {
    // A store that takes requests and never answers.
    let store = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    store.set_nonblocking(true).unwrap();
    let endpoint = format!("aws_endpoint=http://{}", store.local_addr().unwrap());
    let mut command = Command::new(binary());
    command.args(["migrate", "s3://bucket/db", "t", "--add", "n:int8=1", "--progress", "plain"]);
    for option in [
        endpoint.as_str(),
        "allow_http=true",
        "aws_region=us-east-1",
        "aws_access_key_id=AKID12345",
        "aws_secret_access_key=TOPSECRET123",
    ] {
        command.args(["--storage-option", option]);
    }
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut requests = Vec::new();
    wait_until("a request", || {
        requests.extend(store.accept().ok());
        !requests.is_empty()
    });
    let pid = child.id().to_string();
    let interrupt = || run(Command::new("kill").args([signal, &pid])).expect(0);
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines().map(Result::unwrap);
    interrupt();
    assert!(lines.any(|line| line.contains("asked once more, it ends at once")));
    assert!(child.try_wait().unwrap().is_none(), "it waits for the store");
    interrupt();
    assert!(lines.any(|line| line.contains("ended at once, as after a crash")));
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_sample_is_made_once() {
    let db = Db::new();
    let more = ["--rows", "1000", "--dim", "4", "--fragments", "3"];
    db.relance("sample", "t", &more).expect(0).says("1,000 rows");
    db.relance("sample", "t", &more).expect(1).says("never replaces");
    db.relance("plan", "t", &["--add", "n:int8=1"]).expect(0).says("1,000 in 3 fragments");
}

#[test]
fn a_bad_flag_is_told_as_json_too() {
    let mut command = Command::new(binary());
    let ran = run(command.args(["migrate", "db", "t", "--add", "c:strin=x", "--json"]));
    assert_eq!(ran.expect(2).json()["error"]["kind"], "usage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_a_plan_and_a_hold_is_no_failure() {
    let db = Db::new();
    db.documents("t", 100, 50).await;
    let before = db.files();
    let add = ["--add", "n:int8=1"];
    let plan = db.relance("plan", "t", &add).expect(0).stdout;
    let dry = db.relance("migrate", "t", &[&add[..], &["--dry-run", "--hold"]].concat()).expect(0);
    assert_eq!((dry.stdout, db.files()), (plan, before));
    db.relance("migrate", "t", &[&add[..], &["--hold"]].concat()).expect(0).says("Held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_in_a_file_is_carried_out_as_it_was_shown() {
    let db = Db::new();
    db.documents("t", 100, 50).await;
    let file = db.path().join("p.json");
    let file = file.to_str().unwrap();
    let asked =
        ["--add", "at:timestamp[us]=now", "--cast", "id:int32", "--where", "id < 90", "--json"];
    let plan = db.relance("plan", "t", &[&asked[..], &["--out", file]].concat()).expect(0).json();
    let add = plan["changes"][0].as_str().unwrap();
    assert!(add.starts_with("add at:timestamp[us]=2"), "{add}");
    let with = |more: &[&str]| db.relance("migrate", "t", &[&["--plan", file], more].concat());
    for more in [&["--drop", "id"][..], &["--where", "true"], &["--strategy", "auto"]] {
        with(more).expect(2).says("cannot be used with");
    }
    with(&["--dry-run"]).expect(0).says(add);
    let done = with(&["--json"]).expect(0).json()["report"].clone();
    assert_eq!((&done["changes"], &done["rows"]), (&plan["changes"], &90.into()));
    // The table has other columns by now.
    let before = db.files();
    with(&[]).expect(3).says("- id: int64").says("+ id: int32").says("plan again");
    assert_eq!(db.files(), before);
    for (text, told) in [("{}", "not a plan"), ("[", "not a plan")] {
        std::fs::write(file, text).unwrap();
        with(&[]).expect(2).says(told);
    }
    std::fs::remove_file(file).unwrap();
    with(&[]).expect(2).says("cannot read");
    let nowhere = ["--drop", "id", "--out", "/nowhere/p.json"];
    db.relance("plan", "t", &nowhere).expect(2).says("cannot write");
}

#[test]
fn options_of_the_store_come_from_the_environment_too() {
    let plan = |set: &str, typed: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["plan", "s3://bucket/db", "t", "--add", "n:int8=1"]).args(typed);
        run(command.env("RELANCE_STORAGE_OPTIONS", set))
    };
    let bad = plan("allow_http=true,HUSH", &[]).expect(2).says("RELANCE_STORAGE_OPTIONS takes");
    assert!(!bad.stderr.contains("HUSH"));
    let store = "aws_access_key_id=AKID12345,aws_secret_access_key=TOPSECRET123,allow_http=true,\
                 aws_region=us-east-1,client_max_retries=0,connect_timeout=1s";
    let endpoint = |port: u16| format!("aws_endpoint=http://127.0.0.1:{port}");
    let set = format!("{store}, {}", endpoint(9));
    for set in [set.clone(), set.replace(',', "\n")] {
        let ran = plan(&set, &[]).expect(1).says("127.0.0.1:9");
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("TOPSECRET123"));
        let typed = endpoint(11);
        plan(&set, &["--storage-option", &typed]).expect(1).says("127.0.0.1:11");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_and_rollback_keep_to_limits() {
    let db = Db::new();
    db.documents("t", 20_000, 10_000).await;
    db.relance("migrate", "t", &["--add", "n:int8=1"]).expect(0);
    for verb in ["verify", "rollback"] {
        db.relance(verb, "t", &["--workers", "0"]).expect(2).says("workers must be at least 1");
        db.relance(verb, "t", &["--memory", "1KiB"]).expect(2).says("memory must be at least");
        db.relance(verb, "t", &["--max-rate", "0"]).expect(2).says("max rate");
    }
    let began = std::time::Instant::now();
    let limits = ["--workers", "1", "--memory", "64MiB", "--max-rate"];
    db.relance("verify", "t", &[&limits[..], &["2MB"]].concat()).expect(0);
    assert!(began.elapsed().as_secs_f64() > 0.7, "took {:?}", began.elapsed());
    db.relance("rollback", "t", &[&limits[..], &["1GB"]].concat()).expect(0);
}

#[test]
fn the_help_is_grouped_and_shows_examples() {
    let help = run(Command::new(binary()).args(["migrate", "--help"])).expect(0).stdout;
    let groups = ["Connection:", "Changes:", "How it is run:", "Swap:", "Output:", "Examples:"];
    let places = groups.map(|group| help.find(&format!("\n{group}\n")).expect(group));
    let group_of = |flag: &str| {
        let place = help.find(&format!(" {flag}")).expect(flag);
        groups.iter().zip(places).filter(|(_, at)| *at < place).map(|(group, _)| *group).next_back()
    };
    for (flag, group) in [
        ("--storage-option", "Connection:"),
        ("--add", "Changes:"),
        ("--plan <", "Changes:"),
        ("--dry-run\n", "Changes:"),
        ("--max-rate", "How it is run:"),
        ("--hold", "Swap:"),
        ("--json", "Output:"),
    ] {
        assert_eq!(group_of(flag), Some(group), "{flag}");
    }
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let print = |words: &[&str]| run(Command::new(binary()).args(words));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        print(&["completions", shell]).expect(0).says("keep-writes");
    }
    print(&["completions", "tcsh"]).expect(2);
    print(&["man"]).expect(0).says(".TH relance 1").says("Exit codes");
    print(&["man", "migrate"]).expect(0).says("Examples").says("cutover");
    print(&["man", "nosuch"]).expect(2).says("no command is called `nosuch`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_plan_shows_the_changes_and_a_count() {
    let db = Db::new();
    let names: Vec<String> = (0..150).map(|number| format!("c{number}")).collect();
    let fields = names.iter().map(|name| Field::new(name, DataType::Int64, true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = names.iter().map(|_| Arc::new(Int64Array::from(vec![1])) as ArrayRef);
    let row = RecordBatch::try_new(schema, columns.collect()).unwrap();
    db.write("t", vec![row], WriteParams::default()).await;
    let changes = ["--cast", "c7:int32", "--drop", "c8", "--add", "n:int8", "--not-null", "c9"];
    let plan = db.relance("plan", "t", &changes).expect(0).stdout;
    for line in [
        "~ c7: int32 (was c7: int64)",
        "~ c9: int64 not null (was c9: int64)",
        "+ n: int8",
        "- c8: int64",
        "  and 147 columns as before",
        "1 in 1 fragment, 1 chunk",
    ] {
        assert!(plan.lines().any(|one| one.ends_with(line)), "{line}\n{plan}");
    }
    assert!(!plan.contains("c100") && plan.lines().count() < 30, "{plan}");
    let small = ["--rows-per-file", "1"];
    db.relance("plan", "t", &small).expect(0).says("files of 1 row are asked for");
    db.relance("migrate", "t", &[&small[..], &["--hold"]].concat())
        .expect(0)
        .says("has 1 row staged");
    db.relance("migrate", "t", &small).expect(6).says("; 1 of 1 row staged");
    db.relance("abort", "t", &[]).expect(0);
    let map = ["--cast", "c7:int32", "--add", "n:int8=x"];
    db.relance("plan", "t", &map).expect(2).says("`x` is not an int8");
}
