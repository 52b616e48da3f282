"""Random changes, each as relance takes it and as PyArrow does it."""

import re

import pyarrow as pa

import kinds
from edits import Change, at_path, edit, fresh_name, made, paths
from expressions import compute, set_values
from kinds import children
from literals import literal
from oracle import GivenUp, Refused, cast, each_row, flat


def add(rng, table, on_bad):
    data_type = rng.choice([kinds.leaf(rng, False), kinds.leaf(rng, False), pa.list_(kinds.leaf(rng, False)),
                            pa.struct([("a", rng.choice(kinds.INTS)), ("b", pa.string())]), pa.list_(pa.float32(), 4)])
    structs = [path for path in paths(table, "add") if pa.types.is_struct(at_path(table, path).type) and len(path) < 3]
    outer = rng.choice(structs) if structs and rng.random() < 0.3 and all(re.fullmatch(r"\w+", n) for n in rng.choice(structs)) else []
    outer = outer if all(re.fullmatch("[A-Za-z_][A-Za-z_0-9]*", name) for name in outer) else []
    name = fresh_name(rng, table, "add")
    if outer:
        name = rng.choice([n for n in ["n1", "n2", "n3", "n4"] if at_path(table, outer).type.get_field_index(n) < 0] or ["n9"])
        if at_path(table, outer).type.get_field_index(name) >= 0:
            return None
    text, value = (None, None) if rng.random() < 0.35 else literal(rng, data_type)
    nullable = text is None or rng.random() < 0.6
    own = pa.field(name, data_type, nullable)
    fill = lambda n: pa.nulls(n, data_type) if value is None else value.take(pa.array([0] * n, pa.int64()))

    def apply(table):
        if outer:
            return edit(table, [*outer, name], lambda _, n: (own, fill(n)))
        return made([*table.schema, own], [*table.columns, fill(len(table))], table.schema.metadata)

    shown = f"{'.'.join([*outer, name])}:{data_type}{'' if nullable else ' not null'}{'' if text is None else '=' + text}"
    return Change("add", shown, apply, {outer[0] if outer else name}, text is None and not outer)


def targets(rng, t):
    """Types that a leaf may be cast to, where PyArrow is a clear oracle: see KNOWN."""
    if pa.types.is_integer(t):
        small = t.bit_width < 64
        wide = [pa.float64(), pa.int64()] if small else []
        digits = {8: 3, 16: 5, 32: 10, 64: 20}[t.bit_width]
        return [*kinds.INTS, *wide, pa.string(), pa.large_string(), pa.decimal128(min(38, digits + 2), 2)]
    if pa.types.is_boolean(t):
        return [pa.int8(), pa.uint32(), pa.string()]
    if pa.types.is_floating(t):
        return [*kinds.FLOATS, pa.int32(), pa.int64(), pa.uint8()]
    if pa.types.is_string(t) or pa.types.is_large_string(t):
        return [pa.string(), pa.large_string(), pa.int64(), pa.int32(), pa.uint8(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
    if pa.types.is_binary(t) or pa.types.is_large_binary(t):
        return [pa.binary(), pa.large_binary(), pa.string()]
    if pa.types.is_date32(t):
        return [pa.date64(), pa.timestamp("us"), pa.timestamp("s")]
    if pa.types.is_timestamp(t):
        others = [pa.timestamp(unit, t.tz) for unit in kinds.UNITS]
        return others + ([pa.timestamp(t.unit, zone) for zone in kinds.ZONES] if t.tz in kinds.ZONES else [])
    if pa.types.is_duration(t):
        return [pa.duration(unit) for unit in kinds.UNITS]
    if pa.types.is_time(t):
        return [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")]
    if pa.types.is_decimal(t):
        p, s = t.precision, t.scale
        return [pa.decimal128(min(38, p + 4), s), pa.decimal128(min(38, p + 4), min(s + 2, p)), pa.decimal128(p, max(0, s - 1)),
                pa.decimal128(max(1, s, p - 2), s), pa.int64()]
    if pa.types.is_dictionary(t):
        return [t.value_type]
    return [pa.binary()] if pa.types.is_fixed_size_binary(t) else []


def other_kind(rng, t, nullable_flips=True):
    """A type that `t` may be cast to, at any depth; now and then one that forbids nulls within."""
    flip = lambda f: not f.nullable if rng.random() < 0.25 else f.nullable
    renewed = lambda f, deep: pa.field(f.name, other_kind(rng, f.type) if deep else f.type, flip(f))
    if pa.types.is_struct(t):
        return pa.struct([renewed(f, rng.random() < 0.6) for f in children(t)])
    if pa.types.is_list(t) or pa.types.is_large_list(t):
        item = renewed(t.value_field, rng.random() < 0.7)
        return (rng.choice([pa.list_, pa.large_list]))(pa.field("item", item.type, item.nullable))
    if pa.types.is_fixed_size_list(t):
        items = other_kind(rng, t.value_type)
        texts = pa.types.is_string(items) or pa.types.is_large_string(items) or pa.types.is_binary(items) or pa.types.is_large_binary(items)
        return pa.list_(pa.field("item", items), t.list_size) if not texts and not pa.types.is_dictionary(items) else t
    choices = targets(rng, t)
    return rng.choice(choices) if choices else t


def recast(rng, table, on_bad):
    places = [path for path in paths(table, "cast") if kinds.is_plain(at_path(table, path).type)]
    if not places:
        return None
    path = rng.choice(places)
    old = at_path(table, path)
    to = other_kind(rng, old.type)
    if to == old.type:
        return None

    def change(own, values):
        return own.with_type(to), each_row_or_refused(values, to, own.nullable, on_bad)

    return Change("cast", f"{'.'.join(path)}:{to}", lambda table: edit(table, path, change), {path[0]}, undone=False)


def each_row_or_refused(values, to, nullable, on_bad):
    if on_bad:
        made = each_row(values, to)
        if not nullable and made.null_count:
            raise Refused("null where none may be")
        return made
    return cast(values, to, nullable)


def fill(rng, table, on_bad):
    flat_ = lambda t: not children(t) and not pa.types.is_dictionary(t) and kinds.is_plain(t)
    places = [path for path in paths(table, "fill") if at_path(table, path).nullable and flat_(at_path(table, path).type)]
    if not places:
        return None
    path = rng.choice(places)
    text, value = literal(rng, at_path(table, path).type)

    def change(own, values):
        chosen = [1 if there else 0 for there in values.is_valid().to_pylist()]
        place = [at + 1 if there else 0 for at, there in enumerate(chosen)]
        return own, pa.concat_arrays([value, values]).take(pa.array(place, pa.int64()))

    return Change("fill", f"{'.'.join(path)}={text}", lambda table: edit(table, path, change), {path[0]}, undone=False)


def rename(rng, table, on_bad):
    places = paths(table, "rename")
    if not places:
        return None
    path = rng.choice(places)
    if len(path) == 1:
        to = fresh_name(rng, table, "rename")
    else:
        taken = [f.name.casefold() for f in children(at_path(table, path[:-1]).type)]
        to = rng.choice(["r1", "R2", "r 3", "r:4"])
        if to.casefold() in taken:
            return None
    return Change("rename", f"{'.'.join(path)}={to}", lambda table: edit(table, path, lambda f, v: (f.with_name(to), v)), nothing_read=True)


def drop(rng, table, on_bad):
    places = [p for p in paths(table, "drop") if len(p) == 1 or at_path(table, p[:-1]).type.num_fields > 1]
    if not places or len(table.column_names) < 3:
        return None
    path = rng.choice(places)
    return Change("drop", ".".join(path), lambda table: edit(table, path, lambda f, v: None), nothing_read=True, undone=False)


def nullable(rng, table, on_bad):
    places = [path for path in paths(table, "nullable") if not at_path(table, path).nullable]
    if not places:
        return None
    path = rng.choice(places)
    return Change("nullable", ".".join(path), lambda table: edit(table, path, lambda f, v: (f.with_nullable(True), v)), nothing_read=True)


def not_null(rng, table, on_bad):
    places = [path for path in paths(table, "not-null") if at_path(table, path).nullable]
    if not places:
        return None
    path = rng.choice(places)

    def change(own, values):
        if values.null_count:
            raise Refused("nulls in a column that allows none")
        return own.with_nullable(False), values

    return Change("not-null", ".".join(path), lambda table: edit(table, path, change))


def to_schema(rng, table, write):
    """Every change that makes the table's schema that of another table, odd names and all. `write` makes that table, and gives
    its schema back as Lance keeps it."""
    fields = [f for f in table.schema if f.name == "id" or rng.random() < 0.85]
    asked = [f if f.name == "id" or rng.random() < 0.5 else f.with_type(other_kind(rng, f.type)) for f in fields]
    flips = [f.name != "id" and rng.random() < 0.25 for f in asked]
    asked = [f.with_nullable(not f.nullable) if flip else f for f, flip in zip(asked, flips)]
    if rng.random() < 0.4:
        asked.append(pa.field(fresh_name(rng, table, "rename"), kinds.kind(rng, 2, True)))
    target = write(pa.schema(asked, table.schema.metadata))
    if target is None or target.equals(table.schema, check_metadata=True):
        return None

    def apply(table):
        columns = []
        for own in target:
            at = table.schema.get_field_index(own.name)
            columns.append(pa.nulls(len(table), own.type) if at < 0 else cast(flat(table.column(at)), own.type, own.nullable))
        return made(target, columns, table.schema.metadata)

    loose = {f.name for f in target if table.schema.get_field_index(f.name) < 0 or f.type != table.schema.field(f.name).type}
    try:
        apply(table)
    except Refused:
        if rng.random() < 0.6:
            return None
    return Change("to", "other", apply, loose, undone=False)


MAKERS = [add, add, recast, recast, recast, compute, compute, set_values, fill, rename, drop, nullable, not_null]


def apply(changes, table):
    for change in changes:
        table = change.apply(table)
    return table


def choose(rng, table, on_bad):
    """One to five changes in a row, of which one in five may be one that has to be refused."""
    chosen, now, refused = [], table, False
    for _ in range(rng.choice([1, 1, 2, 2, 3, 5])):
        for _ in range(6):
            change = rng.choice(MAKERS)(rng, now, on_bad)
            if change is None or any(clashes(change, other) for other in chosen):
                continue
            try:
                now = change.apply(now)
            except GivenUp:
                continue
            except Refused:
                if rng.random() < 0.8:
                    continue
                refused = True
            chosen.append(change)
            break
        if refused:
            break
    return chosen


def clashes(one, other):
    """Columns that are added, dropped and added again in one go have rules of their own."""
    made = {"add", "compute", "rename"}
    name = lambda change: re.split("[:=]", change.text)[-1 if change.verb == "rename" else 0].strip("`").casefold()
    return one.verb in made and other.verb in {*made, "drop"} and (
        name(one) == name(other) or one.verb != "rename" and name(one) == re.split("[:=]", other.text)[0].strip("`").casefold())
