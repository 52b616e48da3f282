//! What `--json` and `--progress json` print is what the guide's schema says.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::support::{Db, Ran, binary, documents, run};

/// The schema in the guide.
struct Contract(Value);

impl Contract {
    fn read() -> Self {
        let page = include_str!("../../src/guide/json.md");
        let block = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        Self(serde_json::from_str(block).unwrap())
    }

    /// Fails when `value` is not what the schema's definition `name` says, or has a field that it does not name.
    fn expect(&self, name: &str, value: &Value) {
        let mut wrong = Vec::new();
        self.check(&json!({ "$ref": format!("#/$defs/{name}") }), value, name, &mut wrong);
        assert!(wrong.is_empty(), "{}\n{value:#}", wrong.join("\n"));
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        for (keyword, rule) in schema.as_object().unwrap() {
            match keyword.as_str() {
                "$ref" => {
                    let definition = self.0.pointer(rule.as_str().unwrap().trim_start_matches('#'));
                    self.check(definition.expect(at), value, at, wrong);
                }
                "const" if value != rule => wrong.push(format!("{at}: {value} is not {rule}")),
                "enum" if !rule.as_array().unwrap().contains(value) => {
                    wrong.push(format!("{at}: {value} is none of {rule}"));
                }
                "type" => {
                    let types = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                    if !types.iter().any(|name| is(name.as_str().unwrap(), value)) {
                        wrong.push(format!("{at}: {value} is no {rule}"));
                    }
                }
                "items" => {
                    for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{place}]"), wrong);
                    }
                }
                "required" => {
                    let names = rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                    let missing = names.filter(|name| value.get(name).is_none());
                    wrong.extend(missing.map(|name| format!("{at}: `{name}` is missing")));
                }
                "properties" => {
                    for (name, value) in value.as_object().unwrap_or(&Map::new()) {
                        match rule.get(name) {
                            Some(rule) => self.check(rule, value, &format!("{at}.{name}"), wrong),
                            None => wrong.push(format!("{at}: the guide does not name `{name}`")),
                        }
                    }
                }
                "anyOf" => {
                    let tries = rule.as_array().unwrap().iter().map(|one| {
                        let mut wrong = Vec::new();
                        self.check(one, value, at, &mut wrong);
                        wrong
                    });
                    let tries: Vec<_> = tries.collect();
                    if !tries.iter().any(Vec::is_empty) {
                        wrong.extend(tries.concat());
                    }
                }
                "const" | "enum" | "$schema" | "title" | "$defs" => {}
                other => panic!("{at}: the test does not know `{other}`"),
            }
        }
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type is called {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_what_the_guide_says() {
    let contract = Contract::read();
    let db = Db::new();
    db.documents("t", 100, 50).await;
    let mut seen = BTreeSet::new();
    let mut go = |name: &'static str, verb: &str, more: &[&str], code: i32| -> Value {
        let ran = db.relance(verb, "t", &[more, &["--json"]].concat()).expect(code);
        contract.expect(name, &ran.json());
        seen.insert(name);
        ran.json()
    };
    let add = ["--add", "n:int64=7"];
    let nulls = ["--cast", "text:int64", "--on-bad-value", "null"];
    go("plan", "plan", &[&add[..], &nulls].concat(), 0);
    go("plan", "plan", &["--rename", "text=words", "--drop", "vector"], 0);
    go("plan", "migrate", &[&add[..], &["--dry-run"]].concat(), 0);
    go("error", "migrate", &["--cast", "text:int64"], 3);
    go("error", "resume", &[], 1);
    go("error", "plan", &[], 2);
    let held = go("migrate", "migrate", &[&nulls[..], &["--hold"]].concat(), 0);
    assert_eq!(held["held"]["values_nulled"][0]["problem"], "not-a-value");
    go("error", "migrate", &add, 6);
    go("status", "status", &[], 0);
    go("abort", "abort", &[], 0);
    let done = go("migrate", "migrate", &add, 0);
    assert_eq!(done["report"]["seconds"][0]["phase"], "plan");
    go("migrate", "migrate", &add, 0);
    go("status", "status", &[], 0);
    let verified = go("verify", "verify", &["--workers", "1", "--memory", "64MiB"], 0);
    assert_eq!(verified["columns"][0]["column"], "id");
    go("rollback", "rollback", &["--workers", "1"], 0);
    go("finalize", "finalize", &[], 0);
    go("migrate", "migrate", &["--add", "m:string", "--hold"], 0);
    go("migrate", "resume", &[], 0);
    db.append("t", documents_with_null(5_000)).await;
    go("status", "status", &[], 0);
    go("rollback", "rollback", &["--keep-writes"], 0);
    go("tune", "tune", &["--time", "1s"], 0);
    let sample = |name: &str| db.relance("sample", name, &["--rows", "10", "--dim", "2", "--json"]);
    contract.expect("sample", &sample("made").expect(0).json());
    std::fs::create_dir(db.table("broken")).unwrap();
    let all = run(Command::new(binary()).arg("status").arg(db.path()).arg("--json")).expect(0);
    contract.expect("status", &all.json());
    seen.insert("sample");
    let named = contract.0["anyOf"].as_array().unwrap().iter();
    let named = named.map(|one| one["$ref"].as_str().unwrap().trim_start_matches("#/$defs/"));
    assert_eq!(seen, named.collect());
}

/// Rows as `documents` has them, and an empty column `m`.
fn documents_with_null(from: i64) -> arrow::array::RecordBatch {
    use arrow::array::{RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    let rows = documents(from, 3);
    let fields = rows.schema().fields().iter().cloned().collect::<Vec<_>>();
    let field = Field::new("m", DataType::Utf8, true);
    let schema = Schema::new([fields, vec![field.into()]].concat());
    let empty = std::sync::Arc::new(StringArray::from(vec![None::<&str>; 3]));
    let columns = rows.columns().iter().cloned().chain([empty as _]).collect();
    RecordBatch::try_new(schema.into(), columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_a_stable_kind_and_the_exit_code() {
    let contract = Contract::read();
    let db = Db::new();
    db.documents("t", 10, 10).await;
    let error = |ran: Ran, kind: &str, exit: i32| {
        let json = ran.expect(exit).json();
        contract.expect("error", &json);
        assert_eq!((&json["error"]["kind"], &json["error"]["exit"]), (&json!(kind), &json!(exit)));
    };
    for verb in ["plan", "migrate", "resume", "abort", "status", "verify", "rollback", "finalize"] {
        let add: &[&str] =
            if ["plan", "migrate"].contains(&verb) { &["--drop", "id"] } else { &[] };
        error(db.relance(verb, "u", &[add, &["--json"]].concat()), "no-table", 1);
    }
    error(db.relance("resume", "t", &["--json"]), "failed", 1);
    error(db.relance("plan", "t", &["--json", "--workers", "0", "--drop", "id"]), "usage", 2);
    error(db.relance("plan", "t", &["--json", "--nonsense"]), "usage", 2);
    error(db.relance("plan", "t", &["--json", "--cast", "text:int8"]), "refused", 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_bear_time_table_and_migration() {
    let contract = Contract::read();
    let db = Db::new();
    db.documents("t", 100, 50).await;
    let ran = db.relance("migrate", "t", &["--add", "n:int8=1", "--json", "--progress", "json"]);
    let ran = ran.expect(0);
    let events: Vec<Value> =
        ran.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for event in &events {
        contract.expect(&format!("{}_event", event["event"].as_str().unwrap()), event);
        assert_eq!(event["table"], "t");
        let time = event["time"].as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(time).expect(time);
    }
    let id = &ran.json()["report"]["id"];
    assert_eq!(&events.last().unwrap()["migration"], id);
    assert_eq!(events[0]["migration"], Value::Null, "there was none yet");
    let plain = db.relance("migrate", "t", &["--add", "m:int8=1", "--progress", "plain"]).expect(0);
    for line in plain.stderr.lines() {
        let (time, text) = line.split_once(' ').unwrap();
        chrono::DateTime::parse_from_rfc3339(time).expect(line);
        assert!(text.starts_with("t: "), "{line}");
    }
}
