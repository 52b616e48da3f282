"""Random computed columns: as SQL, and as Python works them out."""

import hashlib

import pyarrow as pa

import kinds
from edits import Change, fresh_name, made


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


def compute(rng, table, on_bad):
    """A computed column over `id` or a column of texts or numbers, or None."""
    name = fresh_name(rng, table, "compute")
    usable = lambda f: "`" not in f.name and "\\" not in f.name and f.name == f.name.strip() and f'"{f.name}"' not in f.name and "." not in f.name
    number = lambda t: pa.types.is_integer(t) and t != pa.uint64() or t == pa.float64()
    inputs = [f for f in table.schema if usable(f) and (f.type in kinds.TEXTS or number(f.type))]
    own = rng.choice(inputs)
    quoted, null, given = f"`{own.name}`", None, None
    if own.type in kinds.TEXTS:
        sql, work = rng.choice(texts(quoted, rng))
        given = pa.int64() if "character_length" in sql else None if rng.random() < 0.6 else rng.choice(kinds.TEXTS)
        null = "none" if "coalesce" in sql else None
        made_type = given or pa.string()
    else:
        sql, work, made_type = rng.choice(numbers(quoted, own.type))
        given = made_type
        if rng.random() < 0.15:
            sql, given = f"{quoted} is null", pa.bool_()
            work, null, made_type = (lambda v: False), True, pa.bool_()
        values = [v for v in table[own.name].to_pylist() if v is not None]
        if any(abs(v) > 2**62 for v in values if v == v):
            return None
        # Small integers are added as 64 bits wide ones: the literal is one.
        if "`" in sql and own.type != pa.float64() and pa.types.is_integer(own.type):
            sql = sql.replace(quoted, f"cast({quoted} as bigint)", 1) if "null" not in sql else sql
    own_field = pa.field(name, made_type)

    def apply(table):
        source = own.name
        values = [null if v is None else work(v) for v in table[source].to_pylist()]
        return made([*table.schema, own_field], [*table.columns, pa.array(values, made_type)], table.schema.metadata)

    kind = "" if given is None else f":{given}"
    return Change("compute", f"{name}{kind}={sql}", apply, {name})
