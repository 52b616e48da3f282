"""The script that relance replaces (pandas reads all, changes it, drops the table, writes another), and relance."""

from datetime import datetime
from types import MappingProxyType

import lancedb
import pandas as pd
import pyarrow as pa
import pytest
import relance

WIDTH = 8
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901)
DEFAULTS = {"created_at": MOMENT, "category": "general", "is_active": True}

SCHEMA = pa.schema([
    ("text", pa.string()),
    ("vector", pa.list_(pa.float32(), WIDTH)),
    ("created_at", pa.timestamp("us")),
    ("category", pa.string()),
    ("is_active", pa.bool_()),
])


def seed_way(db: str, defaults: dict) -> None:
    """What the script does: new columns with defaults, types put right, a new table in place of the old."""
    frame = lancedb.connect(db).open_table("documents").to_pandas()
    for field, default in defaults.items():
        if field not in frame.columns:
            frame[field] = default
    frame["created_at"] = pd.to_datetime(frame["created_at"])
    frame["is_active"] = frame["is_active"].astype(bool)
    frame["category"] = frame["category"].astype(str)
    connection = lancedb.connect(db)
    connection.drop_table("documents")
    connection.create_table("documents", frame, schema=SCHEMA, mode="overwrite")


def make(path, more: dict) -> str:
    """The script's table, in miniature."""
    texts = [f"document {n}" for n in range(40)] + ["", "ä 漢字 🎉", "a\nb", "'quoted' \"text\""]
    vectors = [[n + i / 7 for i in range(WIDTH)] for n in range(len(texts))]
    columns = {"text": pa.array(texts), "vector": pa.array(vectors, pa.list_(pa.float32(), WIDTH))}
    columns.update({name: make_column(len(texts)) for name, make_column in more.items()})
    lancedb.connect(path).create_table("documents", pa.table(columns))
    return str(path)


def both(tmp_path, more: dict = MappingProxyType({})) -> tuple:
    return make(tmp_path / "pandas", more), make(tmp_path / "relance", more)


def read(db: str) -> pa.Table:
    return lancedb.connect(db).open_table("documents").to_arrow().select(SCHEMA.names).sort_by("text")


def equal(left: str, right: str) -> bool:
    left, right = read(left), read(right)
    assert left.schema.remove_metadata() == right.schema.remove_metadata() == SCHEMA
    return left.to_pylist() == right.to_pylist()


def test_new_columns_with_defaults(tmp_path):
    pandas, ours = both(tmp_path)
    seed_way(pandas, DEFAULTS)
    relance.migrate((ours, "documents"), [
        relance.add("created_at", "timestamp[us]", default=MOMENT),
        relance.add("category", "string", default="general"),
        relance.add("is_active", "bool", default=True),
    ])
    assert equal(pandas, ours)


def test_the_types_of_columns_that_are_there_are_put_right(tmp_path):
    """The script turns texts into times, numbers into truth values, and anything into texts."""
    pandas, ours = both(tmp_path, {
        "created_at": lambda count: pa.array([f"2026-01-{1 + n % 28:02} 03:04:05" for n in range(count)]),
        "category": lambda count: pa.array(range(count), pa.int64()),
        "is_active": lambda count: pa.array([n % 3 for n in range(count)], pa.int64()),
    })
    seed_way(pandas, DEFAULTS)
    relance.migrate((ours, "documents"), [
        relance.cast("created_at", "timestamp[us]"),
        relance.cast("category", "string"),
        relance.set("is_active", "CASE WHEN is_active = 0 THEN 0 ELSE 1 END"),
        relance.cast("is_active", "bool"),
    ])
    assert equal(pandas, ours)


def test_some_columns_are_there_and_others_are_not(tmp_path):
    pandas, ours = both(tmp_path, {"category": lambda count: pa.array([f"c{n}" for n in range(count)])})
    seed_way(pandas, DEFAULTS)
    relance.migrate((ours, "documents"), [
        relance.add("created_at", "timestamp[us]", default=MOMENT),
        relance.add("is_active", "bool", default=True),
    ])
    assert equal(pandas, ours)


def test_a_schema_as_the_script_has_it(tmp_path):
    """`to=` takes the script's own schema; its defaults are filled in by the same migration's next call."""
    pandas, ours = both(tmp_path)
    seed_way(pandas, DEFAULTS)
    relance.migrate((ours, "documents"), to=SCHEMA)
    relance.migrate((ours, "documents"), [relance.fill(name, value) for name, value in DEFAULTS.items()])
    assert equal(pandas, ours)


@pytest.mark.parametrize("strategy", ["columns", "rewrite"])
def test_the_same_by_each_strategy(tmp_path, strategy):
    pandas, ours = both(tmp_path)
    seed_way(pandas, DEFAULTS)
    types = {"created_at": "timestamp[us]", "category": "string", "is_active": "bool"}
    changes = [relance.add(name, types[name], default=value) for name, value in DEFAULTS.items()]
    assert relance.migrate((ours, "documents"), changes, strategy=strategy).report.strategy == strategy
    assert equal(pandas, ours)
