//! Key columns: writers find rows by them, and merges by key go wrong when they are dropped, renamed or changed.

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::facts::Facts;
use crate::plan::request::Request;
use crate::schema::change::Change;
use crate::schema::path::{find, split_last};

pub(super) fn check(facts: &Facts, request: &Request, plan: &Plan) -> Result<()> {
    if request.allow_key_change {
        return Ok(());
    }
    let schema = &facts.schema;
    let keys = schema.unenforced_primary_key().into_iter().map(|field| (field, "primary key"));
    let clustered = schema.unenforced_clustering_key().into_iter();
    let mut keys = keys.chain(clustered.map(|field| (field, "clustering key")));
    let changed = keys.find_map(|(field, what)| {
        let path = schema.field_path(field.id).ok()?;
        let now = plan.target.path_now(&path);
        let top = find(&schema.fields, &path).and_then(|at| schema.fields.get(*at.first()?));
        let is_top = |name: &str| top.is_some_and(|top| top.name == split_last(name).1);
        let set = |change: &Change| match change {
            Change::Set { name, .. } => is_top(name),
            Change::Produce(produce) => produce.replaces && is_top(&produce.name),
            Change::Join(join) => join.take.iter().any(|take| take.exists && is_top(&take.name)),
            Change::Add(_)
            | Change::Compute(_)
            | Change::Cast(_)
            | Change::Fill { .. }
            | Change::Rename { .. }
            | Change::Drop { .. }
            | Change::Nullable { .. }
            | Change::NotNull { .. } => false,
        };
        let values = plan.target.changes.iter().any(set);
        let same = !values
            && now.as_deref() == Some(path.as_str())
            && plan
                .target
                .schema
                .field(&path)
                .is_some_and(|now| now.data_type() == field.data_type());
        (!same).then_some((path, what))
    });
    let Some((path, what)) = changed else { return Ok(()) };
    Err(Error::refused(format!("column `{path}` of `{}` is of its {what}", facts.table))
        .with_advice("--allow-key-change changes it all the same"))
}
