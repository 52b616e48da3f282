//! Names of columns and paths of columns in structs, written as Lance writes them: parts with dots between, where a
//! part with a dot or a backtick in it stands in backticks, with its own backticks doubled (lance-core 14
//! `src/datatypes/schema.rs`, `parse_field_path`).

use lance_core::datatypes::Field;

/// Where a field is: its position among the top-level fields, then among the children of each field on the way.
pub(crate) type FieldPosition = Vec<usize>;

/// The position of `path` among `fields`. A dot leads into a struct; where it does not, it may be the name's own.
/// Fields in lists and maps have no path.
pub(crate) fn find(fields: &[Field], path: &str) -> Option<FieldPosition> {
    let through = fields.iter().enumerate().find_map(|(at, field)| {
        let plain = path.strip_prefix(field.name.as_str()).filter(|rest| rest.starts_with('.'));
        let rest = plain.or_else(|| path.strip_prefix(quoted(&field.name).as_str()))?;
        let Some(rest) = rest.strip_prefix('.') else { return rest.is_empty().then(|| vec![at]) };
        if !field.logical_type.is_struct() {
            return None;
        }
        let inner = find(&field.children, rest)?;
        Some([at].into_iter().chain(inner).collect())
    });
    through.or_else(|| fields.iter().position(|field| field.name == path).map(|at| vec![at]))
}

/// `name` in backticks.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `name` as a part of a path.
pub(crate) fn part(name: &str) -> String {
    if name.contains(['.', '`']) { quoted(name) } else { name.to_owned() }
}

/// `path` as it is typed in a change: parts that would end it there stand in backticks too.
pub(crate) fn typed(path: &str) -> String {
    let ends = |part: &str| part.contains([':', '=']) || part.trim() != part;
    let typed = parts(path).into_iter().map(|part| match part {
        raw if raw.starts_with('`') || !ends(raw) => raw.to_owned(),
        raw => quoted(raw),
    });
    typed.collect::<Vec<_>>().join(".")
}

/// The parts of `path` as they are written.
fn parts(path: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), path);
    loop {
        let (first, after) = rest.split_at(part_end(rest, &['.']));
        parts.push(first);
        match after.strip_prefix('.') {
            Some(after) => rest = after,
            None => return parts,
        }
    }
}

/// Where the first of `ends` is in `text` outside of backticks, or the end of `text`.
pub(crate) fn part_end(text: &str, ends: &[char]) -> usize {
    let mut inside = false;
    let end = text.char_indices().find(|(_, c)| {
        inside ^= *c == '`';
        !inside && ends.contains(c)
    });
    end.map_or(text.len(), |(at, _)| at)
}

/// What `written`, a part of a path, names.
fn name_of(written: &str) -> String {
    let inner = written.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
    inner.map_or_else(|| written.to_owned(), |inner| inner.replace("``", "`"))
}

/// The path of the struct that `path` lies in, if it does, and its own name.
pub(crate) fn split_last(path: &str) -> (Option<&str>, String) {
    let last = parts(path).pop().unwrap_or(path);
    let outer = path.strip_suffix(last).and_then(|outer| outer.strip_suffix('.'));
    (outer, name_of(last))
}

/// The path of the field at `path` once it is renamed to `to`.
pub(crate) fn renamed(path: &str, to: &str) -> String {
    let to = part(to);
    split_last(path).0.map_or_else(|| to.clone(), |outer| format!("{outer}.{to}"))
}

/// The path of the field at `place`.
pub(crate) fn path_at(fields: &[Field], place: &[usize]) -> String {
    let names = (1..=place.len()).filter_map(|depth| field_at(fields, place.get(..depth)?));
    names.map(|field| part(&field.name)).collect::<Vec<_>>().join(".")
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field as ArrowField};

    #[test]
    fn every_field_is_found_by_its_path_and_by_what_is_typed() {
        let field = |name: &str, kind: DataType| ArrowField::new(name, kind, true);
        let odd = ["a", " a", "a ", "a.b", "dc:title", "x=y", "Unnamed: 0", "b`c", "`", "``", "é"];
        let leaves: Vec<_> = odd.iter().map(|name| field(name, DataType::Int8)).collect();
        let all = odd.iter().filter(|name| !name.contains('.'));
        let all = all.map(|name| field(name, DataType::Struct(leaves.clone().into())));
        let all: Vec<Field> = all.map(|one| Field::try_from(&one).unwrap()).collect();
        for (top, outer) in all.iter().enumerate() {
            for (at, inner) in outer.children.iter().enumerate() {
                let place = vec![top, at];
                let path = path_at(&all, &place);
                assert_eq!(find(&all, &path), Some(place.clone()), "{path}");
                assert_eq!(find(&all, &typed(&path)), Some(place), "{path}");
                let (outer_path, own) = split_last(&path);
                assert_eq!((outer_path.unwrap(), own), (&*part(&outer.name), inner.name.clone()));
                assert_eq!(part_end(&typed(&path), &[':', '=']), typed(&path).len());
            }
            assert_eq!(find(&all, &path_at(&all, &[top])), Some(vec![top]));
        }
        assert_eq!(find(&all, "a.a.b"), Some(vec![0, 3]));
        let pair = [field("a.b", DataType::Int8), field("a", DataType::Struct(leaves.into()))];
        let outer = Field::try_from(&field("m", DataType::Struct(pair.to_vec().into()))).unwrap();
        let find = |path: &str| find(std::slice::from_ref(&outer), path);
        assert_eq!((find("m.a.a"), find("m.`a.b`")), (Some(vec![0, 1, 0]), Some(vec![0, 0])));
        assert_eq!((find("m.a.b"), find("m.a.a.b")), (Some(vec![0, 0]), Some(vec![0, 1, 3])));
        assert_eq!(renamed("m.`a.b`", "c.d"), "m.`c.d`");
        assert_eq!(renamed("a", "b"), "b");
    }

    /// A row of the guide's table of names: the name, how it is written, and why.
    fn row(parts: &[&str], why: &str) -> String {
        let path = parts.iter().map(|name| part(name)).collect::<Vec<_>>().join(".");
        let written = typed(&path);
        assert_eq!(part_end(&written, &[':', '=']), written.len(), "it is read to its end");
        let pad = |edge: bool| if edge { " " } else { "" };
        let code = if written.contains('`') {
            let (before, after) = (written.starts_with('`'), written.ends_with('`'));
            format!("``{}{written}{}``", pad(before), pad(after))
        } else {
            format!("`{written}`")
        };
        let name = match parts {
            [outer, inner] => format!("`{inner}` in the struct `{outer}`"),
            _ if parts.concat().starts_with(' ') => {
                format!("`{}`, of a new column", parts.concat())
            }
            _ => format!("`{}`", parts.concat()),
        };
        format!("| {name} | {code} | {why} |\n")
    }

    #[test]
    fn the_guides_table_of_names_is_made_of_these_rules() {
        let rows = [
            row(&["meta", "author"], "a dot leads into a struct"),
            row(
                &["meta", "a.b"],
                "the dot is the name's own; without backticks it leads into `a`, if that is a struct",
            ),
            row(&["dc:title"], "a colon ends a name before its type"),
            row(&["a=b"], "the sign `=` ends a name before what follows"),
            row(&["Unnamed: 0"], "the colon; in SQL the space, too"),
            row(&[" a"], "an outer space of a new name is else taken for a mistake"),
        ];
        let table = rows.concat();
        assert!(include_str!("../guide/changes.md").contains(&table), "{table}");
    }
}
