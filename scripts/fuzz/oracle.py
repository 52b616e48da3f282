"""What PyArrow says: casts value by value, and whether two tables are the same, null by null at each depth."""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from kinds import children


class Refused(Exception):
    """What is asked cannot be done without loss: relance must refuse it."""


class GivenUp(Exception):
    """Nobody can say what is right here, or Lance itself went wrong: no case for relance."""


# What relance does otherwise than PyArrow on purpose, or where PyArrow is no clear oracle, and so is not generated.
KNOWN = {
    "a time without a zone to one with a zone": "PyArrow takes it for UTC, relance for the zone's local time",
    "integers above 2^53 to double": "PyArrow refuses by range, relance only those that would come back as another",
    "integers to a decimal of fewer digits than the type has": "PyArrow refuses by type, relance by value",
    "a time with a date to a time without one": "refused by relance, since the date would be lost",
    "text that only one of both parses": "0x1F, padded numbers, 1e3: another issue's",
    "text of floats, decimals and times": "both print them in another way",
    "not null items of a list of fixed size": "Lance does not keep it, so that relance finds nothing to do",
    "lists of fixed size of texts or binary": "Lance panics when it writes them",
    "bool from numbers": "PyArrow takes all but zero for true, relance refuses all but 0 and 1",
}


def each_row(values, to, nullable=True):
    """`values` cast to `to`, and null where that cannot be: what `--on-bad-value null` asks for. It does not ask for it of nulls
    where none may be: these are refused as ever."""
    made = []
    expect_none(values, to)
    for at in range(len(values)):
        try:
            made.append(cast(values.slice(at, 1), to, nullable))
        except Refused:
            made.append(pa.nulls(1, to))
    return pa.concat_arrays(made) if made else pa.nulls(0, to)


def cast(values, to, nullable=True):
    """`values` as `to`, by PyArrow's own safe casts of what has no children; refuses nulls where none may be."""
    if not nullable and values.null_count:
        raise Refused(f"{values.null_count} nulls where none may be")
    kind = values.type
    if kind == to and not children(to):
        return values
    if pa.types.is_struct(to):
        # What lies under a null struct is no value: it is cast as a null.
        valid = values.is_valid()
        there, flat = values.filter(valid), values.filter(valid).flatten()
        made = [cast(flat[i], f.type, f.nullable) for i, f in enumerate(children(to))]
        dense = pa.StructArray.from_arrays(made, fields=children(to)) if made else there
        return spread(dense, valid)
    if is_list(to) and is_list(kind):
        valid = values.is_valid()
        there = values.filter(valid)
        item = to.value_field
        items = cast(there.flatten(), item.type, item.nullable)
        if pa.types.is_fixed_size_list(to):
            if pa.types.is_fixed_size_list(kind) and kind.list_size != to.list_size:
                raise Refused("lists of another length")
            return spread(pa.FixedSizeListArray.from_arrays(items, type=to), valid)
        lengths = pc.list_value_length(there).cast(pa.int64()).to_numpy(zero_copy_only=False)
        offsets = [0]
        for length in lengths:
            offsets.append(offsets[-1] + int(length))
        large = pa.types.is_large_list(to)
        made = (pa.LargeListArray if large else pa.ListArray).from_arrays(pa.array(offsets, pa.int64() if large else pa.int32()), items, type=to)
        return spread(made, valid)
    return cast_leaf(values, to)


def expect_none(values, to, nullable=True):
    """Refuses nulls where `to` allows none, at any depth."""
    if not nullable and values.null_count:
        raise Refused(f"{values.null_count} nulls where none may be")
    there = values.drop_null()
    if pa.types.is_struct(to):
        for inner, child in zip(there.flatten(), children(to)):
            expect_none(inner, child.type, child.nullable)
    elif is_list(to):
        expect_none(there.flatten(), to.value_field.type, to.value_field.nullable)


def is_list(kind):
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def spread(dense, valid):
    """The values of `dense`, one after the other, where `valid` is true, and nulls elsewhere."""
    if len(dense) == len(valid):
        return dense
    place, at = [], 0
    for there in valid.to_pylist():
        place.append(at if there else None)
        at += there
    return dense.take(pa.array(place, pa.int64()))


def cast_leaf(values, to):
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
    if pa.types.is_dictionary(to):
        return cast_leaf(values, to.value_type).dictionary_encode().cast(to)
    try:
        made = values.cast(to, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused(str(error)) from error
    if pa.types.is_floating(kind) and pa.types.is_floating(to) and to.bit_width < kind.bit_width:
        finite = lambda a: pc.is_finite(a.cast(pa.float64()))
        if pc.any(pc.and_(finite(values), pc.invert(finite(made)))).as_py():
            raise Refused("a number became infinite")
    return made


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def type_difference(wanted, seen, loose, path=""):
    """How two fields differ, or None. `loose`: names of list items and metadata of children do not count, since relance made them."""
    if not loose and wanted.name != seen.name:
        return f"{path}: the name is {seen.name!r}, not {wanted.name!r}"
    if wanted.nullable != seen.nullable:
        return f"{path}: nullable is {seen.nullable}, not {wanted.nullable}"
    if not loose and (wanted.metadata or {}) != (seen.metadata or {}):
        return f"{path}: the metadata is {seen.metadata}, not {wanted.metadata}"
    if wanted.type.id != seen.type.id or wanted.type.num_fields != seen.type.num_fields:
        return f"{path}: the type is {seen.type}, not {wanted.type}"
    if not children(wanted.type):
        return None if wanted.type == seen.type else f"{path}: the type is {seen.type}, not {wanted.type}"
    if pa.types.is_fixed_size_list(wanted.type) and wanted.type.list_size != seen.type.list_size:
        return f"{path}: the type is {seen.type}, not {wanted.type}"
    for one, other in zip(children(wanted.type), children(seen.type)):
        if loose and pa.types.is_fixed_size_list(wanted.type):
            one = one.with_nullable(other.nullable)  # Lance does not keep that of such items.
        if pa.types.is_struct(wanted.type) and one.name != other.name:
            return f"{path}: a field is called {other.name!r}, not {one.name!r}"
        found = type_difference(one, other, loose, f"{path}.{one.name}")
        if found:
            return found
    return None


def difference(wanted, seen, path):
    """The first difference of two arrays in words, or None. Floats are compared by bits, but for which NaN it is."""
    if len(wanted) != len(seen):
        return f"{path}: {len(seen)} values, not {len(wanted)}"
    if pa.types.is_dictionary(wanted.type):
        wanted, seen = wanted.dictionary_decode(), seen.dictionary_decode()
    one, other = wanted.is_valid(), seen.is_valid()
    if not one.equals(other):
        at = next(i for i, (a, b) in enumerate(zip(one, other)) if a != b)
        return f"{path}: {seen.null_count} nulls, not {wanted.null_count}; value {at} is {shown(seen[at])}, not {shown(wanted[at])}"
    if wanted.null_count:
        wanted, seen = wanted.filter(one), seen.filter(one)
    if pa.types.is_struct(wanted.type):
        pairs = zip(children(wanted.type), wanted.flatten(), seen.flatten())
        return next(filter(None, (difference(a, b, f"{path}.{f.name}") for f, a, b in pairs)), None)
    if is_list(wanted.type):
        if not pa.types.is_fixed_size_list(wanted.type):
            found = difference(pc.list_value_length(wanted), pc.list_value_length(seen), f"{path}'s length")
            if found:
                return found
        return difference(wanted.flatten(), seen.flatten(), f"{path}[]")
    if pa.types.is_floating(wanted.type):
        found = difference(pc.is_nan(wanted), pc.is_nan(seen), f"{path} is NaN")
        if found:
            return found
        bits = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[wanted.type.bit_width]
        number = pc.invert(pc.is_nan(wanted))
        wanted, seen = wanted.filter(number).view(bits), seen.filter(number).view(bits)
    if wanted.equals(seen):
        return None
    at = next(i for i in range(len(wanted)) if not wanted[i].equals(seen[i]))
    return f"{path}: value {at} of those that are there is {shown(seen[at])}, not {shown(wanted[at])}"


def shown(value):
    try:
        return repr(value)
    except (pa.ArrowException, ValueError, OverflowError):  # Nanoseconds, years that Python has no place for, zones that nobody knows.
        return f"{value.value if hasattr(value, 'value') else 'some'} ({value.type})"


def flat(column):
    """A column in one piece."""
    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_dictionary(column.type):  # PyArrow does not put those with nulls together.
            whole = pa.chunked_array([c.dictionary_decode() for c in column.chunks], column.type.value_type).combine_chunks()
            return whole.dictionary_encode().cast(column.type)
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column


def table_difference(wanted, seen, loose=(), ordered=None):
    """How the table that was read differs from the one that is wanted, or None. Rows are matched by `id`; `ordered` has the
    ids in the order in which they should come, where that is known."""
    if wanted.column_names != seen.column_names:
        return f"the columns are {seen.column_names}, not {wanted.column_names}"
    if (wanted.schema.metadata or {}) != (seen.schema.metadata or {}):
        return f"the schema's metadata is {seen.schema.metadata}, not {wanted.schema.metadata}"
    for one, other in zip(wanted.schema, seen.schema):
        found = type_difference(one, other, one.name in loose, f"column {one.name!r}")
        if found:
            return found
    there, meant = seen["id"].to_pylist(), wanted["id"].to_pylist()
    if sorted(there) != sorted(meant):
        twice = sorted(i for i in set(there) if there.count(i) > 1)
        return f"rows lost: {sorted(set(meant) - set(there))[:9]}, rows too many: {sorted(set(there) - set(meant))[:9]}, rows twice: {twice[:9]}"
    if ordered is not None and there != ordered:
        return f"the rows come in another order: {there[:9]}…, not {ordered[:9]}…"
    if there != meant:
        place = {i: at for at, i in enumerate(meant)}
        wanted = wanted.take(pa.array([place[i] for i in there], pa.int64()))
    columns = zip(wanted.column_names, wanted.columns, seen.columns)
    return next(filter(None, (difference(flat(a), flat(b), f"column {name!r}") for name, a, b in columns)), None)
