//! Finds a field by its dotted path.

use lance_core::datatypes::Field;

/// Where a field is: its position among the top-level fields, then among the children of each field on the way.
pub(crate) type FieldPosition = Vec<usize>;

/// The position of `path` among `fields`. A field whose own name is `path`, dots and all, comes first. Fields in
/// lists and maps have no path.
pub(crate) fn find(fields: &[Field], path: &str) -> Option<FieldPosition> {
    if let Some(at) = fields.iter().position(|field| field.name == path) {
        return Some(vec![at]);
    }
    fields.iter().enumerate().find_map(|(at, field)| {
        let rest = path.strip_prefix(field.name.as_str())?.strip_prefix('.')?;
        if !field.logical_type.is_struct() {
            return None;
        }
        let inner = find(&field.children, rest)?;
        Some([at].into_iter().chain(inner).collect())
    })
}

/// The path of the field at `path` once it is renamed to `to`.
pub(crate) fn renamed(path: &str, to: &str) -> String {
    path.rsplit_once('.').map_or_else(|| to.to_owned(), |(outer, _)| format!("{outer}.{to}"))
}

/// The field at `place`.
pub(crate) fn field_at<'a>(fields: &'a [Field], place: &[usize]) -> Option<&'a Field> {
    let (first, rest) = place.split_first()?;
    let field = fields.get(*first)?;
    if rest.is_empty() { Some(field) } else { field_at(&field.children, rest) }
}

/// The field at `place` and those beside it.
pub(crate) fn fields_around<'a>(fields: &'a [Field], place: &[usize]) -> &'a [Field] {
    let outer = place.split_last().map_or(&[][..], |(_, outer)| outer);
    if outer.is_empty() {
        return fields;
    }
    field_at(fields, outer).map_or(&[], |field| &field.children)
}
