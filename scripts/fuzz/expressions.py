"""Random computed columns: as SQL, and as Python works them out."""

import hashlib

import pyarrow as pa

import kinds
from edits import Change, fresh_name, made, typed_in
from oracle import GivenUp, cast, flat


def texts(quoted, rng):
    n = rng.choice([1, 2, 5])
    return [
        (f"md5({quoted})", lambda s: hashlib.md5(s.encode()).hexdigest()),
        (f"upper({quoted})", str.upper),
        (f"substr({quoted}, {n}, 3)", lambda s: s[n - 1:n + 2]),
        (f"left({quoted}, {n})", lambda s: s[:n]),
        (f"right({quoted}, {n})", lambda s: s[-n:]),
        (f"reverse({quoted})", lambda s: s[::-1]),
        (f"coalesce({quoted}, 'none')", lambda s: s),
        (f"{quoted} || '!'", lambda s: s + "!"),
        (f"character_length({quoted})", len),
    ]


def numbers(quoted, t):
    whole = pa.int64() if pa.types.is_integer(t) else pa.float64()
    return [
        (f"{quoted} + 1", lambda v: v + 1, whole), (f"{quoted} * 2", lambda v: v * 2, whole),
        (f"{quoted} - 3", lambda v: v - 3, whole), (f"{quoted} > 5", lambda v: v > 5, pa.bool_()),
    ]


def expression(rng, own):
    """SQL over the column `own`, what it does to a value, what it makes of null, its type, and whether that has to be said;
    None, where this column is not one to reckon with."""
    plain = own.name == own.name.strip() and not set('`\\".') & set(own.name)
    if not plain or not (own.type in kinds.TEXTS or pa.types.is_integer(own.type) and own.type != pa.uint64() or own.type == pa.float64()):
        return None
    quoted = f"`{own.name}`"
    if own.type in kinds.TEXTS:
        sql, work = rng.choice(texts(quoted, rng))
        whole = "character_length" in sql
        return sql, work, "none" if "coalesce" in sql else None, pa.int64() if whole else pa.string(), whole
    if rng.random() < 0.15:
        return f"{quoted} is null", (lambda v: False), True, pa.bool_(), False
    # Small integers are reckoned with as wide ones.
    wide = f"cast({quoted} as bigint)" if pa.types.is_integer(own.type) else quoted
    sql, work, made_type = rng.choice(numbers(wide, own.type))
    return sql, work, None, made_type, False


def values_of(column, work, null, made_type):
    values = column.to_pylist()
    if made_type != pa.string() and any(isinstance(v, int) and abs(v) > 2**62 for v in values):
        raise GivenUp("a number near the limit of 64 bits")
    return pa.array([null if v is None else work(v) for v in values], made_type)


def compute(rng, table, on_bad):
    """A computed column over `id` or a column of texts or numbers, or None."""
    name, source = fresh_name(rng, table, "compute"), rng.choice(list(table.schema))
    found = expression(rng, source)
    if found is None:
        return None
    sql, work, null, made_type, said = found
    # Of large strings, some functions make large ones, some others.
    if made_type == pa.string() and (source.type == pa.large_string() or rng.random() < 0.3):
        made_type, said = rng.choice(kinds.TEXTS), True
    own = pa.field(name, made_type)

    def apply(table):
        values = values_of(table[source.name], work, null, made_type)
        return made([*table.schema, own], [*table.columns, values], table.schema.metadata)

    told = f"{name}:{made_type}" if said or rng.random() < 0.5 else f"`{name}`" if name.endswith(" not null") else name
    return Change("compute", f"{told}={sql}", apply, {name})


def set_values(rng, table, on_bad):
    """Other values for a column that is there, of its own type."""
    usable = [f for f in table.schema if f.name != "id" and f.type in (pa.string(), pa.int64(), pa.float64()) and typed_in("set", f.name)]
    if not usable:
        return None
    own = rng.choice(usable)
    found = expression(rng, own)
    if found is None or pa.types.is_boolean(found[3]):
        return None
    sql, work, null, made_type, _ = found

    def apply(table):
        at = table.schema.get_field_index(own.name)
        values = cast(values_of(flat(table.column(at)), work, null, made_type), own.type, own.nullable)
        return table.set_column(at, table.schema.field(at), values)

    return Change("set", f"{own.name}={sql}", apply, {own.name}, undone=False)
