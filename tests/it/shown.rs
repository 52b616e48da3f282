//! What others wrote is shown so that it steers nothing, and what is suggested can be typed.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use lance::dataset::WriteParams;

use crate::support::{Db, Ran, binary, documents, run};

/// A column's name, and how it is shown.
const NAME: &str = "a\u{1b}[31m\n  index x kept\u{202e}\u{9b}";
const NAME_SHOWN: &str = r"a\u{1b}[31m\n  index x kept\u{202e}\u{9b}";
/// A value, and the beginning of how it is shown.
const VALUE: &str = "x\u{1b}]0;y\u{7}\r\nerror: z\u{7f}";
const VALUE_SHOWN: &str = r"x\u{1b}]0;y\u{7}\r\nerror";

async fn odd_table(db: &Db) {
    let fields = [Field::new("id", DataType::Int64, true), Field::new(NAME, DataType::Utf8, true)];
    let (ids, texts) = (Int64Array::from(vec![1, 2]), StringArray::from(vec![VALUE, "7"]));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let rows = RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(texts)]).unwrap();
    db.write("t", vec![rows], WriteParams::default()).await;
}

/// Fails when anything that was printed would steer a terminal.
fn harmless(ran: Ran) -> Ran {
    let steers = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains(steers), "{text:?}");
        let faked = |line: &str| line.starts_with("  index x kept") || line.starts_with("error: z");
        assert!(!text.lines().any(faked), "{text}");
    }
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_values_are_shown_escaped() {
    let db = Db::new();
    odd_table(&db).await;
    let go = |verb: &str, more: &[&str]| harmless(db.relance(verb, "t", more));
    let add = ["--add", "n:int64=7"];
    go("plan", &add).expect(0).says(NAME_SHOWN);
    let json = go("plan", &[&add[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(json["schema_before"][1]["name"], NAME);
    let cast = format!("{NAME}:int64");
    let refused = go("migrate", &["--cast", &cast]).expect(3);
    refused.says(NAME_SHOWN).says(VALUE_SHOWN);
    let nulls = ["--cast", &cast, "--on-bad-value", "null", "--progress", "plain"];
    go("plan", &nulls).expect(0).says(NAME_SHOWN).says(VALUE_SHOWN);
    go("migrate", &["--rename", "id=b", "--drop", "no\u{1b}such"]).says(r"no\u{1b}such");
    let more = ["--cast", &cast, "--json", "--progress", "json", "--hold", "-vv"];
    go("migrate", &[&more[..], &["--on-bad-value", "null"]].concat()).expect(0);
    go("status", &[]).expect(0).says(NAME_SHOWN);
    go("migrate", &add).expect(6).says(NAME_SHOWN);
    go("resume", &add).expect(3).says(NAME_SHOWN);
    go("abort", &[]).expect(0);
    go("migrate", &add).expect(0).says(NAME_SHOWN).says(r"x\u{1b}]0;");
    go("verify", &[]).expect(0).says(NAME_SHOWN);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_shown_escaped() {
    let db = Db::new();
    db.documents("t", 10, 10).await;
    let file = db.path().join("changes.toml");
    std::fs::write(&file, "add = \"n:int8=1\"\nb\u{9b}31m ad \u{202e}\n").unwrap();
    let ran = harmless(db.relance("plan", "t", &["--file", file.to_str().unwrap()]));
    ran.expect(2).says("not TOML").says(r"b\u{9b}31m");
    // TOML takes control characters as escapes only.
    std::fs::write(&file, "add = \"n\\u202e\\u0007:int9=1\"\n").unwrap();
    let ran = harmless(db.relance("plan", "t", &["--file", file.to_str().unwrap()]));
    ran.expect(2).says("did you mean `int8`?");
}

#[tokio::test(flavor = "multi_thread")]
async fn suggested_commands_can_be_typed_in_a_shell() {
    let db = Db::new();
    let inner = db.path().join("it's a $(touch x) db;");
    let dataset = inner.join("t.lance");
    let rows = documents(0, 10);
    let reader = arrow::array::RecordBatchIterator::new([Ok(rows.clone())], rows.schema());
    lance::Dataset::write(reader, dataset.to_str().unwrap(), None).await.unwrap();
    let migrate = || {
        let mut command = Command::new(binary());
        command.arg("migrate").arg(&inner).args(["t", "--add", "n:int64=7"]);
        command
    };
    run(migrate().arg("--hold")).expect(0);
    let ran = harmless(run(&mut migrate()).expect(6));
    // From the backtick before the command to the one that another sentence begins after.
    let (_, suggested) = ran.stderr.split_once("`relance resume").unwrap();
    let (words, _) = suggested.split_once("` goes on").unwrap();
    let relance = Path::new(binary()).parent().unwrap();
    let path = format!("{}:{}", relance.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("relance resume{words}")]).env("PATH", path);
    run(shell.current_dir(db.path())).expect(0).says("Migrated `t`");
    assert!(!db.path().join("x").exists());
}

#[test]
fn credentials_are_not_echoed_wherever_they_stand() {
    let db = Db::new();
    let secret = "aws_secret_access_key=HUSH1234";
    for words in [
        &["s3://AKIA:HUSH1234@bucket/db", "t"][..],
        &["s3://AKIA:HUSH1234/x@bucket/db", "t"],
        &["az://container/db?sv=2022&sig=HUSH1234", "t"],
        &["https://account/c?sig=HUSH1234", "t"],
        &["s3://bucket/db", "t", secret],
        &["s3://bucket/db", secret],
        &[secret, "t"],
        &["--storage-option", secret],
        &["s3://bucket/db", "t", "--storage-options", secret],
        &["s3://bucket/db", "t", "--storage-option", "HUSH1234"],
    ] {
        for more in [&["--add", "n:int8=1"][..], &["--add", "n:int8=1", "--json", "-vv"]] {
            let mut command = Command::new(binary());
            let ran = run(command.arg("plan").args(words).args(more).current_dir(db.path()));
            let all = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!all.contains("HUSH") && ran.code == 2, "{words:?}: {} {all}", ran.code);
        }
    }
}
