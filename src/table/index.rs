//! Indices: what is needed to build each again as it was, and building them on the swapped table.

use std::{collections::HashMap, sync::Arc};

use arrow::array::ArrayRef;
use async_trait::async_trait;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::index::vector::{StageParams, VectorIndexParams};
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt, IndexBuildProgress};
use lance::{Dataset, dataset::CommitBuilder};
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::scalar::ScalarIndexParams;
use lance_index::vector::bq::{RQBuildParams, builder::RabitQuantizer};
use lance_index::vector::pq::{PQBuildParams, ProductQuantizer};
use lance_index::vector::sq::{ScalarQuantizer, builder::SQBuildParams};
use lance_index::vector::{
    VectorIndex, hnsw::builder::HnswBuildParams, ivf::builder::IvfBuildParams,
    quantizer::QuantizationType, v3::subindex::SubIndexType,
};
use lance_index::{IndexDescription, IndexParams, IndexType, is_system_index};
use lance_table::format::IndexMetadata;
use serde::Deserialize;

use crate::error::{Doing, Error, Result};
use crate::plan::{IndexFacts, Rebuild};
use crate::progress::{Amount, Event, SharedProgress};
use crate::storage::names::new_uuid;
use crate::table::commit::{Act, properties};
use crate::table::open::{indices_of, newest};

/// What is needed to build an index again as it was.
enum Recipe {
    Scalar(IndexType, ScalarIndexParams),
    Vector(Box<VectorIndexParams>),
}

impl Recipe {
    /// The parts that each vector is cut into, where it is.
    fn sub_vectors(&self) -> Option<usize> {
        let Self::Vector(params) = self else { return None };
        params.stages.iter().find_map(|stage| match stage {
            StageParams::PQ(pq) => Some(pq.num_sub_vectors),
            StageParams::Ivf(_)
            | StageParams::Hnsw(_)
            | StageParams::SQ(_)
            | StageParams::RQ(_) => None,
        })
    }

    /// Centroids and codebooks of other values are none of these.
    fn forget_what_was_learnt(&mut self) {
        let Self::Vector(params) = self else { return };
        for stage in &mut params.stages {
            match stage {
                StageParams::Ivf(ivf) => ivf.centroids = None,
                StageParams::PQ(pq) => pq.codebook = None,
                StageParams::Hnsw(_) | StageParams::SQ(_) | StageParams::RQ(_) => {}
            }
        }
    }
}

/// An index of a dataset, and where it is.
struct ExistingIndex {
    name: String,
    column: String,
    kind: String,
    bytes: Option<u64>,
    details: Details,
    first: IndexMetadata,
}

/// What Lance keeps of the way in which a vector index was built, beside the index itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Details {
    target_partition_size: Option<usize>,
    runtime_hints: HashMap<String, String>,
}

/// What the planner needs to know of the indices of `dataset`, by name. Reads a part of each index's
/// files, to see that its parameters can be known.
///
/// # Errors
/// `Failed`, when the index list cannot be read.
pub(crate) async fn facts(dataset: &Dataset) -> Result<Vec<IndexFacts>> {
    let mut facts = Vec::new();
    for found in find(dataset).await? {
        let recipe = recipe(dataset, &found).await;
        facts.push(IndexFacts {
            sub_vectors: recipe.as_ref().ok().and_then(Recipe::sub_vectors),
            unknown: recipe.err().map(|error| error.report(&[]).replace('\n', " ")),
            name: found.name,
            column: found.column,
            kind: found.kind,
            bytes: found.bytes,
        });
    }
    Ok(facts)
}

/// How often an index is built again over a version that others committed meanwhile.
const BUILT_AGAIN: u32 = 3;

/// Builds the indices `wanted` that `live` lacks, as they are in `source`, and commits each to the live table. One that
/// cannot be committed beside what others did meanwhile is built again over what they left, if they did not build it.
///
/// Gives back the newest version.
///
/// # Errors
/// `Failed`, naming the index. The table reads without it, slower.
///
/// # Crash
/// The indices that were committed are there; calling this again builds the rest.
pub(crate) async fn rebuild(
    source: &Dataset,
    live: Arc<Dataset>,
    wanted: &[Rebuild],
    id: &str,
    progress: &SharedProgress,
) -> Result<Arc<Dataset>> {
    let mut live = live;
    for wanted in missing(&live, wanted).await? {
        live = publish(source, live, &wanted, id, progress).await?;
        progress.event(Event::Advanced(Amount { chunks: 1, ..Amount::default() }));
    }
    Ok(live)
}

/// Builds the index `wanted` and commits it to the live table.
async fn publish(
    source: &Dataset,
    mut live: Arc<Dataset>,
    wanted: &Rebuild,
    id: &str,
    progress: &SharedProgress,
) -> Result<Arc<Dataset>> {
    let mut again = 0;
    loop {
        let built = build_one(source, &live, wanted, id, progress).await.map_err(|error| {
            error.with_advice(&format!(
                "`relance resume` builds index `{name}` again, with `--drop-index {name}` it does without",
                name = wanted.name
            ))
        })?;
        match commit(Arc::clone(&live), vec![built], Vec::new(), id).await {
            Ok(published) => return Ok(Arc::new(published)),
            Err(lance::Error::RetryableCommitConflict { .. }) if again < BUILT_AGAIN => {}
            Err(error) => return Err(error).doing(|| format!("publish index `{}`", wanted.name)),
        }
        again += 1;
        live = newest(&live).await?;
        if missing(&live, std::slice::from_ref(wanted)).await?.is_empty() {
            return Ok(live);
        }
    }
}

/// Drops the indices of these `names` that `live` still has. Gives back the newest version.
///
/// # Errors
/// `Failed`, when the index list cannot be read or written.
pub(crate) async fn drop_named(
    live: Arc<Dataset>,
    names: &[String],
    id: &str,
) -> Result<Arc<Dataset>> {
    if names.is_empty() {
        return Ok(live);
    }
    let indices = indices_of(&live).await?;
    let removed: Vec<_> = indices.iter().filter(|one| names.contains(&one.name)).cloned().collect();
    if removed.is_empty() {
        return Ok(live);
    }
    let committed = commit(live, Vec::new(), removed, id).await;
    Ok(Arc::new(committed.doing(|| format!("drop the indices {}", names.join(", ")))?))
}

/// Commits `new` indices to the live table, and `removed` ones out of it, for the migration `id`.
async fn commit(
    live: Arc<Dataset>,
    new: Vec<IndexMetadata>,
    removed: Vec<IndexMetadata>,
    id: &str,
) -> lance::Result<Dataset> {
    let operation = Operation::CreateIndex { new_indices: new, removed_indices: removed };
    let transaction = TransactionBuilder::new(live.version_id(), operation)
        .uuid(new_uuid(id).to_string())
        .transaction_properties(Some(Arc::new(properties(id, Act::Index))))
        .build();
    CommitBuilder::new(live).with_skip_auto_cleanup(true).execute(transaction).await
}

/// Builds the indices `wanted` over the rows of `prepared`, a version that no reader sees yet, as they are
/// in `source`; publishes none.
///
/// # Errors
/// `Failed`, naming the index.
///
/// # Crash
/// Files of indices that no version names are left; their names tell whose they are.
pub(crate) async fn prebuild(
    source: &Dataset,
    prepared: &Dataset,
    wanted: &[Rebuild],
    id: &str,
    progress: &SharedProgress,
) -> Result<Vec<IndexMetadata>> {
    let mut all = Vec::new();
    for wanted in wanted {
        let built = build_one(source, prepared, wanted, id, progress).await.map_err(|error| {
            error.with_advice(&format!("--drop-index {} goes on without it", wanted.name))
        })?;
        all.push(built);
        progress.event(Event::Advanced(Amount { chunks: 1, ..Amount::default() }));
    }
    Ok(all)
}

/// Those of the indices `wanted` that `live` lacks.
///
/// # Errors
/// `Failed`, when the index list cannot be read.
pub(crate) async fn missing(live: &Dataset, wanted: &[Rebuild]) -> Result<Vec<Rebuild>> {
    let there = find(live).await?;
    let is_there = |wanted: &&Rebuild| {
        there.iter().any(|found| found.name == wanted.name && found.column == wanted.column)
    };
    let missing = wanted.iter().filter(|wanted| !is_there(wanted));
    Ok(missing.cloned().collect())
}

/// The names of the indices of `dataset` that users made.
///
/// # Errors
/// `Failed`, when the index list cannot be read.
pub(crate) async fn names(dataset: &Dataset) -> Result<Vec<String>> {
    let indices = indices_of(dataset).await?;
    let made = indices.iter().filter(|index| !is_system_index(index));
    let mut names: Vec<String> = made.map(|index| index.name.clone()).collect();
    // One for each of its segments.
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The indices of `dataset` that users made, by name.
async fn find(dataset: &Dataset) -> Result<Vec<ExistingIndex>> {
    let described = dataset.describe_indices(None).await;
    let described = described.doing(|| format!("read the index list of {}", dataset.uri()))?;
    let mut all = Vec::new();
    for description in described {
        let first = description.segments().first().cloned();
        let Some(first) = first.filter(|first| !is_system_index(first)) else { continue };
        let details = description.details().unwrap_or_default();
        all.push(ExistingIndex {
            name: description.name().to_owned(),
            column: column_of(dataset, description.as_ref()),
            kind: description.index_type().to_owned(),
            bytes: description.total_size_bytes(),
            details: serde_json::from_str(&details).unwrap_or_default(),
            first,
        });
    }
    Ok(all)
}

fn column_of(dataset: &Dataset, description: &dyn IndexDescription) -> String {
    let ids = description.field_ids().iter();
    let paths = ids.filter_map(|id| dataset.schema().field_path(i32::try_from(*id).ok()?).ok());
    paths.collect::<Vec<_>>().join(", ")
}

/// Builds `wanted` over the rows of `on`, with the parameters that it has in `source`.
async fn build_one(
    source: &Dataset,
    on: &Dataset,
    wanted: &Rebuild,
    id: &str,
    progress: &SharedProgress,
) -> Result<IndexMetadata> {
    let (name, column) = (&wanted.name, wanted.column.as_str());
    let found = find(source).await?.into_iter().find(|found| found.name == *name);
    let found = found.ok_or_else(|| Error::failed(format!("index `{name}` is gone")))?;
    let mut recipe = recipe(source, &found).await?;
    if wanted.other_values {
        recipe.forget_what_was_learnt();
    }
    let (index_type, params): (IndexType, &dyn IndexParams) = match &recipe {
        Recipe::Scalar(index_type, params) => (*index_type, params),
        Recipe::Vector(params) => (params.index_type(), params.as_ref()),
    };
    let events = BuildEvents { name: name.clone(), progress: Arc::clone(progress) };
    let mut on = on.clone();
    on.create_index_builder(&[column], index_type, params)
        .name(name.clone())
        .index_uuid(new_uuid(id))
        .progress(Arc::new(events))
        .execute_uncommitted()
        .await
        .doing(|| format!("build index `{name}` on `{column}`"))
}

/// What is needed to build `found` again as it was.
async fn recipe(dataset: &Dataset, found: &ExistingIndex) -> Result<Recipe> {
    if found.first.fields.len() != 1 {
        return Err(Error::failed("it is on more than one column"));
    }
    if !found.first.covering_fields.is_empty() {
        return Err(Error::failed("it carries values of other columns"));
    }
    let (column, uuid) = (found.column.as_str(), &found.first.uuid);
    if found.kind.starts_with("IVF") || found.kind == "Vector" {
        let index = dataset.open_vector_index(column, uuid, &NoOpMetricsCollector).await;
        let index = index.doing(|| format!("open index `{}`", found.name))?;
        let mut params = vector_params(index.as_ref())?;
        apply_details(&mut params, &found.details);
        return Ok(Recipe::Vector(Box::new(params)));
    }
    let index = dataset.open_scalar_index(column, uuid, &NoOpMetricsCollector).await;
    let index = index.doing(|| format!("open index `{}`", found.name))?;
    let params = index.derive_index_params();
    let params = params.doing(|| format!("read the parameters of index `{}`", found.name))?;
    Ok(Recipe::Scalar(index.index_type(), params))
}

/// The parameters of a vector index, with what it learnt: the same rows need no second training.
fn vector_params(index: &dyn VectorIndex) -> Result<VectorIndexParams> {
    let metric = index.metric_type();
    let model = index.ivf_model();
    let mut ivf = IvfBuildParams::new(model.num_partitions());
    ivf.centroids = model.centroids.clone().map(Arc::new);
    let mut params = VectorIndexParams::with_ivf_flat_params(metric, ivf);
    let (sub_index, quantization) = index.sub_index_type();
    let is_hnsw = matches!(sub_index, SubIndexType::Hnsw);
    if is_hnsw && matches!(quantization, QuantizationType::Rabit) {
        return Err(Error::failed("Lance cannot build HNSW over RaBitQ"));
    }
    if is_hnsw {
        params.stages.push(StageParams::Hnsw(hnsw_params(index)?));
    }
    let quantizer = index.quantizer();
    let wrong =
        |error: lance::Error| Error::failed("its quantizer is not of its kind").caused_by(error);
    params.stages.extend(match quantization {
        QuantizationType::Flat | QuantizationType::FlatBin => None,
        QuantizationType::Product => {
            let pq = ProductQuantizer::try_from(quantizer).map_err(wrong)?;
            Some(StageParams::PQ(pq_params(&pq)))
        }
        QuantizationType::Scalar => {
            let sq = ScalarQuantizer::try_from(quantizer).map_err(wrong)?;
            let num_bits = sq.num_bits();
            Some(StageParams::SQ(SQBuildParams { num_bits, ..SQBuildParams::default() }))
        }
        QuantizationType::Rabit => {
            let rq = RabitQuantizer::try_from(quantizer).map_err(wrong)?;
            let rq = RQBuildParams::with_rotation_type(rq.num_bits(), rq.rotation_type());
            Some(StageParams::RQ(rq))
        }
    });
    Ok(params)
}

/// Sets what the index's details tell of its build (names as in lance 14
/// `src/index/vector/details.rs`); hints of others are passed on.
fn apply_details(params: &mut VectorIndexParams, details: &Details) {
    let hints = &details.runtime_hints;
    let number = |name: &str| hints.get(name).and_then(|text| text.parse::<usize>().ok());
    let set = |to: &mut usize, name: &str| *to = number(name).unwrap_or(*to);
    for stage in &mut params.stages {
        match stage {
            StageParams::Ivf(ivf) => {
                ivf.target_partition_size = details.target_partition_size;
                set(&mut ivf.sample_rate, "lance.ivf.sample_rate");
                set(&mut ivf.shuffle_partition_batches, "lance.ivf.shuffle_partition_batches");
                let concurrency = "lance.ivf.shuffle_partition_concurrency";
                set(&mut ivf.shuffle_partition_concurrency, concurrency);
                set(&mut ivf.max_iters, "lance.ivf.max_iters");
            }
            StageParams::PQ(pq) => {
                set(&mut pq.max_iters, "lance.pq.max_iters");
                set(&mut pq.sample_rate, "lance.pq.sample_rate");
                set(&mut pq.kmeans_redos, "lance.pq.kmeans_redos");
            }
            StageParams::SQ(sq) => set(&mut sq.sample_rate, "lance.sq.sample_rate"),
            StageParams::Hnsw(_) | StageParams::RQ(_) => {}
        }
    }
    let skip_transpose = hints.get("lance.skip_transpose").map(String::as_str);
    params.skip_transpose = skip_transpose == Some("true");
    params.runtime_hints.clone_from(hints);
}

fn pq_params(quantizer: &ProductQuantizer) -> PQBuildParams {
    PQBuildParams {
        num_sub_vectors: quantizer.num_sub_vectors,
        num_bits: quantizer.num_bits as usize,
        codebook: Some(ArrayRef::clone(quantizer.codebook.values())),
        ..PQBuildParams::default()
    }
}

/// The graph's parameters stand in the index's statistics and nowhere else.
fn hnsw_params(index: &dyn VectorIndex) -> Result<HnswBuildParams> {
    let statistics = index.statistics();
    let statistics = statistics.doing(|| "read the index's statistics".to_owned())?;
    let number = |name: &str| {
        let value = statistics.get("sub_index")?.get("params")?.get(name)?.as_u64()?;
        usize::try_from(value).ok()
    };
    let unknown = || Error::failed("its statistics do not tell the parameters of its graph");
    Ok(HnswBuildParams {
        max_level: number("max_level").and_then(|n| u16::try_from(n).ok()).ok_or_else(unknown)?,
        m: number("m").ok_or_else(unknown)?,
        ef_construction: number("ef_construction").ok_or_else(unknown)?,
        prefetch_distance: number("prefetch_distance"),
    })
}

/// Tells of the stages of a build.
#[derive(Debug)]
struct BuildEvents {
    name: String,
    progress: SharedProgress,
}

#[async_trait]
impl IndexBuildProgress for BuildEvents {
    async fn stage_start(&self, stage: &str, total: Option<u64>, unit: &str) -> lance::Result<()> {
        let total = total.map(|total| format!(", {total} {unit}")).unwrap_or_default();
        let text = format!("index `{}`: {}{total}", self.name, stage.replace('_', " "));
        self.progress.event(Event::Note(text));
        Ok(())
    }

    async fn stage_progress(&self, _: &str, _: u64) -> lance::Result<()> {
        Ok(())
    }

    async fn stage_complete(&self, _: &str) -> lance::Result<()> {
        Ok(())
    }
}
