//! Bad input gets its own message and exit code, and nothing is written.

use std::io::{BufRead, BufReader};
use std::process::Command;

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
    let interrupt = || run(Command::new("kill").args(["-INT", &pid])).expect(0);
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
