"""Columns that are taken over from other data by a key: its formats, its keys, and rows that do not meet."""

import csv
import json
import signal
import sys
import tempfile
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import lance
import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import relance
from support import (
    STAGING, as_it_was, documents, ended, files, make, nothing_written, opened, python, read, rows, run, staged, tables, until,
)


def other(first: int = 0, count: int = 500) -> pa.Table:
    """What there is to take over for the documents `first` and on, the last of them first."""
    ids = range(first + count - 1, first - 1, -1)
    columns = {
        "id": pa.array(ids, pa.int64()),
        "lang": pa.array([lang(n) for n in ids], pa.string()),
        "score": pa.array([score(n) for n in ids], pa.float64()),
        "tags": pa.array([tags(n) for n in ids], pa.list_(pa.string())),
        "more": pa.array(["x" * 50] * count, pa.string()),
    }
    return pa.table(columns)


def lang(n):
    return ["en", "de", "fr", None][n % 4]


def score(n) -> float:
    return n / 8


def tags(n) -> list:
    return [f"t{i}" for i in range(n % 3)]


def joined(source, **more):
    return relance.join(str(source) if isinstance(source, Path) else source, **{"on": "id", "take": ["lang", "score"], **more})


def check(db, missing=()) -> list:
    """Expects that every row has what belongs to its id, and gives the ids."""
    found = rows(db)
    for row in found:
        n = row["id"]
        there = n not in missing
        assert row["lang"] == (lang(n) if there else None), n
        assert row["score"] == (score(n) if there else None), n
        assert row["text"] == f"text {n}"
    return [row["id"] for row in found]


def refused(place, change, *says, error=relance.RefusedError, **more) -> str:
    """Expects that migrating is refused before anything is written."""
    db, name = place
    before = files(db)
    with pytest.raises(error) as told:
        relance.migrate(place, change, **more)
    for text in says:
        assert text in str(told.value)
    assert files(db) == before and staged(place) is None
    return str(told.value)


# Formats


def parts_of(table: pa.Table, count: int = 3) -> list:
    size = -(-len(table) // count)
    return [table.slice(n * size, size) for n in range(count)]


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none", "lz4"])
def test_parquet_files(db, place, tmp_path, compression):
    before = read(db)
    for n, part in enumerate(parts_of(other())):
        pq.write_table(part, tmp_path / f"tags-{n}.parquet", compression=compression, row_group_size=37)
    (tmp_path / "tags-9.txt").write_text("another file")
    change = joined(tmp_path / "tags-*.parquet", take=["lang", "score", "tags"])
    assert relance.migrate(place, change).report.strategy == "columns"
    assert check(db) == list(range(500))
    table = read(db)
    assert table["tags"].to_pylist() == [tags(n) for n in range(500)]
    assert table.column_names == [*before.column_names, "lang", "score", "tags"]
    assert [table.schema.field(name).type for name in ("lang", "score")] == [pa.string(), pa.float64()]
    assert table.select(before.column_names) == before


def test_a_glob_that_finds_another_format_too_is_refused(place, tmp_path):
    pq.write_table(other(), tmp_path / "tags.parquet")
    (tmp_path / "tags.txt").write_text("another file")
    refused(place, joined(tmp_path / "tags.*"), "tags.txt", error=relance.UsageError)


def test_parquet_files_of_different_columns_and_compressions(db, place, tmp_path):
    one, two, three = parts_of(other())
    pq.write_table(one, tmp_path / "a.parquet", compression="zstd")
    pq.write_table(two.select(["score", "more", "lang", "id"]), tmp_path / "b.parquet", compression="gzip")
    types = pa.schema([("id", pa.int32()), ("lang", pa.large_string()), ("score", pa.float32())])
    pq.write_table(three.select(["id", "lang", "score"]).cast(types), tmp_path / "c.pq", compression="none")
    pq.write_table(one.slice(0, 0), tmp_path / "d.parquet")
    relance.migrate(place, joined(tmp_path / "?.p*"))
    assert check(db) == list(range(500))


def test_a_parquet_file_without_the_column_is_named(place, tmp_path):
    pq.write_table(other(0, 250), tmp_path / "a.parquet")
    pq.write_table(other(250, 250).drop_columns("lang"), tmp_path / "b.parquet")
    with nothing_written(place[0]), pytest.raises(relance.RelanceError) as told:
        relance.migrate(place, joined(tmp_path / "*.parquet"))
    assert "b.parquet" in str(told.value) and "lang" in str(told.value)


def write_ipc(path, table, stream=False, **options):
    kind = pa.ipc.new_stream if stream else pa.ipc.new_file
    with kind(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in table.to_batches(max_chunksize=41):
            writer.write_batch(batch)


@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
@pytest.mark.parametrize("ending, compression", [("arrow", None), ("arrows", None), ("ipc", "zstd"), ("feather", "lz4")])
def test_arrow_files_and_streams(db, place, tmp_path, stream, ending, compression):
    write_ipc(tmp_path / f"tags.{ending}", other(), stream, compression=compression)
    relance.migrate(place, joined(tmp_path / f"tags.{ending}"))
    assert check(db) == list(range(500))


def test_dictionaries_in_arrow_files(db, place, tmp_path):
    table = other()
    table = table.set_column(1, "lang", table["lang"].dictionary_encode().unify_dictionaries())
    write_ipc(tmp_path / "tags.arrow", table.combine_chunks())
    relance.migrate(place, joined(tmp_path / "tags.arrow"))
    assert [row["lang"] for row in rows(db)] == [lang(n) for n in range(500)]


def coded(tmp_path) -> tuple:
    """A table whose ids are texts with leading zeros, and its database."""
    db = str(tmp_path / "db")
    codes = [f"{n:05}" for n in range(100)]
    lancedb.connect(db).create_table("documents", pa.table({"id": range(100), "code": codes}))
    return db, "documents"


NOTES = ["plain", 'with "quotes"', "with, a comma", "two\nlines", " spaces ", "ünï\tcode", "'single'"]


@pytest.mark.parametrize("ending, delimiter", [("csv", ","), ("tsv", "\t"), ("CSV", ",")])
def test_csv_with_ids_that_are_texts_with_leading_zeros(tmp_path, ending, delimiter):
    place = coded(tmp_path)
    with open(tmp_path / f"notes.{ending}", "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["code", "note", "count", "ratio", "seen"])
        for n in range(99, -1, -1):
            writer.writerow([f"{n:05}", NOTES[n % 7], n * 2, n / 4, "true" if n % 2 else "false"])
    change = relance.join(str(tmp_path / f"notes.{ending}"), on="code", take=["note", "count", "ratio", "seen"])
    relance.migrate(place, change)
    table = read(place[0])
    assert table.schema.field("count").type == pa.int64() and table.schema.field("ratio").type == pa.float64()
    assert table.schema.field("seen").type == pa.bool_()
    for n, row in enumerate(table.to_pylist()):
        wanted = {"id": n, "code": f"{n:05}", "note": NOTES[n % 7], "count": n * 2, "ratio": n / 4, "seen": n % 2 == 1}
        assert row == wanted


def test_csv_with_empty_fields(tmp_path):
    place = coded(tmp_path)
    lines = [f"{n:05},{n if n % 3 else ''}" for n in range(100)]
    (tmp_path / "a.csv").write_text("\n".join(["code,count", *lines[:50]]) + "\n")
    (tmp_path / "b.csv").write_text("\r\n".join(["code,count", *lines[50:]]))
    relance.migrate(place, relance.join(str(tmp_path / "*.csv"), on="code", take="count"))
    assert [row["count"] for row in rows(place[0])] == [n if n % 3 else None for n in range(100)]


def test_csv_gives_columns_that_exist_their_values_in_their_types(db, place, tmp_path):
    with open(tmp_path / "prices.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "price", "text"], *([n, n * 2, f"{n:07}"] for n in range(500))])
    relance.migrate(place, relance.join(str(tmp_path / "prices.csv"), on="id", take=["price", "text"]))
    assert [(row["price"], row["text"]) for row in rows(db)] == [(n * 2.0, f"{n:07}") for n in range(500)]
    assert read(db).schema.field("price").type == pa.float64()


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json"])
def test_json_lines(db, place, tmp_path, ending):
    def line(n):
        told = {"id": n, "lang": lang(n), "score": score(n), "tags": tags(n), "meta2": {"a": n, "b": [f"{n}"]}}
        return json.dumps({name: value for name, value in told.items() if value is not None or n % 8})

    (tmp_path / f"tags.{ending}").write_text("\n".join(line(n) for n in reversed(range(500))))
    relance.migrate(place, joined(tmp_path / f"tags.{ending}", take=["lang", "score", "tags", "meta2"]))
    assert check(db) == list(range(500))
    for n, row in enumerate(rows(db)):
        assert row["tags"] == tags(n) and row["meta2"] == {"a": n, "b": [f"{n}"]}


def test_json_lines_with_ids_that_are_texts(tmp_path):
    place = coded(tmp_path)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"code": f"{n:05}", "count": n}) for n in range(100)))
    relance.migrate(place, relance.join(str(tmp_path / "a.jsonl"), on="code", take="count"))
    assert [row["count"] for row in rows(place[0])] == list(range(100))


BROKEN = {
    "parquet": b"PAR1 and no more",
    "arrow": b"\x10\x00\x00\x00no arrow",
    "csv": b"id,lang\n1,en\n2,de,too,many\n",
    "jsonl": b'{"id": 1, "lang": "en"}\n{"id": 2, ',
}


@pytest.mark.parametrize("ending", BROKEN)
def test_a_file_that_is_broken_is_named(place, tmp_path, ending):
    (tmp_path / f"broken.{ending}").write_bytes(BROKEN[ending])
    change = joined(tmp_path / f"broken.{ending}", take="lang", on_missing="null")
    refused(place, change, "broken", error=relance.RelanceError)


TABLES = {
    "name": lambda db: "languages",
    "uri": lambda db: f"{db}/languages.lance",
    "uri with a slash": lambda db: f"{db}/languages.lance/",
    "file uri": lambda db: f"{Path(db).as_uri()}/languages.lance",
    "path": lambda db: Path(db, "languages.lance"),
    "dataset": lambda db: lance.dataset(f"{db}/languages.lance").to_table(),
    "scanner": lambda db: lance.dataset(f"{db}/languages.lance").scanner().to_reader(),
}


@pytest.mark.parametrize("form", TABLES)
def test_a_lance_table(db, place, form):
    table = lancedb.connect(db).create_table("languages", other(0, 250))
    table.add(other(200, 350))
    table.delete("id between 200 and 249 and lang = 'en'")
    table.delete("id >= 200 and id < 250")
    table.add(other(200, 50))
    relance.migrate(place, relance.join(TABLES[form](db), on="id", take=["lang", "score"]))
    assert check(db) == list(range(500))
    assert opened(db, "languages").count_rows() == 550 and tables(db) == ["documents", "languages"]


def test_a_lance_table_of_another_database(db, place, tmp_path):
    lancedb.connect(tmp_path / "elsewhere").create_table("languages", other())
    relance.migrate(place, joined(tmp_path / "elsewhere" / "languages.lance"))
    assert check(db) == list(range(500))


def test_the_table_itself(db, place):
    relance.migrate(place, relance.join("documents", on={"id": "id"}, take={"copy": "text"}))
    assert [row["copy"] for row in rows(db)] == [f"text {n}" for n in range(500)]


class Frame:
    """What is known of a data frame of polars."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


STREAMS = {
    "table": lambda table: table,
    "reader": lambda table: table.to_reader(max_chunksize=64),
    "record batch": lambda table: table.combine_chunks().to_batches()[0],
    "frame": Frame,
    "pandas": lambda table: table.to_pandas(),
    "lancedb's arrow": lambda table: pa.Table.from_batches(table.to_batches(max_chunksize=7)),
    "large": lambda table: table.set_column(1, "lang", table["lang"].cast(pa.large_string())),
    "dictionary": lambda table: table.set_column(1, "lang", table["lang"].dictionary_encode()),
    "many dictionaries": lambda table: pa.concat_tables(
        part.set_column(1, "lang", part["lang"].dictionary_encode()) for part in parts_of(table)
    ),
}


@pytest.mark.parametrize("form", STREAMS)
def test_what_any_arrow_library_holds(db, place, form):
    relance.migrate(place, joined(STREAMS[form](other())))
    assert check(db) == list(range(500))


def test_something_without_rows_of_arrow_is_refused():
    for what in [7, None, [1, 2], {"id": [1]}, b"x"]:
        with pytest.raises(relance.UsageError):
            joined(what)


def test_a_stream_without_rows(db, place):
    relance.migrate(place, joined(other(0, 0), on_missing="null"))
    assert check(db, missing=range(500)) == list(range(500))


def test_an_empty_table_is_joined(tmp_path):
    db = str(tmp_path)
    lancedb.connect(db).create_table("documents", documents(0, 0))
    relance.migrate((db, "documents"), joined(other()))
    assert {"lang", "score"} <= set(read(db).column_names)


# Keys


def keyed(tmp_path, keys: pa.Array) -> tuple:
    """A table with the column `key`."""
    db = str(tmp_path / "db")
    lancedb.connect(db).create_table("documents", pa.table({"id": range(len(keys)), "key": keys}))
    return db, "documents"


TEXTS = ["", "a", "ä", "A", "a ", "aa", "0", "00", "𝄞", "x" * 300]

KEYS = {
    "int64, int32": (list(range(-50, 50)), pa.int64(), pa.int32()),
    "int32, int64": (list(range(-50, 50)), pa.int32(), pa.int64()),
    "int64, uint8": (list(range(100)), pa.int64(), pa.uint8()),
    "uint64, int64": (list(range(100)), pa.uint64(), pa.int64()),
    "string, large_string": (TEXTS, pa.string(), pa.large_string()),
    "large_string, string": (TEXTS, pa.large_string(), pa.string()),
    "string, string_view": (TEXTS, pa.string(), pa.string_view()),
    "string, dictionary": (TEXTS, pa.string(), pa.dictionary(pa.int32(), pa.string())),
    "dictionary, string": (TEXTS, pa.dictionary(pa.int32(), pa.string()), pa.string()),
    "binary, large_binary": ([text.encode() for text in TEXTS], pa.binary(), pa.large_binary()),
    "date": ([date(2026, 1, 1 + n) for n in range(30)], pa.date32(), pa.date32()),
    "date, date64": ([date(2026, 1, 1 + n) for n in range(30)], pa.date32(), pa.date64()),
    "timestamps": ([datetime(2026, 1, 1, n % 24, n) for n in range(60)], pa.timestamp("us"), pa.timestamp("ns")),
    "coarser timestamps": ([datetime(2026, 1, 1, n % 24, n) for n in range(60)], pa.timestamp("us"), pa.timestamp("s")),
    "decimal": ([Decimal(n) / 4 for n in range(50)], pa.decimal128(10, 2), pa.decimal128(20, 2)),
    "bool": ([True, False], pa.bool_(), pa.bool_()),
    "double, float": ([n / 4 for n in range(50)], pa.float64(), pa.float32()),
    "fixed binary": ([bytes([n] * 16) for n in range(50)], pa.binary(16), pa.binary(16)),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_other_types_meet(tmp_path, name):
    values, own, there = KEYS[name]
    place = keyed(tmp_path, pa.array(values, own))
    back = list(reversed(range(len(values))))
    table = pa.table({"key": pa.array([values[n] for n in back], there), "number": back})
    relance.migrate(place, relance.join(table, on="key", take="number"))
    assert [row["number"] for row in rows(place[0])] == list(range(len(values)))


def test_keys_that_the_own_type_cannot_hold_meet_nothing(tmp_path):
    place = keyed(tmp_path, pa.array(range(10), pa.int8()))
    table = pa.table({"key": [*range(9), 256, 1 << 40], "number": range(11)})
    relance.migrate(place, relance.join(table, on="key", take="number", on_missing="null"))
    assert [row["number"] for row in rows(place[0])] == [*range(9), None]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -0.0])
def test_unusual_numbers_are_keys_that_are_not_there(tmp_path, odd):
    place = keyed(tmp_path, pa.array([1.0, odd, 2.0]))
    table = pa.table({"key": [2.0, 1.0], "number": [2, 1]})
    relance.migrate(place, relance.join(table, on="key", take="number", on_missing="null"))
    assert [row["number"] for row in rows(place[0])] == [1, None, 2]


def test_two_keys(db, place):
    table = pa.table({
        "text": [f"text {n}" for n in range(500) for _ in range(2)],
        "id": [id_ for n in range(500) for id_ in (n, n + 1)],
        "number": [number for n in range(500) for number in (n * 10, -1)],
    })
    relance.migrate(place, relance.join(table, on=["id", "text"], take="number"))
    assert [row["number"] for row in rows(db)] == [n * 10 for n in range(500)]


def test_two_keys_whose_texts_run_into_each_other(tmp_path):
    db = str(tmp_path)
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("a", "")]
    table = pa.table({"id": range(5), "x": [x for x, _ in pairs], "y": [y for _, y in pairs]})
    lancedb.connect(db).create_table("documents", table)
    there = table.rename_columns({"id": "number"}).take([4, 2, 0, 3, 1])
    relance.migrate((db, "documents"), relance.join(there, on=["x", "y"], take="number"))
    assert [row["number"] for row in rows(db)] == list(range(5))


def test_columns_have_other_names_there(db, place):
    table = other().rename_columns({"id": "document", "lang": "language", "score": "points"})
    change = relance.join(table, on={"id": "document"}, take={"lang": "language", "score": "points"})
    assert str(change).endswith("on id=document take lang=language,score=points")
    relance.migrate(place, change)
    assert check(db) == list(range(500))


def test_a_column_there_is_taken_over_twice(db, place):
    relance.migrate(place, relance.join(other(), on="id", take={"a": "score", "b": "score", "c": "id"}))
    assert [(row["a"], row["b"], row["c"]) for row in rows(db)] == [(score(n), score(n), n) for n in range(500)]


def test_null_keys_are_like_no_other(tmp_path):
    place = keyed(tmp_path, pa.array([1, None, 2, None, 3]))
    table = pa.table({"key": pa.array([None, 3, 2, None, 1]), "number": [-1, 3, 2, -2, 1]})
    plan = relance.plan(place, relance.join(table, on="key", take="number", on_missing="null"))
    (trial,) = plan.joins
    assert (trial.rows, trial.keys, trial.duplicates, trial.matched, trial.missing) == (3, 3, 0, 3, 2)
    relance.migrate(place, relance.join(table, on="key", take="number", on_missing="null"))
    assert [row["number"] for row in rows(place[0])] == [1, None, 2, None, 3]


def test_a_key_of_which_a_part_is_null_is_like_no_other(tmp_path):
    db = str(tmp_path)
    table = pa.table({"id": range(3), "x": pa.array(["a", None, "b"]), "y": [1, 1, 1]})
    lancedb.connect(db).create_table("documents", table)
    there = pa.table({"x": pa.array(["b", None, "a"]), "y": pa.array([1, 1, None]), "number": [2, 1, 0]})
    change = relance.join(there, on=["x", "y"], take="number", on_missing="null")
    relance.migrate((db, "documents"), change)
    assert [row["number"] for row in rows(db)] == [None, None, 2]


def test_a_key_is_renamed_or_computed_before(db, place):
    table = pa.table({"key": [f"TEXT {n}" for n in reversed(range(500))], "number": list(reversed(range(500)))})
    changes = [
        relance.compute("upper", "upper(text)"),
        relance.rename("upper", "key"),
        relance.join(table, on="key", take="number"),
        relance.drop("key"),
    ]
    relance.migrate(place, changes)
    assert [row["number"] for row in rows(db)] == list(range(500)) and "key" not in read(db).column_names


# Rows that do not meet


def test_missing_keys_are_refused_before_anything_is_written(parts):
    told = refused(parts, joined(other(0, 490)), "10 rows have no key there", "_rowid")
    assert "--on-missing" in told and tables(parts[0]) == ["documents"]
    with nothing_written(parts[0]), pytest.raises(relance.RefusedError):
        relance.plan(parts, joined(other(0, 490)))


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
def test_missing_keys_become_null(parts, strategy):
    db, _ = parts
    report = relance.migrate(parts, joined(other(10, 480), on_missing="null"), strategy=strategy).report
    assert report.strategy == strategy
    assert check(db, missing=[*range(10), *range(490, 500)]) == list(range(500))


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
@pytest.mark.parametrize("on_missing", ["null", "keep"])
def test_columns_that_exist_are_taken_over(parts, on_missing, strategy):
    db, _ = parts
    before = read(db)
    there = pa.table({
        "id": pa.array(range(100, 400), pa.int64()),
        "price": pa.array([None if n == 100 else n for n in range(100, 400)], pa.int32()),
        "new": pa.array([f"new {n}" for n in range(100, 400)]),
        "vector": pa.array([[float(-n)] * 8 for n in range(100, 400)], pa.list_(pa.float64(), 8)),
    })
    change = relance.join(there, on="id", take={"price": "price", "text": "new", "vector": "vector"}, on_missing=on_missing)
    relance.migrate(parts, change, strategy=strategy)
    table = read(db)
    assert table.schema.types == before.schema.types and table.column_names == before.column_names
    for n, row in enumerate(table.to_pylist()):
        was = before.slice(n, 1).to_pylist()[0]
        if 100 <= n < 400:
            wanted = {**was, "price": None if n == 100 else float(n), "text": f"new {n}", "vector": [float(-n)] * 8}
        else:
            wanted = was if on_missing == "keep" else {**was, "price": None, "text": None, "vector": None}
        assert row == wanted


def test_nothing_is_kept_in_a_column_that_is_new(place):
    there = pa.table({"id": range(250), "price": [0.0] * 250, "new": ["n"] * 250})
    change = relance.join(there, on="id", take=["price", "new"], on_missing="keep")
    refused(place, change, "`new`", error=relance.UsageError)


def test_values_that_the_type_does_not_hold_are_refused(place):
    there = pa.table({"id": range(500), "price": ["1.5"] * 499 + ["dear"]})
    refused(place, relance.join(there, on="id", take="price"), "price", "dear")


@pytest.fixture
def strict(tmp_path) -> tuple:
    """A table with a column that may not be null."""
    db = str(tmp_path / "db")
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("n", pa.int64(), nullable=False)])
    lancedb.connect(db).create_table("documents", pa.table({"id": range(9), "n": range(9)}, schema=schema))
    return db, "documents"


def test_nulls_for_a_column_that_may_have_none_are_refused(strict):
    there = pa.table({"id": range(9), "n": pa.array([*range(8), None])})
    refused(strict, relance.join(there, on="id", take="n"), "`n`")


def test_missing_keys_of_a_column_that_may_not_be_null_are_refused(strict):
    there = pa.table({"id": range(5), "n": range(5)})
    refused(strict, relance.join(there, on="id", take="n", on_missing="null"), "`n`")


def test_a_column_that_may_not_be_null_keeps_its_values(strict):
    there = pa.table({"id": range(5), "n": [7] * 5})
    relance.migrate(strict, relance.join(there, on="id", take="n", on_missing="keep"))
    assert [row["n"] for row in rows(strict[0])] == [7] * 5 + [5, 6, 7, 8]
    assert not read(strict[0]).schema.field("n").nullable


def test_deleted_rows_need_no_key(parts):
    db, _ = parts
    opened(db).delete("id >= 490 or id % 10 = 3")
    relance.migrate(parts, joined(other(0, 490)))
    assert check(db) == [n for n in range(490) if n % 10 != 3]
    (trial,) = relance.plan(parts, relance.join(other(0, 490), on="id", take="more")).joins
    assert (trial.matched, trial.missing) == (441, 0)


def test_rows_that_stay_behind_need_no_key(parts):
    db, _ = parts
    relance.migrate(parts, joined(other(0, 100)), where="id < 100")
    assert check(db) == list(range(100))


# Keys that are there twice


def test_keys_that_are_there_twice_are_refused_before_anything_is_written(place, tmp_path):
    pq.write_table(other(0, 300), tmp_path / "a.parquet")
    pq.write_table(other(298, 202), tmp_path / "b.parquet")
    told = refused(place, joined(tmp_path / "*.parquet"), "2 rows there repeat a key", "b.parquet")
    assert "--on-duplicate" in told


def test_twice_the_same_row_is_twice(place):
    table = pa.concat_tables([other(), other(7, 1)])
    refused(place, joined(table), "1 row there repeat")


@pytest.mark.parametrize("which", ["first", "last"])
def test_the_first_or_the_last_row_of_a_key_counts_over_files(parts, tmp_path, which):
    db, _ = parts
    # By their names, not in the order in which they are written.
    for n in (2, 0, 3, 1):
        ids = list(range(500)) if n else list(range(0, 500, 2))
        table = pa.table({"id": ids * 2, "number": [f"{n}, {turn}" for turn in range(2) for _ in ids]})
        pq.write_table(table, tmp_path / f"part-{n}.parquet", row_group_size=100)
    change = relance.join(str(tmp_path / "part-*.parquet"), on="id", take="number", on_duplicate=which)
    (trial,) = relance.plan(parts, change).joins
    assert (trial.rows, trial.keys, trial.duplicates) == (3500, 500, 3000)
    relance.migrate(parts, change)
    first = ["0, 0" if n % 2 == 0 else "1, 0" for n in range(500)]
    assert [row["number"] for row in rows(db)] == (first if which == "first" else ["3, 1"] * 500)


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("count", [8_191, 8_192, 8_193, 16_384, 20_000])
def test_a_key_with_many_rows(db, place, which, count):
    """More than are sorted and walked at once."""
    ids = [*range(250), *[250] * count, *range(251, 500)]
    table = pa.table({"id": ids, "number": range(len(ids))})
    change = relance.join(table, on="id", take="number", on_duplicate=which)
    relance.migrate(place, change)
    of_250 = 250 if which == "first" else 249 + count
    assert [row["number"] for row in rows(db)] == [*range(250), of_250, *(n + count - 1 for n in range(251, 500))]


@pytest.mark.parametrize("which", ["first", "last"])
def test_every_key_with_many_rows(db, place, which):
    table = pa.table({"id": list(range(500)) * 60, "number": range(30_000)})
    relance.migrate(place, relance.join(table, on="id", take="number", on_duplicate=which))
    start = 0 if which == "first" else 29_500
    assert [row["number"] for row in rows(db)] == [start + n for n in range(500)]


def test_null_keys_do_not_repeat(place):
    table = pa.table({"id": pa.array([*range(500), None, None, None]), "number": range(503)})
    (trial,) = relance.plan(place, relance.join(table, on="id", take="number")).joins
    assert (trial.rows, trial.keys, trial.duplicates) == (500, 500, 0)


# Sizes, plans, other changes


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
def test_many_fragments_and_more_rows_there_than_here(tmp_path, strategy):
    db = str(tmp_path)
    make(db, rows=3_000, files=30)
    opened(db).delete("id % 100 = 50")
    relance.migrate((db, "documents"), joined(other(0, 40_000)), strategy=strategy)
    assert check(db) == [n for n in range(3_000) if n % 100 != 50]


def test_more_rows_here_than_are_walked_at_once(tmp_path):
    db = str(tmp_path)
    lancedb.connect(db).create_table("documents", pa.table({"id": range(40_000), "key": [n % 7_919 for n in range(40_000)]}))
    table = pa.table({"key": range(7_919), "number": [n * n for n in range(7_919)]})
    relance.migrate((db, "documents"), relance.join(table, on="key", take="number"))
    assert read(db)["number"].to_pylist() == [(n % 7_919) ** 2 for n in range(40_000)]


def test_a_plan_counts(parts):
    db, _ = parts
    table = pa.concat_tables([other(100, 1_000), other(150, 5)])
    change = joined(table, on_missing="null", on_duplicate="last")
    with nothing_written(db):
        plan = relance.plan(parts, change)
    (trial,) = plan.joins
    assert (trial.rows, trial.keys, trial.duplicates, trial.matched, trial.missing) == (1_005, 1_000, 5, 400, 100)
    assert 0 < len(trial.examples) <= 3
    ids = lance.dataset(f"{db}/documents.lance").to_table(columns=["id"], with_row_id=True).to_pylist()
    ids = {row["_rowid"]: row["id"] for row in ids}
    assert all(ids[example] < 100 for example in trial.examples)
    assert plan.producers == [] and "400 rows of the table found, 100 missing" in str(plan)


def test_a_plan_of_files_is_carried_out(db, place, tmp_path):
    pq.write_table(other(), tmp_path / "tags.parquet")
    plan = relance.plan(place, joined(tmp_path / "tags.parquet"))
    relance.migrate(place, plan=plan.saved)
    assert check(db) == list(range(500))


def test_a_plan_of_a_stream_is_carried_out(db, place):
    plan = relance.plan(place, joined(other()))
    relance.migrate(place, plan=plan)
    assert check(db) == list(range(500))


def test_a_job_with_a_stream_goes_on_when_nobody_holds_the_change(db, place, tmp_path):
    """It looks into a file first whose columns it has to guess, which takes a while."""
    with open(tmp_path / "wide.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", *(f"c{i}" for i in range(50))], *([n] * 51 for n in range(5_000))])
    job = relance.start(place, [joined(tmp_path / "wide.csv", take="c7"), joined(other())])
    assert job.wait().ended == "swapped"
    assert check(db) == list(range(500)) and [row["c7"] for row in rows(db)] == list(range(500))


def test_changes_that_are_made_lazily_keep_their_streams(db, place):
    relance.migrate(place, (joined(one) for one in [other()]))
    assert check(db) == list(range(500))


@pytest.mark.parametrize("strategy", ["auto", "rewrite"])
def test_what_is_joined_is_used_by_other_changes(parts, strategy):
    db, _ = parts
    given = []

    def by(batch):
        assert batch.schema.names == ["lang", "twice", "id"]
        given.extend(batch.column("id").to_pylist())
        return [f"{lang} {twice}" for lang, twice in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist())]

    changes = [
        joined(other(), take={"lang": "lang", "points": "score"}),
        relance.fill("lang", "??"),
        relance.compute("twice", "points * 2", type="double"),
        relance.add("word", "string", by=by, inputs=["lang", "twice", "id"], batch_size=32),
        relance.rename("points", "score"),
        relance.drop("meta"),
    ]
    relance.migrate(parts, changes, strategy=strategy)
    assert sorted(given) == list(range(500))
    for n, row in enumerate(rows(db)):
        assert (row["lang"], row["score"], row["twice"]) == (lang(n) or "??", score(n), 2 * score(n))
        assert row["word"] == f"{lang(n) or '??'} {2 * score(n)}"


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
def test_resume_goes_on_with_what_needs_a_join(parts, tmp_path, strategy):
    db, _ = parts
    pq.write_table(other(), tmp_path / "tags.parquet")
    given = []

    def by(batch):
        given.append(batch.column("id").to_pylist())
        if len(given) == 8:
            raise RuntimeError("call 8 failed")
        return [f"{lang} {n}" for lang, n in zip(batch.column("lang").to_pylist(), batch.column("id").to_pylist())]

    word = relance.add("word", "string", by=by, inputs=["lang", "id"], version="1", batch_size=32)
    changes = [joined(tmp_path / "tags.parquet"), word]
    with as_it_was(db), pytest.raises(relance.FailedError, match="call 8 failed"):
        relance.migrate(parts, changes, by_retries=0, strategy=strategy)
    assert relance.resume(parts, changes).ended == "swapped"
    assert check(db) == list(range(500))
    assert [row["word"] for row in rows(db)] == [f"{lang(n)} {n}" for n in range(500)]
    assert sum(map(len, given)) <= 500 + 32


def test_two_joins_at_once(parts, tmp_path):
    db, _ = parts
    pq.write_table(other(), tmp_path / "a.parquet")
    changes = [joined(tmp_path / "a.parquet", take="lang"), joined(other(), take="score"), "set lang=lang"]
    plan = relance.plan(parts, changes)
    assert [trial.matched for trial in plan.joins] == [500, 500]
    relance.migrate(parts, changes)
    assert check(db) == list(range(500))


def test_a_key_that_another_join_gives_is_used_or_refused(db, place):
    names = pa.table({"score": [score(n) for n in range(500)], "number": range(500)})
    changes = [joined(other(), take="score"), relance.join(names, on="score", take="number")]
    try:
        relance.migrate(place, changes)
    except (relance.UsageError, relance.RefusedError) as error:
        assert "score" in str(error) and staged(place) is None
    else:
        assert [row["number"] for row in rows(db)] == list(range(500))


def test_a_key_that_a_function_gives_is_used_or_refused(db, place):
    def by(batch):
        return [f"key {n}" for n in batch.column("id").to_pylist()]

    names = pa.table({"key": [f"key {n}" for n in range(500)], "number": range(500)})
    changes = [relance.add("key", "string", by=by, inputs="id"), relance.join(names, on="key", take="number")]
    try:
        relance.migrate(place, changes)
    except (relance.UsageError, relance.RefusedError) as error:
        assert "key" in str(error) and staged(place) is None
    else:
        assert [row["number"] for row in rows(db)] == list(range(500))


def test_verify_says_nothing_against_what_was_joined(db, place):
    relance.migrate(place, [joined(other()), relance.set("price", "price + 1")])
    with nothing_written(db):
        verified = relance.verify(place)
    assert verified.rows == 500 and "price" in {column.column for column in verified.columns}


# Others meanwhile, and the way back


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
def test_rows_that_others_append_are_joined(parts, tmp_path, strategy):
    db, _ = parts
    pq.write_table(other(0, 600), tmp_path / "tags.parquet")
    with as_it_was(db):
        relance.migrate(parts, joined(tmp_path / "tags.parquet"), hold=True, strategy=strategy)
    table = opened(db)
    table.add(documents(500, 60))
    table.delete("id = 17")
    table.update(where="id between 20 and 29", values={"price": -1.0})
    table.optimize()
    table.add(documents(560, 40))
    assert relance.resume(parts).ended == "swapped"
    assert check(db) == [n for n in range(600) if n != 17]
    assert [row["price"] for row in rows(db)[19:29]] == [-1.0] * 10


def test_a_row_whose_key_another_one_changes_gets_other_values(db, place, tmp_path):
    pq.write_table(other(0, 600), tmp_path / "tags.parquet")
    relance.migrate(place, joined(tmp_path / "tags.parquet"), hold=True)
    opened(db).update(where="id = 7", values={"id": 507, "text": "text 507"})
    relance.resume(place)
    assert check(db) == [n for n in [*range(500), 507] if n != 7]


def test_rows_of_a_stream_are_joined_after_a_hold(db, place):
    change = joined(other(0, 600))
    relance.migrate(place, change, hold=True)
    opened(db).add(documents(500, 40))
    assert relance.resume(place, change).ended == "swapped"
    assert check(db) == list(range(540))


@pytest.mark.parametrize("again", [None, "the same table"])
def test_a_held_stream_is_swapped_whoever_holds_it(db, place, again):
    relance.migrate(place, joined(other()), hold=True)
    assert relance.resume(place, None if again is None else joined(other())).ended == "swapped"
    assert check(db) == list(range(500))


HELD = """
import sys
import pyarrow as pa
import relance

table = pa.table({"id": range(500), "number": range(500)})
held = relance.migrate((sys.argv[1], "documents"), relance.join(table, on="id", take="number"), hold=True)
print(held.ended)
"""


def test_a_held_stream_outlives_its_process(db, place):
    code, out, err = run(HELD, db)
    assert (code, out) == (0, "held\n"), err
    assert relance.resume(place).ended == "swapped"
    assert [row["number"] for row in rows(db)] == list(range(500))


def test_keys_that_come_and_are_missing_are_refused_and_nothing_is_lost(db, place, tmp_path):
    pq.write_table(other(), tmp_path / "tags.parquet")
    relance.migrate(place, joined(tmp_path / "tags.parquet"), hold=True)
    opened(db).add(documents(900, 5))
    before = rows(db)
    with as_it_was(db), pytest.raises(relance.RefusedError, match="5 rows have no key there"):
        relance.resume(place)
    assert rows(db) == before and staged(place) is not None and STAGING in tables(db)
    opened(db).delete("id >= 900")
    assert relance.resume(place).ended == "swapped"
    assert check(db) == list(range(500))


def test_rollback_puts_everything_back(parts):
    db, _ = parts
    before = read(db)
    relance.migrate(parts, joined(other(), take={"text": "more", "lang": "lang"}))
    assert [row["text"] for row in rows(db)] == ["x" * 50] * 500
    relance.rollback(parts)
    assert read(db) == before


def test_abort_leaves_nothing(parts, tmp_path):
    db, _ = parts
    pq.write_table(other(), tmp_path / "tags.parquet")
    before = files(db)
    relance.migrate(parts, joined(tmp_path / "tags.parquet"), hold=True)
    assert files(db) != before
    assert relance.abort(parts).left == []
    assert files(db) == before and staged(parts) is None


def test_joining_again_takes_other_values_over(db, place):
    relance.migrate(place, joined(other()))
    relance.migrate(place, joined(pa.table({"id": range(500), "lang": ["x"] * 500, "score": [0] * 500})))
    assert {(row["lang"], row["score"]) for row in rows(db)} == {("x", 0.0)}


# What is asked for wrongly

WRONG = {
    "no file": (lambda tmp: joined(tmp / "nosuch.parquet"), "nosuch.parquet"),
    "no file of many": (lambda tmp: joined(tmp / "nosuch-*.parquet"), "nosuch-*.parquet"),
    "no table": (lambda tmp: joined("nosuch"), "nosuch"),
    "no table there": (lambda tmp: joined(tmp / "nosuch.lance"), "nosuch"),
    "an unknown column to take": (lambda tmp: joined(tmp / "tags.parquet", take="lnag"), "did you mean `lang`"),
    "an unknown column to take as": (lambda tmp: joined(tmp / "tags.parquet", take={"x": "nosuch"}), "nosuch"),
    "an unknown key there": (lambda tmp: joined(tmp / "tags.parquet", on={"id": "nosuch"}), "nosuch"),
    "an unknown format": (lambda tmp: joined(tmp / "tags.xlsx"), "format"),
    "no format": (lambda tmp: joined(tmp / "tags"), "format"),
    "an unknown column of a stream": (lambda tmp: joined(other(), take="nosuch"), "nosuch"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_there_is_named(place, tmp_path, what):
    pq.write_table(other(), tmp_path / "tags.parquet")
    (tmp_path / "tags.xlsx").write_bytes(b"PK")
    (tmp_path / "tags").write_bytes(b"PAR1")
    change, says = WRONG[what]
    refused(place, change(tmp_path), says, error=relance.UsageError)


def test_a_key_that_the_table_does_not_have_is_refused_as_in_other_changes(place):
    refused(place, joined(other(), on={"nosuch": "id"}), "nosuch")
    refused(place, relance.drop("nosuch"), "nosuch")


@pytest.mark.parametrize("more", [
    {"on_missing": "nosuch"}, {"on_duplicate": "nosuch"}, {"on": []}, {"take": []}, {"take": {}}, {"take": ["a", "a"]},
    {"on_missing": None},
], ids=str)
def test_a_join_that_makes_no_sense_is_refused(place, tmp_path, more):
    pq.write_table(other(), tmp_path / "tags.parquet")
    with nothing_written(place[0]), pytest.raises(relance.UsageError):
        relance.migrate(place, joined(tmp_path / "tags.parquet", **more))


def test_keys_that_cannot_be_compared_are_refused(place):
    table = pa.table({"id": pa.array([[1, 2]], pa.list_(pa.int64())), "lang": ["en"], "score": [1.0]})
    refused(place, joined(table), "id", error=relance.RelanceError)


def test_a_column_that_is_the_key_is_not_taken_over(place):
    """It would be another key then."""
    table = pa.table({"id": range(500), "number": range(500, 1000)})
    changes = relance.join(table, on="id", take={"id": "number"})
    try:
        relance.migrate(place, changes)
    except relance.RelanceError as error:
        assert "id" in str(error)
    else:
        assert [row["id"] for row in rows(place[0])] == list(range(500, 1000))


# The system's temporary folder


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """A folder for what is temporary, which is empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_nothing_is_left_in_the_temporary_folder(parts, temporary):
    db, _ = parts
    change = joined(other(0, 20_000))
    assert len(list(temporary.iterdir())) == 1
    relance.migrate(parts, change)
    del change
    assert check(db) == list(range(500))
    # Tasks that read ahead may be the last to hold it.
    until(lambda: not list(temporary.iterdir()), "the removal")


def test_nothing_is_left_in_the_temporary_folder_after_a_refusal(parts, temporary):
    with pytest.raises(relance.RefusedError):
        relance.migrate(parts, joined(other(0, 490)))
    with pytest.raises(relance.UsageError):
        relance.migrate(parts, joined(other(), take="nosuch"))
    relance.plan(parts, joined(other()))
    until(lambda: not list(temporary.iterdir()), "the removal")


def test_a_stream_that_fails_leaves_nothing_and_is_told(place, temporary):
    def batches():
        yield from other(0, 10).to_batches()
        raise OSError("the line is dead")

    reader = pa.RecordBatchReader.from_batches(other().schema, batches())
    with pytest.raises(OSError, match="the line is dead"):
        joined(reader)
    until(lambda: not list(temporary.iterdir()), "the removal")


KILLED = """
import sys
import pyarrow as pa
import relance

table = pa.table({"id": range(500), "number": range(500)})
change = relance.join(table, on="id", take="number")
print("started", flush=True)
if sys.argv[2] == "migrates":
    relance.migrate((sys.argv[1], "documents"), change, max_rate=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize("how", ["ends", "is interrupted"])
def test_a_process_leaves_nothing_in_the_temporary_folder(place, temporary, how):
    process = python(KILLED, place[0], "migrates" if how == "is interrupted" else "")
    assert process.stdout.readline() == "started\n"
    if how == "is interrupted":
        until(lambda: staged(place) is not None, "staging")
        process.send_signal(signal.SIGINT)
    ended(process)
    if staged(place) is not None:
        # Until then it may be what `resume` needs.
        relance.abort(place)
    assert list(temporary.iterdir()) == []
