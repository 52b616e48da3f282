"""What Python writers do to a table while a migration is staged, told to the model too."""

import datetime

import lance
import pyarrow as pa

from oracle import GivenUp, table_difference
from tables import delete, drop_rows


def append(rng, table):
    rows = table.fresh(rng, rng.randint(1, 40))
    lance.write_dataset(rows, table.uri, mode="append")
    table.rows = pa.concat_tables([table.rows, rows]).combine_chunks()


def scatter(rng, table):
    """Deletes a row here and there, in every part of the table."""
    step = rng.choice([2, 3, 5])
    ids = table.rows["id"].to_pylist()
    drop_rows(table, {rng.choice(ids[at:at + step]) for at in range(0, len(ids), step)})


def update(rng, table):
    """Sets the column `n`, if there is one of numbers."""
    ids = table.rows["id"].to_pylist()
    at = table.rows.schema.get_field_index("n")
    if at < 0 or table.rows.schema.field(at).type != pa.int64() or not ids:
        return
    chosen = set(rng.sample(ids, rng.randint(1, len(ids))))
    table.lance().update({"n": "id + 1000"}, where=f"id in ({', '.join(map(str, sorted(chosen)))})")
    values = [i + 1000 if i in chosen else old for i, old in zip(ids, table.rows["n"].to_pylist())]
    table.rows = table.rows.set_column(at, table.rows.schema.field(at), pa.array(values, pa.int64()))


def merge(rng, table):
    """New values for some rows, and some new rows."""
    ids = table.rows["id"].to_pylist()
    old = rng.sample(ids, min(len(ids), rng.randint(1, 20)))
    rows = table.fresh(rng, len(old) + rng.randint(1, 5))
    at = rows.schema.get_field_index("id")
    keys = old + rows["id"].to_pylist()[len(old):]
    rows = rows.set_column(at, rows.schema.field(at), pa.array(keys, pa.int64()))
    table.lance().merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
    kept = table.rows.filter(pa.array([i not in set(old) for i in ids], pa.bool_()))
    table.rows = pa.concat_tables([kept, rows]).combine_chunks()


def compact(rng, table):
    table.lance().optimize.compact_files(target_rows_per_fragment=rng.choice([50, 1000]))


def clean(rng, table):
    """LanceDB's cleanup of old versions, which leaves tagged ones alone."""
    table.lance().cleanup_old_versions(datetime.timedelta(0), error_if_tagged_old_versions=False)


WRITERS = [append, append, delete, scatter, scatter, update, merge, compact, clean]


def write(rng, table, relance, only=None):
    """One random writer. What Lance itself cannot do, it leaves as it was; else it is Lance's failure, and the case is given up."""
    writer = rng.choice(only or WRITERS)
    before = table.rows
    try:
        writer(rng, table)
        relance.note(f"# a writer: {writer.__name__}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - Lance's own refusals are many, and it panics too
        table.rows = before
        relance.note(f"# a writer: {writer.__name__}, which Lance refused: {str(error)[:90]}")
    return table


def appended(table, rows):
    """Appends rows, where Lance can."""
    try:
        lance.write_dataset(rows, table.uri, mode="append")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001
        raise GivenUp(str(error)) from None


def checked(table):
    """The live table, which must be what the writers made of it."""
    seen = table.read()
    wrong = table_difference(table.rows, seen, table.loose)
    if wrong:
        raise GivenUp(wrong)
    return seen
