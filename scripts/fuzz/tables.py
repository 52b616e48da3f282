"""Random tables as Python clients make them, and what LanceDB reads of them."""

import lance
import lancedb
import pyarrow as pa

import kinds
from oracle import flat, table_difference


class Table:
    """A table on a disk. `rows` is what it has to hold: the model."""

    def __init__(self, path, name="t"):
        self.path, self.name, self.uri = path, name, f"{path}/{name}.lance"
        self.rows, self.loose, self.next_id, self.left_out = None, set(), 0, []

    def lance(self):
        return lance.dataset(self.uri)

    def read(self):
        """All rows, by LanceDB's client."""
        return lancedb.connect(self.path).open_table(self.name).to_arrow()

    def other(self, schema):
        """The schema of another table that is made with this one, as Lance keeps it; None where it does not."""
        try:
            lance.write_dataset(schema.empty_table(), f"{self.path}/other.lance", mode="overwrite")
            return lancedb.connect(self.path).open_table("other").schema
        except Exception:  # noqa: BLE001 - Lance does not store each type
            return None

    def settle(self, seen):
        """What relance was free to choose (names of items that it made) is as it is from now on."""
        self.rows = pa.Table.from_arrays([flat(c) for c in self.rows.columns], schema=self.rows.schema)
        fields = [seen.schema.field(i) if f.name in self.loose else f for i, f in enumerate(self.rows.schema)]
        if not pa.schema(fields).equals(pa.schema(list(self.rows.schema)), check_metadata=True):
            # Only names and metadata in the types differ: the arrays are those that were read.
            place = {id_: at for at, id_ in enumerate(seen["id"].to_pylist())}
            self.rows = seen.take(pa.array([place[id_] for id_ in self.rows["id"].to_pylist()], pa.int64()))
        self.loose = set()

    def fresh(self, rng, n, schema=None):
        """`n` rows that the table does not have, of its schema."""
        schema = schema or self.rows.schema
        columns = [kinds.array(rng, f.type, n, f.nullable) for f in schema]
        columns[schema.get_field_index("id")] = pa.array(range(self.next_id, self.next_id + n), pa.int64())
        self.next_id += n
        return pa.Table.from_arrays(columns, schema=schema)


def make(rng, path, wide=False):
    """A random table: up to 600 rows in up to 40 fragments, with deletions, of any types."""
    table = Table(path)
    version = rng.choice([None, None, "2.0", "2.1", "2.2"])
    stable = not wide and rng.random() < 0.15
    odd = not wide and rng.random() < 0.6
    fields = columns(rng, odd)
    rng.shuffle(fields)
    schema = pa.schema(fields, {"owner": "ünknown"} if rng.random() < 0.3 else None)
    count = 600 if wide else rng.choice([0, 1, 2, 7, 40, 150, 300, 600])
    options = {"data_storage_version": version, "enable_stable_row_ids": stable}
    rows = table.fresh(rng, count, schema)
    rows = storable(table, rows, options)
    per_file = rng.choice([max(1, count // rng.choice([1, 2, 5, 40])), 1000])
    try:
        lance.write_dataset(rows, table.uri, max_rows_per_file=per_file, **options)
    except OSError:  # Lance cuts some nested arrays at a wrong place.
        per_file = 1000
        lance.write_dataset(rows, table.uri, **options)
    parts = [rows]
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        more = table.fresh(rng, rng.randint(1, 30), rows.schema)
        if lossless(more, options):
            lance.write_dataset(more, table.uri, mode="append")
            parts.append(more)
    table.rows = pa.concat_tables(parts).combine_chunks()
    table.told = f"{len(table.rows)} rows, {len(parts)} writes, {per_file} a file, storage {version}, stable row ids {stable}"
    if rng.random() < 0.5 and not wide:
        delete(rng, table)
    if rng.random() < 0.2:
        evolve(rng, table)
    if rng.random() < 0.2 and len(table.rows):
        lancedb.connect(path).open_table("t").create_scalar_index("id", index_type="BTREE")
        table.told += ", BTREE on id"
    return agreed(table)


def columns(rng, odd):
    """The fields of a random table: `id`, and others that are not called so in any case."""
    names = rng.sample([*kinds.PLAIN, *(kinds.ODD * odd)], rng.choice([1, 2, 3, 5, 8]))
    fields = [kinds.field(rng, name, kinds.kind(rng, rng.choice([0, 1, 2, 3]), odd), odd) for name in names]
    taken = set()
    fields = [f for f in fields if not (f.name.casefold() in taken or taken.add(f.name.casefold()))]
    fields += [pa.field("id", pa.int64(), rng.random() < 0.5)]
    if "n" not in taken and rng.random() < 0.5:
        fields.append(pa.field("n", pa.int64()))
    return fields


def storable(table, rows, options):
    """`rows` without the columns that Lance itself does not give back as they were."""
    if lossless(rows, options):
        return rows
    for name in rows.column_names:
        if name != "id" and not lossless(rows.select([*{name, "id"}]), options):
            table.left_out.append(f"{rows.schema.field(name).type} in storage version {options['data_storage_version']}")
            rows = rows.drop_columns([name])
    return rows


def lossless(rows, options):
    try:
        made = lance.write_dataset(rows, "memory://", **{**options, "mode": "overwrite"})
        return not table_difference(rows, made.to_table())
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - whatever Lance says, panics too: it is not the column to try things on
        return False


def agreed(table):
    """The table, if LanceDB reads what was written."""
    seen = table.read()
    wrong = table_difference(table.rows, seen)
    if wrong:
        table.left_out.append(wrong)
        table.rows = seen
    return table


def delete(rng, table):
    """Deletes rows at random places, or whole runs of them."""
    ids = table.rows["id"].to_pylist()
    if not ids:
        return
    gone = set(rng.sample(ids, rng.randint(1, max(1, len(ids) // 3)))) if rng.random() < 0.8 else \
        {i for i in ids if ids[0] <= i < ids[0] + len(ids) // 2}
    drop_rows(table, gone)


def drop_rows(table, gone):
    if gone:
        table.lance().delete(f"id in ({', '.join(map(str, sorted(gone)))})")
        table.rows = table.rows.filter(pa.array([i not in gone for i in table.rows["id"].to_pylist()], pa.bool_()))


def evolve(rng, table):
    """A column that Lance adds, in files of its own or in none."""
    if {"ev"} & {name.casefold() for name in table.rows.column_names}:
        return
    if rng.random() < 0.5:
        table.lance().add_columns({"ev": "id * 3"})
        own = table.rows.schema.field("id").with_name("ev")
        values = [3 * i for i in table.rows["id"].to_pylist()]
    else:
        table.lance().add_columns(pa.field("ev", pa.string()))
        own, values = pa.field("ev", pa.string()), [None] * len(table.rows)
    table.rows = table.rows.append_column(own, pa.array(values, own.type))
