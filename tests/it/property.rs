//! Random tables, random changes, random strategies and random deaths, against a model of plain rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::{ReaderBuilder, WriterBuilder, writer::JsonArray};
use lance::dataset::WriteParams;
use lance_io::object_store::WrappingObjectStore;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use relance::parse_type;
use relance::{Change, Location, Migration, Request, Strategy as Way};
use serde_json::{Value, json};

use crate::support::mortal::{How, Mortal, Wrap};
use crate::support::{Db, small};

/// A column of the model: its type, and whether it may be null.
#[derive(Debug, Clone, PartialEq)]
struct Column {
    kind: &'static str,
    nullable: bool,
}

/// A table of plain rows.
#[derive(Debug, Clone)]
struct Model {
    columns: Vec<(String, Column)>,
    rows: Vec<BTreeMap<String, Value>>,
}

const KINDS: [&str; 6] =
    ["int64", "string", "double", "bool", "struct<x: int64, y: string>", "list<int64>"];

fn value_of(kind: &str, seed: u64) -> Value {
    match kind {
        "int64" => json!(seed % 1000),
        "string" => json!(format!("{}", seed % 500)),
        "double" => json!(f64::from(u32::try_from(seed % 900).unwrap()) / 2.0),
        "bool" => json!(seed.is_multiple_of(2)),
        "list<int64>" => json!((0..seed % 3).collect::<Vec<_>>()),
        _ => json!({ "x": seed % 90, "y": format!("y{}", seed % 7) }),
    }
}

/// An expression over the column `input`.
fn sql_of(kind: &str, input: &str) -> Option<String> {
    match kind {
        "int64" => Some(format!("{input} + 1")),
        "string" => Some(format!("concat({input}, '!')")),
        "bool" => Some(format!("not {input}")),
        _ => None,
    }
}

/// What that expression gives for `value`.
fn computed(kind: &str, value: &Value) -> Value {
    match value {
        Value::Null if kind == "string" => json!("!"),
        Value::Number(number) => json!(number.as_i64().unwrap() + 1),
        Value::String(text) => json!(format!("{text}!")),
        Value::Bool(bool) => json!(!bool),
        _ => Value::Null,
    }
}

/// What is asked, as text, once for relance and once for the model.
#[derive(Debug, Clone)]
enum Ask {
    Add(usize, u64, bool),
    Compute(usize),
    Cast(usize),
    Set(usize),
    Fill(usize, u64),
    Rename(usize),
    Drop(usize),
    Nullable(usize),
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        (0..KINDS.len(), any::<u64>(), any::<bool>())
            .prop_map(|(kind, seed, null)| Ask::Add(kind, seed, null)),
        any::<usize>().prop_map(Ask::Compute),
        any::<usize>().prop_map(Ask::Cast),
        any::<usize>().prop_map(Ask::Set),
        (any::<usize>(), any::<u64>()).prop_map(|(column, seed)| Ask::Fill(column, seed)),
        any::<usize>().prop_map(Ask::Rename),
        any::<usize>().prop_map(Ask::Drop),
        any::<usize>().prop_map(Ask::Nullable),
    ]
}

impl Model {
    fn of(kinds: &[usize], rows: u64, seed: u64) -> Self {
        let kinds = kinds.iter().map(|kind| KINDS[*kind]);
        let columns: Vec<_> = kinds
            .enumerate()
            .map(|(at, kind)| (format!("c{at}"), Column { kind, nullable: at % 3 != 2 }))
            .collect();
        let cell = |row: u64, at: usize, column: &Column| {
            let seed = seed.wrapping_mul(31).wrapping_add(row * 7 + at as u64);
            let null = column.nullable && seed.is_multiple_of(5);
            if null { Value::Null } else { value_of(column.kind, seed >> 3) }
        };
        let row = |row: u64| {
            let cells = columns.iter().enumerate();
            let cells = cells.map(|(at, (name, column))| (name.clone(), cell(row, at, column)));
            let number = ("row".to_owned(), json!(row));
            cells.chain([number]).collect()
        };
        let rows = (0..rows).map(row).collect();
        let mut all = columns.clone();
        all.push(("row".to_owned(), Column { kind: "int64", nullable: false }));
        Self { columns: all, rows }
    }

    /// Applies `ask`, and gives the change as relance takes it; `None`, where it does not apply.
    #[allow(clippy::too_many_lines, reason = "one arm for each change")]
    fn apply(&mut self, ask: &Ask, number: usize) -> Option<Change> {
        // The last column, `row`, stays, so that rows can be told apart.
        let pick = |at: &usize| at % (self.columns.len() - 1).max(1);
        let (verb, text) = match ask {
            Ask::Add(kind, seed, null) => {
                let (name, kind) = (format!("a{number}"), KINDS[*kind]);
                let value = if *null { Value::Null } else { value_of(kind, *seed) };
                self.rows.iter_mut().for_each(|row| drop(row.insert(name.clone(), value.clone())));
                let at = self.columns.len() - 1;
                self.columns.insert(at, (name.clone(), Column { kind, nullable: true }));
                let literal = match &value {
                    Value::Null => String::new(),
                    Value::String(text) => format!("={text}"),
                    other => format!("={other}"),
                };
                ("add", format!("{name}:{kind}{literal}"))
            }
            Ask::Compute(at) => {
                let (input, column) = self.columns[pick(at)].clone();
                let name = format!("k{number}");
                let kind = column.kind;
                let sql = sql_of(kind, &input)?;
                for row in &mut self.rows {
                    let made = computed(kind, &row[&input]);
                    row.insert(name.clone(), made);
                }
                let at = self.columns.len() - 1;
                self.columns.insert(at, (name.clone(), Column { kind, nullable: true }));
                ("compute", format!("{name}={sql}"))
            }
            Ask::Cast(at) => {
                let place = pick(at);
                let (name, column) = self.columns[place].clone();
                let to = match column.kind {
                    "int64" => "string",
                    "string"
                        if self.rows.iter().all(|row| {
                            row[&name].is_null()
                                || row[&name]
                                    .as_str()
                                    .is_some_and(|text| text.parse::<i64>().is_ok())
                        }) =>
                    {
                        "int64"
                    }
                    _ => return None,
                };
                for row in &mut self.rows {
                    let cast = match &row[&name] {
                        Value::Number(number) => json!(number.to_string()),
                        Value::String(text) => json!(text.parse::<i64>().unwrap()),
                        other => other.clone(),
                    };
                    row.insert(name.clone(), cast);
                }
                self.columns[place].1.kind = to;
                ("cast", format!("{name}:{to}"))
            }
            Ask::Set(at) => {
                let (name, column) = self.columns[pick(at)].clone();
                let sql = sql_of(column.kind, &name)?;
                for row in &mut self.rows {
                    let made = computed(column.kind, &row[&name]);
                    row.insert(name.clone(), made);
                }
                ("set", format!("{name}={sql}"))
            }
            Ask::Fill(at, seed) => {
                let (name, column) = self.columns[pick(at)].clone();
                if !matches!(column.kind, "int64" | "string") || !column.nullable {
                    return None;
                }
                let value = value_of(column.kind, *seed);
                for row in self.rows.iter_mut().filter(|row| row[&name].is_null()) {
                    row.insert(name.clone(), value.clone());
                }
                (
                    "fill",
                    format!(
                        "{name}={}",
                        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                    ),
                )
            }
            Ask::Rename(at) => {
                let place = pick(at);
                let (name, to) = (self.columns[place].0.clone(), format!("r{number}"));
                for row in &mut self.rows {
                    let value = row.remove(&name).unwrap();
                    row.insert(to.clone(), value);
                }
                self.columns[place].0.clone_from(&to);
                ("rename", format!("{name}={to}"))
            }
            Ask::Drop(at) => {
                if self.columns.len() < 3 {
                    return None;
                }
                let (name, _) = self.columns.remove(pick(at));
                self.rows.iter_mut().for_each(|row| drop(row.remove(&name)));
                ("drop", name)
            }
            Ask::Nullable(at) => {
                let place = pick(at);
                if self.columns[place].1.nullable {
                    return None;
                }
                self.columns[place].1.nullable = true;
                ("nullable", self.columns[place].0.clone())
            }
        };
        Some(Change::parse(verb, &text).unwrap())
    }

    fn schema(&self) -> Arc<Schema> {
        let field = |(name, column): &(String, Column)| {
            Field::new(name, parse_type(column.kind).unwrap(), column.nullable)
        };
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    fn batch(&self) -> RecordBatch {
        let lines: String =
            self.rows.iter().flat_map(|row| [json!(row).to_string(), "\n".to_owned()]).collect();
        let reader = ReaderBuilder::new(self.schema()).with_batch_size(self.rows.len().max(1));
        let mut reader = reader.build(lines.as_bytes()).unwrap();
        reader.next().unwrap().unwrap()
    }
}

/// Rows as JSON, in order, nulls spelled out.
fn rows_of(batch: &RecordBatch) -> Vec<BTreeMap<String, Value>> {
    let mut out = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut out);
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    if out.is_empty() { Vec::new() } else { serde_json::from_slice(&out).unwrap() }
}

#[derive(Debug, Clone)]
struct Case {
    kinds: Vec<usize>,
    rows: u64,
    seed: u64,
    per_file: usize,
    asks: Vec<Ask>,
    way: Option<Way>,
    death: Option<(usize, bool)>,
}

fn case() -> impl Strategy<Value = Case> {
    let way = prop_oneof![Just(None), Just(Some(Way::Rewrite)), Just(Some(Way::Columns))];
    let death = proptest::option::weighted(0.6, (0_usize..18, any::<bool>()));
    let kinds = proptest::collection::vec(0..KINDS.len(), 1..5);
    let asks = proptest::collection::vec(ask(), 1..6);
    (kinds, 1_u64..60, any::<u64>(), 5_usize..40, asks, way, death).prop_map(
        |(kinds, rows, seed, per_file, asks, way, death)| Case {
            kinds,
            rows,
            seed: seed % 10_000,
            per_file,
            asks,
            way,
            death,
        },
    )
}

/// Runs `case`, and gives how it was carried out, and whether it died on the way.
async fn run(case: &Case) -> Option<(String, bool)> {
    let db = Db::new();
    let mut model = Model::of(&case.kinds, case.rows, case.seed);
    let params = WriteParams { max_rows_per_file: case.per_file, ..WriteParams::default() };
    let mut live = db.write("t", vec![model.batch()], params).await;
    live.delete("row % 7 = 3").await.unwrap();
    model.rows.retain(|row| row["row"].as_u64().unwrap() % 7 != 3);
    let changes: Vec<Change> =
        case.asks.iter().enumerate().filter_map(|(number, ask)| model.apply(ask, number)).collect();
    if changes.is_empty() {
        return None;
    }
    let location = Location::new(&format!("file-object-store://{}", db.text()), "t").unwrap();
    let migration = |mortal: Arc<Mortal>| {
        let wrapper: Arc<dyn WrappingObjectStore> = Arc::new(Wrap(mortal));
        Migration::of(location.clone()).settings(small()).store_wrapper(wrapper)
    };
    let asked = |way: Option<Way>| Request {
        changes: changes.clone(),
        strategy: way,
        ..Request::default()
    };
    // Not every strategy can do everything: then the cheapest one is taken.
    let nobody = migration(Mortal::never());
    let possible = nobody.clone().request(asked(case.way)).plan().await.is_ok();
    let request = asked(case.way.filter(|_| possible));
    let mortal = match case.death {
        None => Mortal::never(),
        Some((at, before)) => Mortal::at(at, if before { How::DiesBefore } else { How::DiesAfter }),
    };
    let planned = nobody.clone().request(request.clone()).plan().await.unwrap();
    let result = migration(mortal).request(request.clone()).migrate().await;
    let died = result.is_err();
    if died {
        let status = nobody.status().await.unwrap();
        if status.staged.is_some() {
            nobody.resume().await.map(drop).unwrap();
        } else if status.rollback_points.is_empty() {
            nobody.clone().request(request).migrate().await.map(drop).unwrap();
        }
    }
    let dataset = db.open("t").await;
    dataset.validate().await.unwrap();
    let found = db.rows("t").await;
    let names: Vec<_> = found.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut wanted: Vec<_> = model.columns.iter().map(|(name, _)| name.clone()).collect();
    let mut sorted = names.clone();
    wanted.sort();
    sorted.sort();
    assert_eq!(sorted, wanted);
    for (name, column) in &model.columns {
        let field = found.schema().field_with_name(name).unwrap().clone();
        let kind: DataType = parse_type(column.kind).unwrap();
        assert_eq!((field.data_type(), field.is_nullable()), (&kind, column.nullable), "{name}");
    }
    assert_eq!(rows_of(&found), model.rows);
    nobody.verify().await.unwrap();
    nobody.rollback(relance::Writes::Refuse).await.unwrap();
    Some((format!("{:?}", planned.strategy), died))
}

#[test]
fn random_changes_agree_with_a_model_of_plain_rows() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config =
        Config { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let seen = std::sync::Mutex::new(BTreeMap::<(String, bool), u32>::new());
    let mut runner = TestRunner::new(config);
    let tried = runner.run(&case(), |case| {
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(run(&case))));
        let outcome =
            outcome.map_err(|_| TestCaseError::fail("the table is not what the model is"))?;
        if let Some(outcome) = outcome {
            *seen.lock().unwrap().entry(outcome).or_insert(0) += 1;
        }
        Ok(())
    });
    tried.unwrap();
    let seen = seen.into_inner().unwrap();
    println!("random migrations, by strategy and death: {seen:?}");
    for way in ["Columns", "Rewrite"] {
        for died in [false, true] {
            assert!(seen.contains_key(&(way.to_owned(), died)), "{way}, died {died}: {seen:?}");
        }
    }
}
