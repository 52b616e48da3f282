//! Values from elsewhere: calls producers, joins by key, and keeps what they give until the swap, so that nothing is
//! computed twice.

mod assemble;
mod calls;
mod frame;
mod gone;
mod held;
pub(crate) mod join;
mod joins;
mod keys;
mod parts;
mod places;
mod producer;
mod program;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use arrow::datatypes::Field as ArrowField;
use arrow_select::take::take_record_batch;
use object_store::path::Path;

use crate::chunk::Chunk;
use crate::error::{Doing, Error, Result};
use crate::limits::MemoryPlan;
use crate::plan::Plan;
use crate::progress::{SharedProgress, note};
use crate::schema::elsewhere::{By, Elsewhere, Source};
use crate::settings::Settings;
use crate::storage::files::DataFiles;
use crate::supply::assemble::{Found, New, assemble};
use crate::supply::calls::Calls;
use crate::supply::frame::{Frame, FrameAt, Key};
use crate::supply::gone::Gone;
use crate::supply::join::{Joined, OtherData, join_of};
pub(crate) use crate::supply::join::{NOT_NEEDED, Row};
pub(crate) use crate::supply::joins::row_keys;
use crate::supply::parts::Parts;
pub(crate) use crate::supply::places::{Cursor, Places};
pub use crate::supply::producer::Producer;
use crate::supply::{producer::Called, program::Program};
use crate::transform::{Transform, elsewhere::Provided};

/// The functions of this process that give values, each with the column that it is for. Where a name has several, they are
/// in the order of its changes.
pub(crate) type Functions = Vec<(String, Arc<dyn Producer>)>;

/// What comes from elsewhere for one plan.
#[derive(Debug)]
pub(crate) struct Supply {
    what: Vec<Elsewhere>,
    /// How each producer is called; `None` for what is joined.
    calls: Vec<Option<Calls>>,
    /// What is joined; `None` for producers.
    joins: Vec<Option<Joined>>,
    parts: Parts,
    gone: Mutex<Gone>,
    /// Bytes that keys of rows which others moved may take.
    moved_bytes: u64,
    progress: SharedProgress,
}

impl Supply {
    /// What `plan` needs from elsewhere; `None`, when that is nothing. Its values are kept in memory so far. `data` is the
    /// other data of each of its joins.
    ///
    /// # Errors
    /// `Usage`, when a function is not given, or a command line is none.
    pub(crate) fn of(
        plan: &Plan,
        functions: &Functions,
        data: Vec<Option<OtherData>>,
        settings: &Settings,
        progress: &SharedProgress,
    ) -> Result<Option<Self>> {
        let what = plan.target.elsewhere.clone();
        if what.is_empty() || plan.is_nothing() {
            return Ok(None);
        }
        let (mut calls, mut joins) = (Vec::new(), Vec::new());
        let mut data = data.into_iter();
        for (place, one) in what.iter().enumerate() {
            expect_keys(one)?;
            let Source::Producer(produce) = &one.from else {
                let join = join_of(one).zip(data.next());
                let join = join.map(|(join, data)| {
                    Joined::of(one, join, data, MemoryPlan::of(settings).sorts)
                });
                joins.push(join);
                calls.push(None);
                continue;
            };
            joins.push(None);
            let name = &produce.name;
            let called = match &produce.by {
                By::Program(line) => {
                    let version = produce.version.clone().unwrap_or_default();
                    let variables =
                        vec![("RELANCE_COLUMN", name.clone()), ("RELANCE_BY_VERSION", version)];
                    let program = Program::of(line, variables, Arc::clone(progress));
                    let program =
                        program.map_err(|error| error.about(&format!("--by of `{name}`")));
                    Called::Program(Arc::new(program?))
                }
                By::Function(function) => {
                    let earlier =
                        what.iter().take(place).filter(|other| other.name() == name.as_str());
                    let given = function_of(functions, name, earlier.count());
                    Called::Function(Arc::clone(given.ok_or_else(|| not_given(name, function))?))
                }
            };
            let nullable = plan.target.after.field(name).is_none_or(|field| field.nullable);
            let field = one.outputs.first().cloned();
            let field = field.ok_or_else(|| Error::failed("a producer gives nothing"))?;
            let settings = (settings, plan.request.on_bad_value);
            let rows = one.batch_rows();
            let field = ArrowField::with_nullable(field, nullable);
            calls.push(Some(Calls::of(called, field, rows, settings, progress)));
        }
        let (parts, gone) = (Parts::in_memory(), Mutex::default());
        let moved_bytes = MemoryPlan::of(settings).moved_keys;
        let progress = Arc::clone(progress);
        Ok(Some(Self { what, calls, joins, parts, gone, moved_bytes, progress }))
    }

    /// The same, with its values kept below `root`, the staging table's folder: those that are there, and those that are
    /// in memory.
    ///
    /// # Errors
    /// `Failed`, when they cannot be read or written.
    pub(crate) async fn kept(self, files: Arc<dyn DataFiles>, root: &Path) -> Result<Self> {
        let parts = Parts::open_parts(files, root).await?;
        parts.take_over(&self.parts).await?;
        Ok(Self { parts, ..self })
    }

    pub(crate) fn what(&self) -> &[Elsewhere] {
        &self.what
    }

    /// Rows of a batch that suit the producers, if `rows` suit everything else.
    pub(crate) fn batch_rows(&self, rows: u32) -> u32 {
        let most = self.calls.iter().flatten().map(Calls::rows_at_once).max();
        let each =
            self.calls.iter().flatten().zip(&self.what).map(|(_, what)| what.batch_rows()).max();
        let (Some(most), Some(each)) = (most, each) else { return rows };
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        rows.max(most).div_ceil(each).saturating_mul(each)
    }

    /// Takes in which fragments the table has now.
    pub(crate) fn expect_fragments(&self, chunks: &[Chunk]) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.live.clear();
        for fragment in chunks.iter().flat_map(|chunk| &chunk.fragments) {
            let signature = &fragment.origin.signature;
            let first = *gone.first.entry(signature.clone()).or_insert(fragment.rows);
            // What an earlier run saw of it is not known.
            let deleted = fragment.rows < fragment.physical_rows && self.parts.was_kept(signature);
            if first == fragment.rows && !deleted {
                gone.live.insert(signature.clone());
            }
        }
    }

    /// What `transform` needs from elsewhere for the rows of `batch`, which lie at `places`. For rows that are `hidden`
    /// nothing is computed that is not there.
    ///
    /// # Errors
    /// `Failed`, when a producer does, or something cannot be kept.
    pub(crate) async fn provide(
        &self,
        transform: &Transform,
        batch: &RecordBatch,
        places: &Places,
        hidden: Option<&BooleanArray>,
    ) -> Result<Vec<Option<Provided>>> {
        let mut all = vec![None; self.what.len()];
        let not_needed = transform.not_needed(batch, hidden)?;
        for place in transform.needs() {
            let inputs = transform.inputs_of(place, batch, hidden, &all)?;
            let provided = self.one(place, &inputs, places, not_needed.as_ref()).await?;
            if let Some(slot) = all.get_mut(place) {
                *slot = Some(provided);
            }
        }
        Ok(all)
    }

    async fn one(
        &self,
        place: usize,
        inputs: &RecordBatch,
        places: &Places,
        not_needed: Option<&BooleanArray>,
    ) -> Result<Provided> {
        let keys = keys::keys_of(inputs.columns(), inputs.num_rows())?;
        let mut frames: HashMap<FrameAt, Arc<Frame>> = HashMap::new();
        let mut found = self.find_kept(place, places, &keys, &mut frames).await?;
        let is_needed = |row: &usize| not_needed.is_none_or(|not| !not.value(*row));
        let missing: Vec<usize> =
            (0..keys.len()).filter(|row| found.get(*row).is_some_and(Option::is_none)).collect();
        let mut missing: Vec<usize> = missing.into_iter().filter(is_needed).collect();
        if !missing.is_empty() {
            self.find_gone(place, &keys, &mut missing, &mut found, &mut frames).await?;
        }
        let new = self.call_missing(place, inputs, places, &keys, &missing).await?;
        let outputs = self.what.get(place).map_or(&[][..], |what| what.outputs.as_slice());
        assemble(keys.len(), outputs, &found, &frames, &new)
    }

    /// The values of the rows that are kept, if they were computed of the same inputs.
    async fn find_kept(
        &self,
        place: usize,
        places: &Places,
        keys: &[Key],
        frames: &mut HashMap<FrameAt, Arc<Frame>>,
    ) -> Result<Found> {
        let mut all: Found = vec![None; keys.len()];
        for (fragment, from, rows) in places.by_fragment() {
            let of = (place, fragment.clone());
            let found = self.parts.find_rows(&of, &rows).await?;
            for ((row, key), found) in (from..).zip(keys.get(from..).unwrap_or_default()).zip(found)
            {
                let Some((at, inside)) = found else { continue };
                if !frames.contains_key(&at) {
                    let Some(frame) = self.parts.read_frame(&at).await? else {
                        note(
                            &self.progress,
                            "what a producer gave is not as it was written; it is called again",
                        );
                        self.parts.forget_damaged(&of, &at);
                        continue;
                    };
                    frames.insert(at.clone(), frame);
                }
                let same = frames.get(&at).and_then(|frame| frame.keys.get(inside)) == Some(key);
                if let (true, Some(slot)) = (same, all.get_mut(row)) {
                    *slot = Some((at, inside));
                }
            }
        }
        Ok(all)
    }

    /// Calls the producer for the rows that are `missing`, and keeps what it gives. Gives the place of each row among
    /// them, and their values.
    async fn call_missing(
        &self,
        place: usize,
        inputs: &RecordBatch,
        places: &Places,
        keys: &[Key],
        missing: &[usize],
    ) -> Result<New> {
        if missing.is_empty() {
            return Ok((HashMap::new(), Vec::new()));
        }
        let what = self.what.get(place);
        let name = what.map_or("", Elsewhere::name);
        let Some(calls) = self.calls.get(place).and_then(Option::as_ref) else {
            let keys: Vec<Key> = missing.iter().filter_map(|row| keys.get(*row).copied()).collect();
            let found = self.joined(place)?.provide(&keys).await?.ok_or_else(|| {
                let count = missing.len();
                Error::failed(format!("{count} rows of column `{name}` are not joined yet"))
            })?;
            return Ok((missing.iter().copied().zip(0..).collect(), vec![found]));
        };
        let rows: Vec<u32> = missing.iter().filter_map(|row| u32::try_from(*row).ok()).collect();
        let wanted = if rows.len() == inputs.num_rows() {
            inputs.clone()
        } else {
            let taken = take_record_batch(inputs, &UInt32Array::from(rows));
            taken.doing(|| format!("gather the inputs of `{name}`"))?
        };
        // A frame is of one fragment.
        let runs = places.fragment_runs(missing);
        let pieces = runs.iter().flat_map(|(_, run)| calls.pieces(run.clone())).collect();
        let keep = |piece: Range<usize>, provided: Provided| {
            let rows = missing.get(piece.clone()).unwrap_or_default();
            let keys = rows.iter().filter_map(|row| keys.get(*row).copied()).collect();
            let fragment = places.fragment_of(rows.first().copied().unwrap_or_default());
            let own: Vec<u32> =
                rows.iter().filter_map(|row| places.row_in_fragment(*row)).collect();
            let frame = Arc::new(Frame { keys, provided });
            async move {
                let fragment = fragment.ok_or_else(|| Error::failed("a row is of no fragment"))?;
                self.parts.keep_rows(&(place, fragment), &own, frame).await
            }
        };
        let all = calls.each(&wanted, pieces, keep).await?;
        Ok((missing.iter().copied().zip(0..).collect(), all))
    }

    /// Makes what was given for `chunk` durable.
    ///
    /// # Errors
    /// `Failed`, when it cannot be written.
    pub(crate) async fn finish_chunk(&self, chunk: &Chunk) -> Result<()> {
        for (place, _) in self.what.iter().enumerate() {
            for fragment in &chunk.fragments {
                self.parts.finish_part(&(place, fragment.origin.signature.clone())).await?;
            }
        }
        Ok(())
    }

    /// Lets programs end.
    ///
    /// # Errors
    /// `Mismatch`, when one did not give one batch for each; what this run kept is removed then.
    pub(crate) async fn close(&self) -> Result<()> {
        for calls in self.calls.iter().flatten() {
            if let Called::Program(program) = &calls.called
                && let Err(error) = program.close().await
            {
                self.parts.remove_own().await?;
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The function number `at` for the column `name`; the last one, when there are fewer.
pub(crate) fn function_of<'a>(
    functions: &'a Functions,
    name: &str,
    at: usize,
) -> Option<&'a Arc<dyn Producer>> {
    let own = functions.iter().filter(|(column, _)| column == name).map(|(_, function)| function);
    own.take(at + 1).last()
}

/// Refuses inputs that cannot be told apart.
fn expect_keys(what: &Elsewhere) -> Result<()> {
    let unlike = what.inputs.iter().find(|(field, _)| !keys::has_keys(field.data_type()));
    unlike.map_or(Ok(()), |(field, _)| {
        let (name, input) = (what.name(), field.name());
        let kind = crate::schema::show::type_text(field.data_type());
        Err(Error::refused(format!("column `{name}`: {kind} cannot be an input, as `{input}` is")))
    })
}

fn not_given(name: &str, function: &str) -> Error {
    Error::usage(format!(
        "the values of column `{name}` come from the function `{function}`, which was not given"
    ))
    .with_advice("give the function that the migration began with, and go on")
}
