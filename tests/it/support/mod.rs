//! Real tables in a fresh directory, and the real binary.

pub mod books;
pub mod gate;
pub mod mortal;
pub mod walk;

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch,
    RecordBatchIterator, StringArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow_select::concat::concat_batches;
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use lance_file::version::LanceFileVersion;
use relance::{Change, Location, Migration, Settings, Strategy};
use tempfile::TempDir;

/// A database in a directory of its own.
pub struct Db {
    pub dir: TempDir,
}

/// What a command printed, and its exit code.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    pub fn says(self, text: &str) -> Self {
        let both = format!("{}{}", self.stdout, self.stderr);
        assert!(both.contains(text), "{text:?} is not in:\n{both}");
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).expect(&self.stdout)
    }
}

impl Db {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn text(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    pub fn table(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.lance"))
    }

    pub fn uri(&self, name: &str) -> String {
        self.table(name).to_str().unwrap().to_owned()
    }

    /// Writes `batches` as a table, a fragment each `rows_per_file`.
    pub async fn write(
        &self,
        name: &str,
        batches: Vec<RecordBatch>,
        params: WriteParams,
    ) -> Dataset {
        let schema = batches[0].schema();
        let reader = RecordBatchIterator::new(batches.into_iter().map(Ok), schema);
        Dataset::write(reader, &self.uri(name), Some(params)).await.unwrap()
    }

    /// A table of `rows` documents, `id`, `text`, `vector[8]`, `rows_per_file` to a fragment.
    pub async fn documents(&self, name: &str, rows: i64, rows_per_file: usize) -> Dataset {
        let params = WriteParams { max_rows_per_file: rows_per_file, ..WriteParams::default() };
        self.write(name, vec![documents(0, rows)], params).await
    }

    pub async fn open(&self, name: &str) -> Dataset {
        Dataset::open(&self.uri(name)).await.unwrap()
    }

    pub async fn append(&self, name: &str, batch: RecordBatch) -> Dataset {
        let params = WriteParams { mode: WriteMode::Append, ..WriteParams::default() };
        self.write(name, vec![batch], params).await
    }

    /// All rows of the newest version.
    pub async fn rows(&self, name: &str) -> RecordBatch {
        rows_of(&self.open(name).await).await
    }

    /// A migration that adds columns by rewriting the table.
    pub fn migration(&self, name: &str, adds: &[&str]) -> Migration {
        let location = Location::new(self.text(), name).unwrap();
        let changes = adds.iter().map(|add| Change::parse_add(add).unwrap());
        changes.fold(Migration::of(location), Migration::change).strategy(Strategy::Rewrite)
    }

    /// Runs the command `verb` on the table `name`.
    pub fn relance(&self, verb: &str, name: &str, more: &[&str]) -> Ran {
        run(Command::new(binary()).arg(verb).arg(self.path()).arg(name).args(more))
    }

    /// Starts the command `verb` on the table `name`.
    pub fn start(&self, verb: &str, name: &str, more: &[&str]) -> Child {
        Command::new(binary())
            .arg(verb)
            .arg(self.path())
            .arg(name)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Every file below the database, with its size.
    pub fn files(&self) -> Vec<(String, u64)> {
        let mut files = Vec::new();
        walk(self.path(), &mut files);
        files.sort();
        files
    }

    /// Data files of any migration of relance's.
    pub fn staged_files(&self) -> Vec<PathBuf> {
        let files = self.files().into_iter().map(|(name, _)| PathBuf::from(name));
        files.filter(|file| file.to_string_lossy().contains("-relance-")).collect()
    }

    /// The folder of the staging table of `name`.
    pub fn staging(&self, name: &str) -> PathBuf {
        self.table(&format!("{name}__relance_staging"))
    }

    /// The last beat of the run that stages the table `name`, if it was seen, and the bytes that it takes.
    pub fn beat(&self, name: &str) -> Option<(u64, u64)> {
        let folder = std::fs::read_dir(self.staging(name).join("_relance")).ok()?;
        folder.flatten().find_map(|file| {
            let text = std::fs::read_to_string(file.path()).ok()?;
            let beat: serde_json::Value = serde_json::from_str(&text).ok()?;
            Some((beat["count"].as_u64()?, text.len() as u64))
        })
    }

    /// Dates all that a run has written of the staging table of `name` so many seconds ago.
    pub fn date_staging(&self, name: &str, seconds_ago: i64) {
        let then = chrono::Utc::now() - chrono::TimeDelta::seconds(seconds_ago);
        let folder = self.staging(name);
        for (file, _) in self.files() {
            if Path::new(&file).starts_with(&folder) {
                let file = std::fs::File::options().append(true).open(&file).unwrap();
                file.set_modified(then.into()).unwrap();
            }
        }
    }

    /// Whether there is anything of a staging table. A death can leave its empty directory.
    pub fn staging_exists(&self, name: &str) -> bool {
        let directory = self.staging(name);
        self.files().iter().any(|(file, _)| Path::new(file).starts_with(&directory))
    }
}

pub fn small() -> Settings {
    Settings { workers: 2, ..Settings::default() }
}

fn walk(directory: &Path, files: &mut Vec<(String, u64)>) {
    // A run may remove files meanwhile.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            walk(&entry.path(), files);
        } else {
            files.push((entry.path().to_str().unwrap().to_owned(), metadata.len()));
        }
    }
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_relance")
}

pub fn run(command: &mut Command) -> Ran {
    ran(command.output().unwrap())
}

pub fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Flips a bit of the byte `at` in `file`.
pub fn flip(file: &Path, at: u64) {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

/// Waits until `there` is true; fails after a long while.
pub fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < Duration::from_mins(1), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Documents with ids from `first`, `count` of them.
pub fn documents(first: i64, count: i64) -> RecordBatch {
    let ids: Vec<i64> = (first..first + count).collect();
    let texts = ids.iter().map(|id| (id % 7 != 3).then(|| format!("document number {id}")));
    let values = ids.iter().flat_map(|id| (0_u8..8).map(move |place| dimension(*id, place)));
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = Float32Array::from_iter_values(values);
    let vectors = FixedSizeListArray::try_new(item, 8, Arc::new(vectors), None).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(texts.collect::<StringArray>()),
        Arc::new(vectors),
    ];
    RecordBatch::try_new(document_schema(), columns).unwrap()
}

pub fn document_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("vector", DataType::new_fixed_size_list(DataType::Float32, 8, true), true),
    ]))
}

fn dimension(id: i64, place: u8) -> f32 {
    let id = u16::try_from(id.rem_euclid(1 << 15)).unwrap();
    f32::from(id) * 0.5 + f32::from(place)
}

/// All rows of `dataset`, in order.
pub async fn rows_of(dataset: &Dataset) -> RecordBatch {
    let schema = Arc::new(Schema::from(dataset.schema()));
    let batch = dataset.scan().try_into_batch().await.unwrap();
    concat_batches(&schema, [&batch]).unwrap()
}

pub fn ids(rows: &RecordBatch) -> Vec<i64> {
    rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec()
}

/// The columns of `before` are in `after` with the same values, in the same order.
pub fn assert_kept(before: &RecordBatch, after: &RecordBatch) {
    assert_eq!(before.num_rows(), after.num_rows());
    for field in before.schema().fields() {
        let (old, new) = (before.column_by_name(field.name()), after.column_by_name(field.name()));
        assert_eq!(old.unwrap().as_ref(), new.unwrap().as_ref(), "{}", field.name());
    }
}

pub fn at_version(version: LanceFileVersion) -> WriteParams {
    WriteParams::with_storage_version(version)
}

/// Makes a `BTree` index on `id`.
pub async fn index_ids(live: &mut Dataset) {
    let params = lance_index::scalar::ScalarIndexParams::default();
    let kind = lance_index::IndexType::BTree;
    let name = Some("id_idx".to_owned());
    lance::index::DatasetIndexExt::create_index(live, &["id"], kind, name, &params, false)
        .await
        .unwrap();
}
