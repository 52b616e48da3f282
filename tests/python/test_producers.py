"""Columns whose values a function or a program gives: what it is given, what it may give, and what is kept of it."""

import asyncio
import json
import pickle
import signal
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Optional

import lance
import lancedb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import relance
from lancedb.embeddings import EmbeddingFunctionConfig, EmbeddingFunctionRegistry, TextEmbeddingFunction, register
from lancedb.index import IvfPq
from lancedb.pydantic import LanceModel, Vector
from support import (
    STAGING, documents, ended, files, make, nothing_written, opened, python, read, rows, staged, tables, until,
)

WIDTH = 4
VECTORS = pa.list_(pa.float32(), WIDTH)


def vector(n, text=None, width=WIDTH) -> list:
    """What the row `n` with `text` has to hold."""
    return [float(n), 0.0 if text is None else float(len(text)), *([float(n % 7)] * (width - 2))]


class Embed:
    """Gives such vectors, and counts the rows that it is given. Its call `fails_at` fails."""

    def __init__(self, width=WIDTH, fails_at=None):
        self.width, self.fails_at = width, fails_at
        self.given, self.sizes, self.lock = Counter(), [], threading.Lock()

    def __call__(self, batch):
        assert isinstance(batch, pa.RecordBatch) and batch.schema.names == ["id", "text"]
        ids, texts = batch.column("id").to_pylist(), batch.column("text").to_pylist()
        with self.lock:
            self.given.update(ids)
            self.sizes.append(len(ids))
            call = len(self.sizes)
        if call == self.fails_at:
            raise RuntimeError(f"call {call} failed")
        return [vector(n, text, self.width) for n, text in zip(ids, texts)]

    @property
    def twice(self) -> list:
        """The rows that it was given more than once."""
        return sorted(n for n, times in self.given.items() if times > 1)

    def change(self, **more):
        """The change that has it give the vectors."""
        more = {"type": pa.list_(pa.float32(), self.width), "inputs": ["id", "text"], "version": "1", "batch_size": 16, **more}
        return relance.replace("vector", self, **more)


def check(db, name="documents", width=WIDTH, column="vector") -> list:
    """Expects that every row has its vector, and gives their ids."""
    table = read(db, name)
    assert table.schema.field(column).type == pa.list_(pa.float32(), width)
    found = table.to_pylist()
    wanted = [vector(row["id"], row["text"], width) for row in found]
    assert [row[column] for row in found] == wanted
    return [row["id"] for row in found]


def fails(place, change, *, error=relance.RefusedError, says=(), **more) -> str:
    """Expects that migrating fails before anything is written, and gives what it says."""
    db, _ = place
    with nothing_written(db), pytest.raises(error) as told:
        relance.migrate(place, change, by_retries=0, **more)
    for text in says:
        assert text in str(told.value)
    return str(told.value)


def number(by, **more):
    """An added column of numbers."""
    return relance.add("n", **{"type": "int64", "by": by, "inputs": "id", **more})


# What a function gives


class Stream:
    """What is known of an object of another Arrow library, such as polars."""

    def __init__(self, of):
        self.of = of

    def __arrow_c_stream__(self, requested_schema=None):
        return self.of.__arrow_c_stream__(requested_schema)


class Foreign:
    """An array of another Arrow library."""

    def __init__(self, of):
        self.of = of

    def __arrow_c_array__(self, requested_schema=None):
        return self.of.__arrow_c_array__(requested_schema)


class Tensor:
    """What is needed of a tensor of torch."""

    def __init__(self, of):
        self.of, self.steps = of, []

    def detach(self):
        self.steps.append("detach")
        return self

    def cpu(self):
        self.steps.append("cpu")
        return self

    def __array__(self, dtype=None, copy=None):
        assert self.steps == ["detach", "cpu"]
        return np.array(self.of, dtype or np.float32)


def nested(values, item=pa.float32):
    return pa.array(values, pa.list_(item(), WIDTH))


def sliced(values):
    return nested([[-1.0] * WIDTH, *values, [-2.0] * WIDTH])[1:-1]


GIVES = {
    "list of lists": list,
    "tuple of tuples": lambda values: tuple(tuple(one) for one in values),
    "list of numpy arrays": lambda values: [np.array(one, np.float32) for one in values],
    "numpy": lambda values: np.array(values, np.float32),
    "numpy of float64": lambda values: np.array(values, np.float64),
    "numpy of float16": lambda values: np.array(values, np.float16),
    "numpy of integers": lambda values: np.array(values, np.int64),
    "numpy by columns": lambda values: np.asfortranarray(np.array(values, np.float32)),
    "numpy with strides": lambda values: np.repeat(np.array(values, np.float32), 2, axis=1)[:, ::2],
    "pyarrow array": nested,
    "pyarrow array of float64": lambda values: nested(values, pa.float64),
    "pyarrow slice": sliced,
    "pyarrow lists": lambda values: pa.array(values, pa.list_(pa.float32())),
    "pyarrow large lists": lambda values: pa.array(values, pa.large_list(pa.float64())),
    "pyarrow items that are not null": lambda values: pa.array(
        values, pa.list_(pa.field("item", pa.float32(), nullable=False), WIDTH)
    ),
    "chunked array": lambda values: pa.chunked_array([nested(values[:3]), nested(values[3:])]),
    "chunked array of float64": lambda values: pa.chunked_array([nested(values, pa.float64)]),
    "record batch": lambda values: pa.record_batch({"any": nested(values)}),
    "table": lambda values: pa.table({"any": nested(values)}),
    "series": lambda values: pd.Series(values),
    "series of numpy arrays": lambda values: pd.Series([np.array(one, np.float32) for one in values]),
    "series with another index": lambda values: pd.Series(values, index=range(7, 7 + len(values))),
    "series of pyarrow": lambda values: pd.Series(nested(values), dtype=pd.ArrowDtype(VECTORS)),
    "stream": lambda values: Stream(pa.chunked_array([nested(values)])),
    "foreign array": lambda values: Foreign(nested(values)),
    "tensor": Tensor,
}


@pytest.mark.parametrize("form", GIVES)
def test_a_function_gives_vectors_in_each_form(db, place, form):
    def embed(batch):
        return GIVES[form]([vector(n) for n in batch.column(0).to_pylist()])

    before = read(db)
    relance.migrate(place, relance.replace("vector", embed, type=VECTORS, inputs="id"), by_retries=0)
    table = read(db)
    assert table.schema.field("vector").type == VECTORS
    assert table["vector"].to_pylist() == [vector(n) for n in range(500)]
    assert table.drop_columns("vector") == before.drop_columns("vector")


def text_of(n):
    return None if n % 5 == 0 else f"text of {n} 𝄞"


SCALARS = {
    "list of texts": (list, "string"),
    "series of texts": (pd.Series, "string"),
    "numpy of objects": (lambda values: np.array(values, object), "string"),
    "pyarrow for large": (pa.array, "large_string"),
    "large for small": (lambda values: pa.array(values, pa.large_string()), "string"),
    "view for small": (lambda values: pa.array(values, pa.string_view()), "string"),
    "dictionary for its values": (lambda values: pa.array(values).dictionary_encode(), "string"),
}


@pytest.mark.parametrize("form", SCALARS)
def test_a_function_gives_texts_and_nulls_in_each_form(db, place, form):
    of, kind = SCALARS[form]

    def by(batch):
        return of([text_of(n) for n in batch.column("id").to_pylist()])

    relance.migrate(place, relance.add("word", kind, by=by, inputs="id"), by_retries=0)
    assert read(db).schema.field("word").type == (pa.large_string() if kind == "large_string" else pa.string())
    assert [row["word"] for row in rows(db)] == [text_of(n) for n in range(500)]


TYPES = {
    "bool": (lambda n: n % 3 == 0, pa.bool_()),
    "int32": (lambda n: n - 250, pa.int32()),
    "double": (lambda n: n / 3, pa.float64()),
    "binary": (lambda n: bytes([n % 256]) * (n % 4), pa.binary()),
    "struct": (lambda n: {"a": n, "b": None if n % 2 else [f"{n}"]}, pa.struct({"a": pa.int64(), "b": pa.list_(pa.string())})),
    "lists": (lambda n: None if n == 3 else [n] * (n % 4), pa.list_(pa.int64())),
    "null vectors": (lambda n: None if n % 4 == 0 else vector(n), VECTORS),
    "half vectors": (lambda n: vector(n), pa.list_(pa.float16(), WIDTH)),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_column_of_each_type(db, place, name):
    of, kind = TYPES[name]
    by = number(lambda batch: [of(n) for n in batch.column("id").to_pylist()], type=kind)
    relance.migrate(place, by, by_retries=0)
    found = read(db)["n"]
    assert found.type == kind and found.to_pylist() == [of(n) for n in range(500)]


def test_numpy_numbers_and_times_of_one_dimension(db, place):
    day = np.datetime64("2026-01-01", "us")
    changes = [
        number(lambda batch: batch.column("id").to_numpy() * 3),
        relance.add("small", "int16", by=lambda batch: batch.column("id").to_numpy() - 9, inputs="id"),
        relance.add("at", "timestamp[us]", by=lambda batch: day + batch.column("id").to_numpy(), inputs="id"),
    ]
    relance.migrate(place, changes, by_retries=0)
    found = read(db)
    assert found["n"].to_pylist() == [n * 3 for n in range(500)]
    assert found["small"].to_pylist() == [n - 9 for n in range(500)] and found["small"].type == pa.int16()
    assert found["at"].cast(pa.int64()).to_pylist() == [1767225600000000 + n for n in range(500)]


def embedding(of, **more):
    return relance.replace("vector", of, **{"type": VECTORS, "inputs": "id", **more})


WRONG = {
    "too few": (lambda batch: [vector(0)] * (len(batch) - 1), ["255 values", "256 rows"]),
    "too many": (lambda batch: np.zeros((len(batch) + 1, WIDTH)), ["257 values", "256 rows"]),
    "none": (lambda batch: [], ["0 values", "256 rows"]),
    "an empty chunked array": (lambda batch: pa.chunked_array([], VECTORS), ["0 values", "256 rows"]),
    "vectors that are too short": (lambda batch: [[1.0] * (WIDTH - 1)] * len(batch), ["3", "4"]),
    "numpy that is too narrow": (lambda batch: np.zeros((len(batch), 3)), ["vectors of 3 numbers, not 4"]),
    "pyarrow that is too wide": (lambda batch: pa.array([[1.0] * 5] * len(batch), pa.list_(pa.float32(), 5)), []),
    "numpy of three dimensions": (lambda batch: np.zeros((len(batch), WIDTH, 1)), ["3 dimensions"]),
    "numpy of one dimension": (lambda batch: np.zeros(len(batch)), []),
    "numbers": (lambda batch: [1.0] * len(batch), []),
    "texts": (lambda batch: ["a text"] * len(batch), []),
    "text inside": (lambda batch: [["a", "b", "c", "d"]] * len(batch), []),
    "two columns": (lambda batch: pa.record_batch({"a": [1] * len(batch), "b": [2] * len(batch)}), ["2 columns"]),
    "nothing": (lambda batch: None, ["NoneType"]),
    "a generator": (lambda batch: (vector(n) for n in range(len(batch))), ["generator"]),
    "a number": (lambda batch: 7, ["int"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_function_gives_is_refused_if_it_does_not_fit(place, what):
    by, says = WRONG[what]
    told = fails(place, embedding(by), says=["`vector`", *says])
    assert "256 rows" in told


OVER = {
    "too large": lambda n: 1 << 40,
    "a fraction": lambda n: 0.5,
    "a text": lambda n: "one",
}


@pytest.mark.parametrize("what", OVER)
@pytest.mark.parametrize("of", [list, np.array, pa.array], ids=["list", "numpy", "pyarrow"])
def test_numbers_that_do_not_fit_are_refused(place, what, of):
    fails(place, number(lambda batch: of([OVER[what](n) for n in range(len(batch))]), type="int32"))


def test_an_exception_is_told_with_its_kind_and_its_message(place):
    def embed(batch):
        raise ValueError("the model is gone: 'x' & 7")

    says = ["`vector`", "ValueError", "the model is gone: 'x' & 7", "nothing was written"]
    fails(place, embedding(embed), says=says)


def test_an_exit_inside_a_function_is_a_failure_of_it(place):
    def embed(batch):
        raise SystemExit("bye")

    fails(place, embedding(embed), says=["bye"])


def test_a_column_that_may_not_be_null_gets_no_nulls(place):
    fails(place, number(lambda batch: [None, *range(1, len(batch))], nullable=False), says=["no value", "1 row"])


def test_a_column_that_exists_and_may_not_be_null_gets_no_nulls(tmp_path):
    db = str(tmp_path)
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("n", pa.int64(), nullable=False)])
    lancedb.connect(db).create_table("t", pa.table({"id": range(9), "n": range(9)}, schema=schema))
    change = relance.replace("n", lambda batch: [None if n == 4 else n for n in range(9)], type="int64", inputs="id")
    fails((db, "t"), change, says=["no value"])
    relance.migrate((db, "t"), relance.replace("n", lambda batch: [n * 2 for n in range(9)], type="int64", inputs="id"))
    assert read(db, "t")["n"].to_pylist() == [n * 2 for n in range(9)]
    assert not read(db, "t").schema.field("n").nullable


WRONGLY = {
    "no function": lambda: relance.replace("vector", 7, type=VECTORS, inputs="id"),
    "no type": lambda: relance.replace("vector", len, inputs="id"),
    "no inputs": lambda: relance.replace("vector", len, type=VECTORS),
    "no rows": lambda: relance.replace("vector", len, type=VECTORS, inputs="id", batch_size=0),
    "a default too": lambda: relance.add("n", "int64", by=len, inputs="id", default=7),
    "no type to add": lambda: relance.add("n", by=len, inputs="id"),
    "a type that is none": lambda: relance.add("n", "nosuch", by=len, inputs="id"),
}


@pytest.mark.parametrize("what", WRONGLY)
def test_a_change_that_makes_no_sense_is_refused_at_once(what):
    with pytest.raises(relance.UsageError):
        WRONGLY[what]()


@pytest.mark.parametrize("inputs", ["nosuch", ["id", "nosuch"], "price"])
def test_inputs_that_are_not_there_are_named(place, inputs):
    changes = [relance.drop("price"), embedding(lambda batch: None, inputs=inputs)]
    missing = "price" if inputs == "price" else "nosuch"
    with nothing_written(place[0]), pytest.raises(relance.RelanceError, match=missing):
        relance.migrate(place, changes)


def test_a_column_to_replace_has_to_be_there(place):
    with nothing_written(place[0]), pytest.raises(relance.RelanceError, match="nosuch"):
        relance.migrate(place, relance.replace("nosuch", lambda batch: None, type="int64", inputs="id"))


# What a function is given


@pytest.mark.parametrize("size", [1, 16, 256, 10_000])
def test_each_row_is_given_once_in_batches_of_the_size(tmp_path, size):
    db = str(tmp_path)
    make(db, rows=60 if size == 1 else 500, files=5)
    embed = Embed()
    relance.migrate((db, "documents"), embed.change(batch_size=size))
    ids = check(db)
    assert embed.given == Counter(ids) and max(embed.sizes) == min(size, 100)


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
def test_deleted_rows_are_not_given(parts, strategy):
    db, _ = parts
    opened(db).delete("id % 10 = 3 or id < 20 or id between 200 and 299")
    embed = Embed()
    assert relance.migrate(parts, embed.change(), strategy=strategy).report.strategy == strategy
    ids = check(db)
    assert len(ids) == 500 - 20 - 100 - 38 and embed.given == Counter(ids)


def test_nulls_reach_the_function(db, place):
    opened(db).update(where="id % 3 = 0", values={"text": None})
    embed = Embed()
    relance.migrate(place, embed.change())
    assert len(check(db)) == 500
    assert rows(db)[3]["vector"] == [3.0, 0.0, 3.0, 3.0] and rows(db)[4]["vector"] == [4.0, 6.0, 4.0, 4.0]


def test_an_empty_table_gets_the_type_and_no_call(tmp_path):
    db = str(tmp_path)
    lancedb.connect(db).create_table("documents", documents(0, 0))
    embed = Embed()
    relance.migrate((db, "documents"), [embed.change(), number(lambda batch: 1 / 0)])
    assert read(db).schema.field("vector").type == VECTORS and "n" in read(db).column_names
    assert not embed.given


def test_a_table_of_deleted_rows_gets_the_type_and_no_call(db, place):
    opened(db).delete("true")
    embed = Embed()
    relance.migrate(place, embed.change())
    assert read(db).schema.field("vector").type == VECTORS and not embed.given
    opened(db).add([{"id": 1, "vector": vector(1)}])
    assert [row["vector"] for row in rows(db)] == [vector(1)]


def test_structs_and_vectors_are_inputs(db, place):
    seen = []

    def by(batch):
        seen.append(batch.schema.types)
        return [f"{meta['a']} {meta['b']} {sum(old)}" for meta, old in zip(*(one.to_pylist() for one in batch.columns))]

    relance.migrate(place, relance.add("word", "string", by=by, inputs=["meta", "vector"]))
    assert [row["word"] for row in rows(db)] == [f"{n} b{n} {float(8 * n + 28)}" for n in range(500)]
    assert seen[0] == [read(db).schema.field("meta").type, pa.list_(pa.float32(), 8)]
    with nothing_written(db), pytest.raises(relance.UsageError, match="top-level"):
        relance.migrate(place, number(lambda batch: None, inputs="meta.a"))


def test_a_column_is_made_of_its_own_old_values(db, place):
    def by(batch):
        return batch.column("price").to_numpy() * 2

    relance.migrate(place, relance.replace("price", by, type="double", inputs="price"))
    assert [row["price"] for row in rows(db)] == [n / 2 for n in range(500)]


def test_a_function_may_use_the_table(db, place):
    def by(batch):
        ids = ", ".join(map(str, batch.column("id").to_pylist()))
        found = opened(db).search().where(f"id in ({ids})").limit(1000).to_list()
        prices = {row["id"]: row["price"] for row in found}
        assert relance.status(place).version == 1
        return [int(4 * prices[n]) for n in batch.column("id").to_pylist()]

    relance.migrate(place, number(by))
    assert [row["n"] for row in rows(db)] == list(range(500))


def test_changes_that_are_made_lazily_keep_their_functions(db, place):
    relance.migrate(place, (one for one in [number(lambda batch: batch.column("id"))]))
    assert [row["n"] for row in rows(db)] == list(range(500))
    plan = relance.plan(place, (one for one in [relance.add("m", "int64", by=lambda batch: batch.column("n"), inputs="n")]))
    relance.migrate(place, plan=plan)
    assert [row["m"] for row in rows(db)] == list(range(500))


# The type, the index, the old column


def test_the_column_keeps_its_place_and_the_others_their_values(db, place):
    before = read(db)
    names = before.column_names
    report = relance.migrate(place, Embed(width=16).change()).report
    assert report.strategy == "columns"
    table = read(db)
    assert table.column_names == names and len(check(db, width=16)) == 500
    assert table.drop_columns("vector") == before.drop_columns("vector")
    opened(db).add([{"id": 500, "text": "new", "vector": vector(500, "new", 16)}])
    assert len(check(db, width=16)) == 501


def test_the_old_column_stays_beside_the_new_one(db, place):
    before = rows(db)
    relance.migrate(place, Embed().change(keep_old="old_vector"))
    check(db)
    assert [row["old_vector"] for row in rows(db)] == [row["vector"] for row in before]
    assert read(db).schema.field("old_vector").type == pa.list_(pa.float32(), 8)
    relance.rollback(place)
    assert rows(db) == before


def test_the_old_column_does_not_take_the_name_of_another(place):
    for keep_old in ["price", "vector"]:
        with nothing_written(place[0]), pytest.raises(relance.RelanceError):
            relance.migrate(place, Embed().change(keep_old=keep_old))


@pytest.fixture
def indexed(tmp_path) -> tuple:
    """600 documents, which are enough for two partitions, with an index on their vectors."""
    db = str(tmp_path / "db")
    config = IvfPq(distance_type="cosine", num_partitions=2, num_sub_vectors=4)
    make(db, rows=600).create_index("vector", config=config)
    return db, "documents"


def index_of(db) -> dict:
    """What Lance tells of the only index: how it was built."""
    dataset = lance.dataset(f"{db}/documents.lance")
    (index,) = dataset.describe_indices()
    stats = dataset.stats.index_stats(index.name)
    (one,) = stats["indices"]
    sub = {name: one["sub_index"][name] for name in ["index_type", "nbits", "num_sub_vectors"] if name in one["sub_index"]}
    return {
        "name": index.name, "fields": index.field_names, "type": index.index_type, "metric": one["metric_type"],
        "partitions": one["num_partitions"], "sub": sub,
    }


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
@pytest.mark.parametrize("keep_old", [None, "old"], ids=["in place", "beside"])
def test_the_index_is_built_again_with_the_same_parameters(indexed, strategy, keep_old):
    db, _ = indexed
    before = index_of(db)
    assert before["partitions"] == 2 and before["sub"]["num_sub_vectors"] == 4
    report = relance.migrate(indexed, Embed(width=16).change(keep_old=keep_old), strategy=strategy).report
    assert report.indices_rebuilt == [before["name"]] and report.indices_dropped == []
    check(db, width=16)
    assert index_of(db) == before
    table = opened(db)
    (index,) = table.list_indices()
    assert index.columns == ["vector"]
    stats = table.index_stats(index.name)
    assert (stats.num_indexed_rows, stats.num_unindexed_rows, stats.distance_type) == (600, 0, "cosine")
    for n in [3, 77, 460]:
        query = table.search(vector(n, f"text {n}", 16), vector_column_name="vector")
        found = query.distance_type("cosine").nprobes(2).refine_factor(50).limit(1).to_list()
        assert [row["id"] for row in found] == [n]


def test_sub_vectors_that_do_not_divide_the_dimension_are_refused(indexed):
    db, _ = indexed
    embed = Embed(width=6)
    told = fails(indexed, embed.change(), says=["4 sub-vectors", "6"])
    assert "--drop-index" in told
    name = index_of(db)["name"]
    report = relance.migrate(indexed, embed.change(), drop_index=name).report
    assert report.indices_dropped == [name] and list(opened(db).list_indices()) == []
    check(db, width=6)


def test_an_index_that_the_type_does_not_take_is_refused(indexed):
    change = relance.replace("vector", lambda batch: ["text"] * len(batch), type="string", inputs="id")
    fails(indexed, change, says=["IVF_PQ"])


def test_rollback_puts_the_old_column_and_its_index_back(indexed):
    db, _ = indexed
    before, index = rows(db), index_of(db)
    relance.migrate(indexed, Embed(width=16).change())
    relance.rollback(indexed)
    assert rows(db) == before and index_of(db) == index
    table = opened(db)
    assert table.index_stats(index["name"]).num_unindexed_rows == 0
    query = table.search(before[3]["vector"]).distance_type("cosine").nprobes(2).refine_factor(50)
    assert [row["id"] for row in query.limit(1).to_list()] == [3]


def test_rollback_keeps_no_rows_that_came_since(db, place):
    relance.migrate(place, Embed().change())
    opened(db).add([{"id": 500, "text": "text 500", "vector": vector(500, "text 500")}])
    for more in ({}, {"keep_writes": True}):
        with nothing_written(db), pytest.raises(relance.RefusedError):
            relance.rollback(place, **more)
    assert len(check(db)) == 501
    relance.rollback(place, discard_writes=True)
    assert [row["vector"] for row in rows(db)] == documents(0, 500)["vector"].to_pylist()


def test_finalize_gives_up_the_old_column(db, place):
    relance.migrate(place, Embed().change())
    assert relance.finalize(place).version == 1
    assert len(check(db)) == 500


# Beside other changes


@pytest.mark.parametrize("strategy", ["auto", "rewrite"])
def test_a_producer_beside_changes_of_every_kind(db, place, strategy):
    def by(batch):
        assert batch.schema.names == ["body", "characters", "price"]
        assert batch.schema.types == [pa.string(), pa.int32(), pa.float32()]
        return [f"{body}/{characters}/{price}" for body, characters, price in zip(*(one.to_pylist() for one in batch.columns))]

    changes = [
        relance.compute("characters", "character_length(text)", type="int32"),
        relance.rename("text", "body"),
        relance.set("body", "upper(body)"),
        relance.cast("price", "float"),
        relance.add("word", "string", by=by, inputs=["body", "characters", "price"], nullable=False),
        relance.rename("word", "words"),
        relance.compute("length", "character_length(words)", type="int64"),
        relance.drop("body"),
        relance.drop("vector"),
    ]
    relance.migrate(place, changes, strategy=strategy)
    table = read(db)
    assert table.column_names == ["id", "price", "meta", "characters", "words", "length"]
    assert not table.schema.field("words").nullable
    for n, row in enumerate(table.to_pylist()):
        word = f"TEXT {n}/{5 + len(str(n))}/{n / 4}"
        assert (row["words"], row["length"], row["price"]) == (word, len(word), n / 4)


@pytest.mark.parametrize("strategy", ["auto", "rewrite"])
def test_one_producer_is_given_the_column_of_another(db, place, strategy):
    given = Counter()

    def half(batch):
        given.update(batch.column("text").to_pylist())
        return [len(text) for text in batch.column("text").to_pylist()]

    def of_half(batch):
        assert batch.schema.names == ["length", "id"]
        given.update(batch.column("id").to_pylist())
        return [f"{length} of {n}" for length, n in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist())]

    changes = [
        relance.add("length", "int32", by=half, inputs="text", nullable=False, batch_size=32),
        relance.add("word", "string", by=of_half, inputs=["length", "id"], batch_size=50),
        Embed().change(),
    ]
    relance.migrate(place, changes, strategy=strategy)
    check(db)
    for n, row in enumerate(rows(db)):
        assert (row["length"], row["word"]) == (len(f"text {n}"), f"{len(f'text {n}')} of {n}")
    assert set(given.values()) == {1} and len(given) == 1000


@pytest.mark.parametrize("strategy", ["auto", "rewrite"])
def test_two_producers_of_columns_that_have_one_name_in_turn(db, place, strategy):
    changes = [
        relance.add("n", "int64", by=lambda batch: batch.column("id").to_numpy() + 1, inputs="id"),
        relance.rename("n", "m"),
        relance.add("n", "int64", by=lambda batch: batch.column("id").to_numpy() * 10, inputs="id"),
    ]
    relance.migrate(place, changes, strategy=strategy)
    assert [(row["m"], row["n"]) for row in rows(db)] == [(n + 1, n * 10) for n in range(500)]


def test_a_column_is_replaced_twice(db, place):
    changes = [
        relance.replace("price", lambda batch: batch.column("id").to_numpy() + 1, type="int64", inputs="id"),
        relance.replace("price", lambda batch: batch.column("price").to_numpy() * 0.5, type="double", inputs="price"),
    ]
    relance.migrate(place, changes, by_retries=0)
    assert [row["price"] for row in rows(db)] == [(n + 1) / 2 for n in range(500)]


def test_where_gives_only_the_rows_that_stay(parts):
    db, _ = parts
    embed = Embed()
    relance.migrate(parts, embed.change(), where="id % 5 = 2")
    ids = check(db)
    assert ids == list(range(2, 500, 5)) and embed.given == Counter(ids)


def test_where_leaves_rows_that_others_append_behind_too(db, place):
    embed = Embed()
    relance.migrate(place, embed.change(), where="id % 5 = 2", hold=True)
    opened(db).add(documents(500, 50))
    relance.resume(place, embed.change())
    ids = check(db)
    assert ids == list(range(2, 550, 5)) and embed.given == Counter(ids)


def test_rows_per_file_writes_every_row_anew(parts):
    db, _ = parts
    embed = Embed()
    relance.migrate(parts, embed.change(), rows_per_file=40)
    assert embed.given == Counter(check(db))
    sizes = [fragment.count_rows() for fragment in lance.dataset(f"{db}/documents.lance").get_fragments()]
    assert sum(sizes) == 500 and max(sizes) == 40


def test_verify_says_nothing_against_values_that_came_from_elsewhere(db, place):
    relance.migrate(place, [Embed().change(), relance.set("price", "price + 1")])
    with nothing_written(db):
        verified = relance.verify(place)
    assert verified.rows == 500 and "price" in {column.column for column in verified.columns}


# Versions


def test_resume_refuses_another_version(db, place):
    relance.migrate(place, Embed().change(version="model-1"), hold=True)
    other = Embed()
    with pytest.raises(relance.RefusedError) as told:
        relance.resume(place, other.change(version="model-2"))
    assert "model-1" in str(told.value) and "model-2" in str(told.value)
    assert staged(place) is not None and not other.given
    assert relance.resume(place, Embed().change(version="model-1")).ended == "swapped"
    check(db)


def test_the_version_is_in_the_metadata_of_the_field(db, place):
    relance.migrate(place, [Embed().change(version="model 1/é"), number(lambda batch: batch.column("id"))])
    schema = lance.dataset(f"{db}/documents.lance").schema
    assert schema.field("vector").metadata[b"relance:by-version"] == "model 1/é".encode()
    assert b"relance:by-version" not in (schema.field("n").metadata or {})
    assert b"relance:by-version" not in (schema.field("id").metadata or {})


def test_a_column_of_that_version_is_left_alone(db, place):
    relance.migrate(place, Embed().change(version="1"))
    again, version = Embed(), opened(db).version
    done = relance.migrate(place, again.change(version="1"))
    assert done.ended == "nothing" and not again.given and opened(db).version == version
    other = Embed(width=8)
    assert relance.migrate(place, other.change(version="2")).ended == "swapped"
    assert other.given == Counter(range(500)) and len(check(db, width=8)) == 500


def doubled(**more):
    """The price becomes twice the id."""
    return relance.replace("price", lambda batch: batch.column("id").to_numpy() * 2.0, type="double", inputs="id", **more)


CHANGED = {
    "set": relance.set("price", "0.0"),
    "cast": relance.cast("price", "float"),
    "joined": relance.join(pa.table({"id": range(500), "price": [0.0] * 500}), on="id", take="price"),
    "computed without a version": relance.replace("price", lambda batch: np.zeros(len(batch)), type="double", inputs="id"),
}


@pytest.mark.parametrize("how", CHANGED)
def test_a_column_that_a_migration_changed_since_is_computed_again(db, place, how):
    relance.migrate(place, doubled(version="1"))
    relance.migrate(place, CHANGED[how])
    assert relance.migrate(place, doubled(version="1")).ended == "swapped"
    assert [row["price"] for row in rows(db)] == [n * 2.0 for n in range(500)]


def test_a_column_keeps_its_version_under_another_name(db, place):
    relance.migrate(place, doubled(version="1"))
    relance.migrate(place, relance.rename("price", "cost"))
    assert lance.dataset(f"{db}/documents.lance").schema.field("cost").metadata[b"relance:by-version"] == b"1"


def test_without_a_version_it_is_computed_again(place):
    relance.migrate(place, Embed().change(version=None))
    again = Embed()
    assert relance.migrate(place, again.change(version=None)).ended == "swapped"
    assert again.given == Counter(range(500))


# Failures, deaths, and others meanwhile


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
@pytest.mark.parametrize("fails_at", [2, 15, 35])
def test_resume_goes_on_after_a_failure(parts, strategy, fails_at):
    db, _ = parts
    before = read(db)
    embed = Embed(fails_at=fails_at)
    with pytest.raises(relance.FailedError, match=f"call {fails_at} failed"):
        relance.migrate(parts, embed.change(), strategy=strategy, by_retries=0)
    assert read(db) == before and staged(parts).state == "interrupted"
    assert relance.resume(parts, [embed.change()]).ended == "swapped"
    assert len(check(db)) == 500 and tables(db) == ["documents"]
    assert set(embed.given) == set(range(500)) and len(embed.twice) <= 16


def test_resume_needs_the_function(db, place):
    embed = Embed(fails_at=9)
    with pytest.raises(relance.FailedError):
        relance.migrate(place, embed.change(), by_retries=0)
    for changes in (None, [], "drop price"):
        with pytest.raises(relance.RelanceError) as told:
            relance.resume(place, changes)
        assert isinstance(told.value, relance.RefusedError if changes else relance.UsageError)
        assert staged(place) is not None
    assert relance.resume(place, embed.change()).ended == "swapped"
    check(db)


KILLED = """
import sys, time
import pyarrow as pa
import relance

db, log = sys.argv[1:]

def embed(batch):
    ids, texts = (column.to_pylist() for column in batch.columns)
    with open(log, "a") as file:
        file.writelines(f"{n}\\n" for n in ids)
        if len(ids) and 330 in ids:
            file.write("waits\\n")
    while 330 in ids:
        time.sleep(1)
    return [[float(n), float(len(text)), float(n % 7), float(n % 7)] for n, text in zip(ids, texts)]

change = relance.replace("vector", embed, type=pa.list_(pa.float32(), 4), inputs=["id", "text"], version="1", batch_size=16)
relance.migrate((db, "documents"), change)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("after", ["nothing", "compaction"])
def test_what_a_killed_process_computed_is_kept(db, place, tmp_path, after):
    log = tmp_path / "log"
    before = read(db)
    process = python(KILLED, db, log)
    until(lambda: process.poll() is not None or (log.exists() and "waits" in log.read_text()), "the wait")
    process.send_signal(signal.SIGKILL)
    code, _, err = ended(process)
    assert code == -signal.SIGKILL, err
    assert read(db) == before
    if after == "compaction":
        opened(db).add(documents(500, 20))
        opened(db).delete("id < 10")
        opened(db).optimize()
    embed = Embed()
    assert relance.resume(place, embed.change()).ended == "swapped"
    ids = check(db)
    given = Counter(int(line) for line in log.read_text().split() if line != "waits")
    twice = set(given) & set(embed.given)
    assert set(ids) <= set(given) | set(embed.given) and len(twice) <= 16
    assert set(embed.given.values()) == {1} and set(given.values()) == {1}
    assert tables(db) == ["documents"]


def write_meanwhile(db) -> None:
    """Everything that others may do: compaction, updates of the inputs and of others, rows that come and go."""
    table = opened(db)
    table.optimize()
    table.update(where="id = 17", values={"text": "another text"})
    table.update(where="id between 40 and 49", values={"price": -1.0})
    table.add(documents(900, 30))
    table.delete("id = 30 or id = 905")
    table.optimize()


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
def test_only_new_and_changed_rows_are_given_again_after_a_hold(parts, strategy):
    db, _ = parts
    embed = Embed()
    relance.migrate(parts, embed.change(), hold=True, strategy=strategy)
    assert embed.given == Counter(range(500))
    write_meanwhile(db)
    relance.resume(parts, embed.change())
    ids = check(db)
    assert ids == [n for n in [*range(500), *range(900, 930)] if n not in (30, 905)]
    assert embed.twice == [17] and set(embed.given) == {*ids, 30}
    assert [row["price"] for row in rows(db)[39:49]] == [-1.0] * 10


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
def test_only_new_and_changed_rows_are_given_again_after_a_failure(parts, strategy):
    db, _ = parts
    embed = Embed(fails_at=20)
    with pytest.raises(relance.FailedError):
        relance.migrate(parts, embed.change(), by_retries=0, strategy=strategy)
    given = set(embed.given)
    write_meanwhile(db)
    relance.resume(parts, embed.change())
    ids = check(db)
    assert len(ids) == 528 and set(embed.given) - {30} == set(ids)
    assert set(embed.twice) <= given and len(set(embed.twice) - {17}) <= 16


def test_a_held_migration_takes_in_what_others_append(db, place):
    embed = Embed()
    held = relance.migrate(place, embed.change(), hold=True).held
    assert held.rows == 500 and STAGING in tables(db)
    opened(db).add(documents(500, 40))
    done = relance.resume(place, embed.change())
    assert (done.ended, done.report.id) == ("swapped", held.id)
    assert check(db) == list(range(540)) and embed.given == Counter(range(540))


def test_a_held_migration_that_nothing_happened_to_computes_nothing(db, place):
    embed, again = Embed(), Embed()
    relance.migrate(place, embed.change(), hold=True)
    relance.resume(place, again.change())
    check(db)
    assert not again.given


@pytest.mark.parametrize("hold", [True, False], ids=["held", "failed"])
def test_abort_leaves_nothing_of_the_migration(parts, hold):
    db, _ = parts
    before = files(db)
    embed = Embed(fails_at=None if hold else 12)
    if hold:
        relance.migrate(parts, embed.change(), hold=True)
    else:
        with pytest.raises(relance.FailedError):
            relance.migrate(parts, embed.change(), by_retries=0)
    assert any(name.endswith(".part") for name in files(db))
    assert relance.abort(parts).left == []
    assert files(db) == before and staged(parts) is None


def test_nothing_of_the_values_is_kept_after_the_swap(parts):
    db, _ = parts
    relance.migrate(parts, Embed().change())
    assert tables(db) == ["documents"] and not any(name.endswith(".part") for name in files(db))


# How it is called


def test_a_call_that_fails_is_tried_again(db, place):
    calls, events = [], []

    def by(batch):
        calls.append(len(batch))
        if len(calls) < 3:
            raise ConnectionError(f"try {len(calls)}")
        return batch.column("id")

    relance.migrate(place, number(by, batch_size=500), by_retries=2, progress=events.append)
    assert calls == [500, 500, 500] and [row["n"] for row in rows(db)] == list(range(500))
    notes = [event["text"] for event in events if event["event"] == "note" and "trying again" in event["text"]]
    assert len(notes) == 2 and "ConnectionError: try 1" in notes[0] and "try 2" in notes[1]


def test_a_call_is_tried_no_more_often_than_asked(place):
    calls = []

    def by(batch):
        calls.append(1)
        raise ConnectionError("gone")

    with nothing_written(place[0]), pytest.raises(relance.RefusedError, match="gone"):
        relance.migrate(place, number(by), by_retries=1)
    assert len(calls) == 2


def test_a_call_that_hangs_has_failed_after_the_time(db, place):
    goes_on, hung = threading.Event(), threading.Event()

    def by(batch):
        if not hung.is_set():
            hung.set()
            goes_on.wait(60)
        return batch.column("id")

    try:
        fails(place, number(by), says=["no answer in 0.2 s"], by_timeout=0.2)
        relance.migrate(place, number(by), by_timeout="30s")
    finally:
        goes_on.set()
    assert [row["n"] for row in rows(db)] == list(range(500))


def bad(by_bad):
    """Vectors but for a few rows, where `by_bad` has its say."""
    def embed(batch):
        ids = batch.column("id").to_pylist()
        values = [vector(n) for n in ids]
        for n in {7, 123, 499} & set(ids):
            values[ids.index(n)] = by_bad()
        return values

    return embed


def raises():
    raise ValueError("no such word")


BAD = {
    "raises": (raises, {}),
    "nan": (lambda: [1.0, float("nan"), 2.0, 3.0], {"finite": True}),
    "infinite": (lambda: [1.0, 2.0, 3.0, float("-inf")], {"finite": True}),
}


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("on_bad_value", ["null", "quarantine"])
def test_a_row_that_cannot_be_computed_stands_alone(parts, what, on_bad_value, strategy):
    db, _ = parts
    before = rows(db)
    by, more = BAD[what]
    change = embedding(bad(by), batch_size=64)
    report = relance.migrate(parts, change, on_bad_value=on_bad_value, by_retries=0, strategy=strategy, **more).report
    for n, row in enumerate(rows(db)):
        assert row["vector"] == (None if n in (7, 123, 499) else vector(n)), n
    assert [(one.column, one.count) for one in report.values_nulled] == [("vector", 3)]
    if on_bad_value == "quarantine":
        kept = rows(db, "documents__relance_quarantine")
        assert [row["id"] for row in kept] == [7, 123, 499]
        assert [{name: row[name] for name in before[0]} for row in kept] == [before[n] for n in (7, 123, 499)]
    else:
        assert tables(db) == ["documents"]


def test_numbers_that_are_not_finite_are_values_unless_it_is_asked(db, place):
    odd = [float("inf"), float("-inf"), 0.0, 1.0]
    change = embedding(lambda batch: [odd] * len(batch))
    told = fails(place, change, says=["not finite", "256 rows"], finite=True)
    assert "`vector`" in told
    relance.migrate(place, change)
    assert [row["vector"] for row in rows(db)] == [odd] * 500


INSIDE = {
    "float": (pa.float32(), lambda one: one),
    "double": (pa.float64(), lambda one: one),
    "struct": (pa.struct({"a": pa.float64()}), lambda one: {"a": one}),
    "list": (pa.list_(pa.float32()), lambda one: [1.0, one]),
    "large list": (pa.large_list(pa.float64()), lambda one: [one]),
    "half": (pa.float16(), np.float16),
}


@pytest.mark.parametrize("name", INSIDE)
def test_finite_looks_into_every_type(db, place, name):
    kind, of = INSIDE[name]

    def by(batch):
        return [None if n == 3 else of(float("nan") if n == 5 else n / 2) for n in batch.column("id").to_pylist()]

    relance.migrate(place, number(by, type=kind), finite=True, on_bad_value="null", by_retries=0)
    assert [row["n"] for row in rows(db)] == [None if n in (3, 5) else of(n / 2) for n in range(500)]


def test_bad_values_become_no_nulls_where_there_may_be_none(place):
    """Row 7 is among the first, which are tried before anything is written."""

    def by(batch):
        return [None if n == 7 else n for n in batch.column("id").to_pylist()]

    with nothing_written(place[0]), pytest.raises(relance.RelanceError) as told:
        relance.migrate(place, number(by, nullable=False), on_bad_value="null", by_retries=0)
    assert "`n`" in str(told.value)


def test_calls_at_once_keep_the_order(parts):
    db, _ = parts
    together, calls, lock, most = threading.Barrier(4, timeout=30), [], threading.Lock(), [0, 0]

    def by(batch):
        with lock:
            calls.append(len(batch))
            call = len(calls)
            most[0] += 1
            most[1] = max(most)
        # The first call is the trial, which is alone.
        if 1 < call <= 9:
            together.wait()
        with lock:
            most[0] -= 1
        return batch.column("id")

    relance.migrate(parts, number(by, batch_size=10), by_parallel=4, by_retries=0)
    assert [row["n"] for row in rows(db)] == list(range(500))
    assert most[1] == 4 and sum(calls) == 500


def test_one_call_at_a_time_unless_it_is_asked(parts):
    inside, most = threading.Semaphore(1), []

    def by(batch):
        most.append(inside.acquire(blocking=False))
        try:
            return batch.column("id")
        finally:
            inside.release()

    relance.migrate(parts, number(by, batch_size=10))
    assert all(most) and len(most) == 50


def test_the_loop_goes_on_while_a_function_computes(db, place):
    asked, answered = threading.Event(), threading.Event()

    def by(batch):
        asked.set()
        assert answered.wait(30)
        return batch.column("id")

    async def life():
        task = asyncio.create_task(relance.migrate_async(place, number(by), by_retries=0))
        while not asked.is_set():
            await asyncio.sleep(0.01)
        # Who computes waits for the loop.
        answered.set()
        return await task

    assert asyncio.run(life()).ended == "swapped"
    assert [row["n"] for row in rows(db)] == list(range(500))


def test_a_job_with_a_function_is_cancelled_and_gone_on_with(parts):
    db, _ = parts
    reached, goes_on = threading.Event(), threading.Event()
    embed = Embed()

    def by(batch):
        if len(embed.sizes) == 10 and not reached.is_set():
            reached.set()
            goes_on.wait(30)
        return embed(batch)

    change = relance.replace("vector", by, type=VECTORS, inputs=["id", "text"], version="1", batch_size=16)
    job = relance.start(parts, change)
    assert reached.wait(30)
    job.cancel()
    goes_on.set()
    with pytest.raises(relance.MigrationInterruptedError):
        job.wait()
    again = Embed()
    assert relance.resume(parts, again.change()).ended == "swapped"
    assert len(check(db)) == 500 and len(set(embed.given) & set(again.given)) <= 16


# Plans


def test_a_plan_tells_of_producers(db, place):
    embed = Embed()
    with nothing_written(db):
        plan = relance.plan(place, embed.change(batch_size=100))
    (trial,) = plan.producers
    assert (trial.column, trial.rows) == ("vector", 100) and sum(embed.sizes) == 100
    assert trial.example == "[0.0, 6.0, 0.0, 0.0]"
    assert trial.seconds >= 0 and isinstance(trial.seconds_in_all, int)
    assert "`vector`" in str(plan) and plan.joins == [] and "Embed" in plan.changes[0]


def test_the_time_of_all_rows_is_reckoned_from_the_first(place):
    def by(batch):
        threading.Event().wait(0.2)
        return batch.column("id")

    (trial,) = relance.plan(place, number(by, batch_size=10)).producers
    assert trial.rows == 10 and trial.seconds >= 0.2
    assert trial.seconds_in_all == pytest.approx(trial.seconds * 50, abs=1)


def test_a_plan_is_carried_out_with_its_functions(db, place):
    embed = Embed()
    plan = relance.plan(place, [embed.change(), number(lambda batch: batch.column("id"))])
    assert [trial.column for trial in plan.producers] == ["vector", "n"]
    assert relance.migrate(place, plan=plan).ended == "swapped"
    assert len(check(db)) == 500 and [row["n"] for row in rows(db)] == list(range(500))


def test_a_plan_with_functions_is_pickled_without_them(place):
    plan = relance.plan(place, number(lambda batch: batch.column("id")))
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan and str(again) == str(plan) and again.saved == plan.saved
    assert len(plan.functions) == 1


def test_a_saved_plan_has_no_functions(db, place):
    saved = relance.plan(place, Embed().change()).saved
    with nothing_written(db), pytest.raises(relance.UsageError, match="Embed"):
        relance.migrate(place, plan=saved)


def test_a_plan_is_refused_if_the_function_fails(place):
    with nothing_written(place[0]), pytest.raises(relance.RefusedError, match="no such word"):
        relance.plan(place, embedding(lambda batch: raises()))


# Programs


PROGRAM = """
import os, sys
import pyarrow as pa

assert os.environ["RELANCE_COLUMN"] == "vector" and os.environ["RELANCE_BY_VERSION"] == "1"
print("loads", sys.argv[1:], file=sys.stderr, flush=True)
schema = pa.schema([("any", pa.list_(pa.float32(), 4))])
reader = pa.ipc.open_stream(sys.stdin.buffer)
with pa.ipc.new_stream(sys.stdout.buffer, schema) as writer:
    for number, batch in enumerate(reader):
        ids, texts = (column.to_pylist() for column in batch.columns)
        if "die" in sys.argv and 200 in ids:
            print("out of luck", file=sys.stderr)
            print("last words", file=sys.stderr)
            sys.exit(7)
        values = [[float(n), float(len(text or "")), float(n % 7), float(n % 7)] for n, text in zip(ids, texts)]
        writer.write_batch(pa.record_batch([pa.array(values, schema.field(0).type)], schema))
        sys.stdout.buffer.flush()
"""


def script(tmp_path, text: str, *words) -> str:
    """The command line of a program."""
    path = tmp_path / "a program.py"
    path.write_text(text)
    return " ".join([sys.executable, f"'{path}'", *words])


def by_program(line: str, **more):
    more = {"type": VECTORS, "inputs": ["id", "text"], "version": "1", "batch_size": 50, **more}
    return relance.replace("vector", line, **more)


def test_a_program_gives_values_and_its_stderr_is_shown(parts, tmp_path):
    db, _ = parts
    events = []
    line = script(tmp_path, PROGRAM, '"two words"', "x")
    relance.migrate(parts, by_program(line), by_parallel=1, progress=events.append)
    assert len(check(db)) == 500
    notes = [event["text"] for event in events if event["event"] == "note"]
    shown = [note for note in notes if "loads ['two words', 'x']" in note]
    assert len(shown) == 1 and shown[0].startswith(Path(sys.executable).name)


def test_a_program_that_dies_tells_how(db, place, tmp_path):
    line = script(tmp_path, PROGRAM, "die")
    with pytest.raises(relance.FailedError) as told:
        relance.migrate(place, by_program(line), by_parallel=1, by_retries=0)
    for text in ["`vector`", "exit status: 7", "out of luck", "last words"]:
        assert text in str(told.value)
    assert relance.resume(place, by_program(script(tmp_path, PROGRAM)), by_parallel=1).ended == "swapped"
    assert len(check(db)) == 500


def test_resume_runs_the_program_that_the_migration_began_with(db, place, tmp_path):
    relance.migrate(place, by_program(script(tmp_path, PROGRAM)), by_parallel=1, hold=True)
    opened(db).add(documents(500, 10))
    assert relance.resume(place).ended == "swapped"
    assert check(db) == list(range(510))


GARBAGE = {
    "text": ("print('Hello, world! ' * 9)", ["stdout"]),
    "nothing": ("pass", []),
    "an error": ("raise OSError('the model is not there')", ["the model is not there"]),
    "an end in the middle": ("sys.stdout.buffer.write(b'\\xff\\xff\\xff\\xff\\x10\\x00\\x00\\x00ab')", []),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_program_that_writes_no_stream_is_refused(place, tmp_path, what):
    text, says = GARBAGE[what]
    line = script(tmp_path, f"import sys\n{text}\n")
    fails(place, by_program(line), says=["`vector`", *says], by_parallel=1, by_timeout=20)


def test_a_program_that_says_something_on_stdout_first_is_refused(place, tmp_path):
    """As those do that load a model. Both sides would wait for each other."""
    line = script(tmp_path, "print('Loading the model', flush=True)\n" + PROGRAM)
    fails(place, by_program(line), says=["stdout"], by_parallel=1, by_timeout=1)


TWICE = """
import sys, time
import pyarrow as pa

kind = pa.list_(pa.float32(), 4)
with pa.ipc.open_stream(sys.stdin.buffer) as reader, pa.ipc.new_stream(sys.stdout.buffer, pa.schema([("v", kind)])) as out:
    for batch in reader:
        values = [[float(n), 0.0, 0.0, 0.0] for n in batch.column("id").to_pylist()]
        out.write_batch(pa.record_batch([pa.array(values, kind)], ["v"]))
        sys.stdout.buffer.flush()
        time.sleep(float(sys.argv[1]))
        out.write_batch(pa.record_batch([pa.array(values, kind)], ["v"]))
        sys.stdout.buffer.flush()
"""


def test_a_program_that_answers_twice_is_refused(place, tmp_path):
    """Its second answer would be taken for that to the next batch, whose rows are others."""
    fails(place, by_program(script(tmp_path, TWICE, "0")), says=["more"], by_parallel=1)


def test_a_program_that_answers_again_later_is_not_swapped_in(db, place, tmp_path):
    before = rows(db)
    line = script(tmp_path, TWICE, "0.2")
    with pytest.raises((relance.MismatchError, relance.FailedError)) as told:
        relance.migrate(place, by_program(line), by_parallel=1, by_retries=0)
    assert "more" in str(told.value)
    assert rows(db) == before
    # What the other one gave is not used, but for its first batch, which was its answer.
    change = by_program(script(tmp_path, PROGRAM))
    assert relance.resume(place, change, by_parallel=1).ended == "swapped"
    wrong = [row["id"] for row in rows(db) if row["vector"][0] != row["id"]]
    assert wrong == []


@pytest.mark.parametrize("line", ["", "   ", "'not closed"])
def test_a_command_line_that_is_none_is_refused(place, line):
    with nothing_written(place[0]), pytest.raises(relance.UsageError):
        relance.migrate(place, by_program(line))


def test_a_program_that_is_not_there_is_named(place):
    fails(place, by_program("/no/such/program --with words"), says=["/no/such/program"])


HANGS = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)
"""


def test_a_program_that_hangs_is_killed_after_the_time(place, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        line = script(tmp_path, HANGS, str(server.getsockname()[1]))
        fails(place, by_program(line), says=["no answer"], by_parallel=1, by_timeout=1)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            # The system closes what a process had open when it ends.
            assert connection.recv(1) == b""


# Embedding functions of lancedb


@register("relance-test-letters")
class Letters(TextEmbeddingFunction):
    """Counts letters."""

    letters: str = "abcd"

    def ndims(self):
        return len(self.letters)

    def generate_embeddings(self, texts):
        return [[float(text.count(letter)) for letter in self.letters] for text in texts]


def letters(text, of="abcdefgh") -> list:
    return [float(text.count(letter)) for letter in of]


WORDS = [f"{'a' * (n % 4)}{'e' * (n % 9)}{'h' * n} {n}" for n in range(40)]


@pytest.fixture
def embedded(tmp_path) -> tuple:
    """A table with an embedding function of lancedb."""
    old = EmbeddingFunctionRegistry.get_instance().get("relance-test-letters").create()

    class Words(LanceModel):
        id: int
        text: Optional[str] = old.SourceField()
        vector: Vector(old.ndims()) = old.VectorField()

    db = str(tmp_path / "db")
    table = lancedb.connect(db).create_table("words", schema=Words)
    table.add([{"id": n, "text": text} for n, text in enumerate(WORDS)])
    return db, "words"


def registered(place) -> list:
    metadata = opened(*place).schema.metadata or {}
    return json.loads(metadata.get(b"embedding_functions", b"[]"))


def test_an_embedding_function_is_found(embedded):
    found = relance.embedding_function(opened(*embedded), "vector")
    assert isinstance(found, EmbeddingFunctionConfig) and found.source_column == "text"
    with pytest.raises(relance.UsageError, match="nosuch"):
        relance.embedding_function(opened(*embedded), "nosuch")
    with pytest.raises(relance.UsageError, match="id"):
        relance.embedding_function(opened(*embedded), "id")


def test_another_embedding_function_takes_over(embedded):
    new = Letters.create(letters="abcdefgh")
    done = relance.migrate(embedded, relance.replace("vector", new, inputs="text"))
    assert done.ended == "swapped"
    found = rows(*embedded)
    assert [row["vector"] for row in found] == [letters(text) for text in WORDS]
    assert read(*embedded).schema.field("vector").type == pa.list_(pa.float32(), 8)
    (entry,) = registered(embedded)
    assert entry == {
        "name": "relance-test-letters", "model": {"letters": "abcdefgh", **{key: value for key, value in
        new.safe_model_dump().items() if key != "letters"}}, "source_column": "text", "vector_column": "vector",
    }
    table = opened(*embedded)
    assert [row["id"] for row in table.search(WORDS[17]).limit(1).to_list()] == [17]
    table.add([{"id": 99, "text": "hhee"}])
    (row,) = table.search().where("id = 99").to_list()
    assert row["vector"] == letters("hhee")
    again = relance.migrate(embedded, relance.replace("vector", new, inputs="text"))
    assert again.ended == "nothing"


def test_what_is_registered_computes_again(embedded):
    table = opened(*embedded)
    table.update(where="id = 3", values={"vector": [9.0, 9.0, 9.0, 9.0]})
    function = relance.embedding_function(table, "vector")
    before = registered(embedded)
    assert relance.migrate(embedded, relance.replace("vector", function)).ended == "swapped"
    assert [row["vector"] for row in rows(*embedded)] == [letters(text, "abcd") for text in WORDS]
    assert registered(embedded) == before


def test_a_plain_function_removes_the_entry(embedded):
    change = relance.replace("vector", lambda batch: np.ones((len(batch), WIDTH)), type=VECTORS, inputs="text")
    relance.migrate(embedded, change)
    assert registered(embedded) == []
    assert [row["vector"] for row in rows(*embedded)] == [[1.0] * WIDTH] * len(WORDS)
    relance.rollback(embedded)
    assert [entry["vector_column"] for entry in registered(embedded)] == ["vector"]
    assert [row["vector"] for row in rows(*embedded)] == [letters(text, "abcd") for text in WORDS]


def test_an_embedding_function_is_not_called_for_nulls(embedded):
    opened(*embedded).update(where="id % 2 = 0", values={"text": None})
    relance.migrate(embedded, relance.replace("vector", Letters.create(letters="abcdefgh"), inputs="text", batch_size=7))
    for n, row in enumerate(rows(*embedded)):
        assert row["vector"] == (None if n % 2 == 0 else letters(WORDS[n]))


def test_an_embedding_function_adds_a_column(embedded):
    new = Letters.create(letters="abcdefgh")
    relance.migrate(embedded, relance.add("other", by=new, inputs="text"))
    assert [row["other"] for row in rows(*embedded)] == [letters(text) for text in WORDS]
    assert sorted(entry["vector_column"] for entry in registered(embedded)) == ["other", "vector"]


def test_an_embedding_function_has_one_input():
    with pytest.raises(relance.UsageError, match="one input"):
        relance.replace("vector", Letters.create(), inputs=["id", "text"])
    with pytest.raises(relance.UsageError):
        relance.replace("vector", Letters.create())
