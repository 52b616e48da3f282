"""LanceDB's Python client makes tables, relance migrates them, and the client compares every value.

usage: python readback.py RELANCE_BINARY
"""

import datetime
import decimal
import json
import subprocess
import sys
import tempfile
import threading
import time

import lance
import lancedb
import numpy as np
import pyarrow as pa

RELANCE = sys.argv[1]
ADDS = ["created_at:timestamp[us]=now", "category:string=general", "is_active:bool=true"]


def relance(*args, code=0):
    done = subprocess.run([RELANCE, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def adds(columns=ADDS):
    return [part for column in columns for part in ("--add", column)]


def documents(first, rows, dim=16):
    rng = np.random.default_rng(first)
    vectors = pa.array(rng.standard_normal(rows * dim, dtype=np.float32))
    return pa.table({
        "text": [f"document {first + i}" if i % 5 else None for i in range(rows)],
        "vector": pa.FixedSizeListArray.from_arrays(vectors, dim),
    })


def the_seeds_job():
    """The seed's own check: count, fields in the seed's order and types, and every old value."""
    with tempfile.TemporaryDirectory() as path:
        db = lancedb.connect(path)
        table = db.create_table("documents", documents(0, 5000))
        table.add(documents(5000, 700))
        table.delete("text = 'document 3'")
        before, reader = table.to_arrow(), db.open_table("documents")
        relance("migrate", path, "documents", *adds())
        after = db.open_table("documents")
        assert after.schema == pa.schema([
            pa.field("text", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), 16)),
            pa.field("created_at", pa.timestamp("us")),
            pa.field("category", pa.string()),
            pa.field("is_active", pa.bool_()),
        ]), after.schema
        rows = after.to_arrow()
        assert rows.select(before.column_names).equals(before)
        assert set(rows["category"].to_pylist()) == {"general"}
        assert set(rows["is_active"].to_pylist()) == {True}
        age = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) - rows["created_at"][0].as_py()
        assert datetime.timedelta() <= age < datetime.timedelta(minutes=5), age
        assert reader.checkout(before_version := reader.version) is None and before_version < after.version
        assert reader.to_arrow().equals(before)
        relance("verify", path, "documents")
        relance("rollback", path, "documents")
        assert db.open_table("documents").to_arrow().equals(before)


def many_types():
    """Types as Python makes them, on each storage version."""
    n = 300
    some = lambda make: [make(i) if i % 4 else None for i in range(n)]
    columns = {
        "half": pa.array(some(lambda i: np.float16(i / 8)), pa.float16()),
        "money": pa.array(some(lambda i: decimal.Decimal(i) / 4), pa.decimal128(12, 2)),
        "when": pa.array(some(lambda i: datetime.datetime(2026, 1, 1) + datetime.timedelta(hours=i)), pa.timestamp("us", "UTC")),
        "day": pa.array(some(lambda i: datetime.date(2026, 1, 1) + datetime.timedelta(days=i)), pa.date32()),
        "raw": pa.array(some(lambda i: bytes([i % 256]) * (i % 7)), pa.large_binary()),
        "tags": pa.array(some(lambda i: ["t"] * (i % 3)), pa.list_(pa.string())),
        "pair": pa.array([{"a": i, "b": str(i)} for i in range(n)], pa.struct([("a", pa.int32()), ("b", pa.string())])),
        "colour": pa.array(some(lambda i: ["red", "green"][i % 2])).dictionary_encode(),
    }
    for version in ["2.0", "2.1", "2.2"]:
        with tempfile.TemporaryDirectory() as path:
            lance.write_dataset(pa.table(columns), f"{path}/t.lance", data_storage_version=version, max_rows_per_file=70)
            before = lance.dataset(f"{path}/t.lance")
            relance("migrate", path, "t", "--add", "n:int64 not null=5")
            after = lance.dataset(f"{path}/t.lance")
            assert after.data_storage_version == before.data_storage_version
            old, new = before.to_table(), after.to_table(columns=list(columns))
            assert old.schema == new.schema
            for name in columns:
                assert old[name].to_pylist() == new[name].to_pylist(), f"{name} in {version}"
            assert after.schema.field("n").nullable is False
            assert after.to_table(columns=["n"])["n"].to_pylist() == [5] * n
            after.validate()


def the_staging_table():
    """While a migration is held, LanceDB opens the staging table by name; a write is not lost."""
    with tempfile.TemporaryDirectory() as path:
        db = lancedb.connect(path)
        table = db.create_table("documents", documents(0, 1000))
        relance("migrate", path, "documents", *adds(), "--hold", code=5)
        staged = db.open_table("documents__relance_staging")
        assert staged.count_rows() == 1000
        assert staged.to_arrow().select(["text", "vector"]).equals(table.to_arrow())
        assert db.open_table("documents").schema == table.schema
        db.open_table("documents").add(documents(1000, 10))
        relance("resume", path, "documents")
        after = db.open_table("documents")
        assert after.count_rows() == 1010 and "documents__relance_staging" not in db.list_tables().tables
        assert after.to_arrow()["text"].to_pylist()[1000:] == documents(1000, 10)["text"].to_pylist()
        after.add(pa.table({**{n: after.to_arrow()[n][:1] for n in after.schema.names}}))
        assert after.count_rows() == 1011


def indices():
    """A vector index, a full-text index and a scalar one answer as before."""
    with tempfile.TemporaryDirectory() as path:
        db = lancedb.connect(path)
        rows = documents(0, 4000).append_column("number", pa.array(range(4000)))
        table = db.create_table("documents", rows)
        table.create_scalar_index("number", index_type="BTREE")
        table.create_index(metric="cosine", num_partitions=4, num_sub_vectors=4, vector_column_name="vector")
        table.create_fts_index("text", use_tantivy=False)
        query = rows["vector"][17].values.to_numpy()
        near = lambda t: [r["number"] for r in t.search(query).limit(10).to_list()]
        words = lambda t: sorted(r["number"] for r in t.search("1234", query_type="fts").limit(5).to_list())
        before = near(table), words(table), table.count_rows("number = 77")
        kinds = lambda t: sorted((i.name, i.index_type, tuple(i.columns)) for i in t.list_indices())
        kinds_before = kinds(table)
        relance("migrate", path, "documents", *adds())
        after = db.open_table("documents")
        assert kinds(after) == kinds_before
        assert (near(after), words(after), after.count_rows("number = 77")) == before
        for name, _, _ in kinds_before:
            assert after.index_stats(name).num_unindexed_rows == 0, name


def a_reader_in_a_loop():
    """Readers see the old schema or the new one, never an error and never a mix."""
    with tempfile.TemporaryDirectory() as path:
        db = lancedb.connect(path)
        db.create_table("documents", documents(0, 20_000))
        seen, errors, stop = set(), [], threading.Event()

        def read():
            while not stop.is_set():
                try:
                    rows = lancedb.connect(path).open_table("documents").to_arrow()
                    seen.add((rows.num_rows, tuple(rows.column_names)))
                except Exception as error:  # noqa: BLE001 - any error is a failure
                    errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            relance("migrate", path, "documents", *adds())
            deadline = time.monotonic() + 60
            while len(seen) < 2 and not errors and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            stop.set()
            thread.join()
        assert not errors, errors
        assert {(rows, len(names)) for rows, names in seen} == {(20_000, 2), (20_000, 5)}, seen


def the_json_result():
    with tempfile.TemporaryDirectory() as path:
        lancedb.connect(path).create_table("documents", documents(0, 100))
        report = json.loads(relance("migrate", path, "documents", *adds(), "--json"))["report"]
        assert report["rows"] == 100 and report["verified"] == "full", report


def main():
    checks = [the_seeds_job, many_types, the_staging_table, indices, a_reader_in_a_loop, the_json_result]
    for check in checks:
        check()
        print(f"ok {check.__name__}", flush=True)
    print(f"{len(checks)} passed, 0 failed")


if __name__ == "__main__":
    main()
