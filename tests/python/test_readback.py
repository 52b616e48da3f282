"""LanceDB's Python client makes tables, the wheel's command migrates them, and the client compares every value."""

import datetime
import decimal
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import lance
import lancedb
import numpy as np
import pandas as pd
import pyarrow as pa

RELANCE = [sys.executable, "-m", "relance"]
ADDS = ["created_at:timestamp[us]=now", "category:string=general", "is_active:bool=true"]


def relance(*args, code=0):
    done = subprocess.run([*RELANCE, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


WAYS = ["columns", "rewrite"]


def adds(way="columns", columns=ADDS):
    return ["--strategy", way] + [part for column in columns for part in ("--add", column)]


def documents(first, rows, dim=16):
    rng = np.random.default_rng(first)
    vectors = pa.array(rng.standard_normal(rows * dim, dtype=np.float32))
    return pa.table({
        "text": [f"document {first + i}" if i % 5 else None for i in range(rows)],
        "vector": pa.FixedSizeListArray.from_arrays(vectors, dim),
    })


def test_the_seeds_job():
    """The seed's own check: count, fields in the seed's order and types, and every old value."""
    for way in WAYS:
        with tempfile.TemporaryDirectory() as path:
            db = lancedb.connect(path)
            table = db.create_table("documents", documents(0, 5000))
            table.add(documents(5000, 700))
            table.delete("text = 'document 3'")
            before, reader = table.to_arrow(), db.open_table("documents")
            relance("migrate", path, "documents", *adds(way))
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


def test_many_types():
    """Types as Python makes them, on each storage version."""
    # A rewrite puts the small fragments together row by row; where each keeps a file of its own, page by page.
    for way in [["columns"], ["rewrite"], ["rewrite", "--rows-per-file", "70"]]:
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
                relance("migrate", path, "t", "--add", "n:int64 not null=5", "--strategy", *way)
                after = lance.dataset(f"{path}/t.lance")
                assert after.data_storage_version == before.data_storage_version
                old, new = before.to_table(), after.to_table(columns=list(columns))
                assert old.schema == new.schema
                for name in columns:
                    assert old[name].to_pylist() == new[name].to_pylist(), f"{name} in {version}"
                assert after.schema.field("n").nullable is False
                assert after.to_table(columns=["n"])["n"].to_pylist() == [5] * n
                after.validate()


def test_the_staging_table():
    """While a migration is held, LanceDB opens the staging table by name; a write is not lost."""
    for way in WAYS:
        with tempfile.TemporaryDirectory() as path:
            db = lancedb.connect(path)
            table = db.create_table("documents", documents(0, 1000))
            relance("migrate", path, "documents", *adds(way), "--hold")
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


def test_indices():
    """A vector index, a full-text index and a scalar one answer as before."""
    for way in WAYS:
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
            relance("migrate", path, "documents", *adds(way))
            after = db.open_table("documents")
            assert kinds(after) == kinds_before
            assert (near(after), words(after), after.count_rows("number = 77")) == before
            for name, _, _ in kinds_before:
                assert after.index_stats(name).num_unindexed_rows == 0, name


def test_a_reader_in_a_loop():
    """Readers see the old schema or the new one, never an error and never a mix."""
    for way in WAYS:
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
                relance("migrate", path, "documents", *adds(way))
                deadline = time.monotonic() + 60
                while len(seen) < 2 and not errors and time.monotonic() < deadline:
                    time.sleep(0.01)
            finally:
                stop.set()
                thread.join()
            assert not errors, errors
            assert {(rows, len(names)) for rows, names in seen} == {(20_000, 2), (20_000, 5)}, seen


def test_the_json_result():
    with tempfile.TemporaryDirectory() as path:
        lancedb.connect(path).create_table("documents", documents(0, 100))
        report = json.loads(relance("migrate", path, "documents", *adds(), "--json"))["report"]
        assert report["rows"] == 100 and report["verified"] == "full", report


def test_every_change():
    """Every kind of change at once, in order, read back value by value."""
    asked = ["--add", "x:int64=7", "--set", "x=x + id", "--rename", "text=body", "--drop", "price", "--compute", "twice=id * 2",
             "--cast", "vector:fixed_size_list<halffloat>[16]", "--fill", "body=none", "--not-null", "body",
             "--rename", "meta.b.c=d", "--cast", "meta.a:string", "--add", "meta.lang:string=en", "--nullable", "id"]
    for way in WAYS:
        with tempfile.TemporaryDirectory() as path:
            db = lancedb.connect(path)
            ids = list(range(1000))
            rows = documents(0, 1000).append_column(pa.field("id", pa.int64(), False), pa.array(ids))
            meta = [{"a": i, "b": {"c": str(i)}} if i % 5 else None for i in ids]
            rows = rows.append_column("meta", pa.array(meta, pa.struct([("a", pa.int32()), ("b", pa.struct([("c", pa.string())]))])))
            rows = rows.append_column("price", pa.array([str(i) for i in ids]))
            lance.write_dataset(rows, f"{path}/t.lance", max_rows_per_file=400)
            table = db.open_table("t")
            table.delete("id % 10 = 3")
            old = table.to_arrow()
            relance("migrate", path, "t", "--strategy", way, *asked)
            new = db.open_table("t").to_arrow()
            assert new.column_names == ["body", "vector", "id", "meta", "x", "twice"], new.schema
            assert new["id"].to_pylist() == old["id"].to_pylist()
            assert new["body"].to_pylist() == [t or "none" for t in old["text"].to_pylist()]
            assert not new.schema.field("body").nullable and new.schema.field("id").nullable
            assert new["x"].to_pylist() == [7 + i for i in old["id"].to_pylist()]
            assert new["twice"].to_pylist() == [i * 2 for i in old["id"].to_pylist()]
            half = np.stack(old["vector"].to_numpy(zero_copy_only=False)).astype(np.float16)
            assert (np.stack(new["vector"].to_numpy(zero_copy_only=False)) == half).all()
            wanted = [m and {"a": str(m["a"]), "b": {"d": m["b"]["c"]}, "lang": "en"} for m in old["meta"].to_pylist()]
            assert new["meta"].to_pylist() == wanted
            relance("verify", path, "t")
            lance.dataset(f"{path}/t.lance").validate()
            relance("rollback", path, "t")
            assert db.open_table("t").to_arrow().equals(old)


def test_json_and_row_ids():
    """JSON stays JSON in both ways; stable row ids stay what they are in `columns`."""
    for way in WAYS:
        with tempfile.TemporaryDirectory() as path:
            doc = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(['{"a": 1}', None, '{"b": [1, 2]}'] * 50))
            lance.write_dataset(pa.table({"id": range(150), "doc": doc}), f"{path}/t.lance", max_rows_per_file=60,
                                enable_stable_row_ids=way == "columns")
            before = lance.dataset(f"{path}/t.lance")
            ids = before.to_table(with_row_id=True)["_rowid"] if way == "columns" else None
            query = lambda d: d.to_table(filter="json_get_int(doc, 'a') = 1")["id"].to_pylist()
            answer = query(before)
            relance("migrate", path, "t", "--strategy", way, "--add", "n:int64=7", "--rename", "id=key")
            after = lance.dataset(f"{path}/t.lance")
            assert after.to_table()["doc"].to_pylist() == before.to_table()["doc"].to_pylist()
            assert after.schema.field("doc").type == before.schema.field("doc").type
            assert after.to_table(filter="json_get_int(doc, 'a') = 1")["key"].to_pylist() == answer
            if ids is not None:
                assert after.to_table(with_row_id=True)["_rowid"].equals(ids)
            relance("verify", path, "t")


def test_blobs():
    """Blobs inside data files are left where they are by `columns`, copied by `rewrite`, and moved out by a newer version."""
    with tempfile.TemporaryDirectory() as path:
        payload = [bytes([i % 256]) * (i * 3000) if i % 4 else None for i in range(40)]
        field = pa.field("b", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        rows = pa.table([pa.array(range(40)), pa.array(payload, pa.large_binary())],
                        schema=pa.schema([("id", pa.int64()), field]))
        lance.write_dataset(rows, f"{path}/t.lance", data_storage_version="2.1", max_rows_per_file=15)
        for way in WAYS:
            relance("migrate", path, "t", "--strategy", way, "--add", f"{way}:int64=7")
            relance("verify", path, "t")
            assert payloads(f"{path}/t.lance") == dict(enumerate(payload))
        relance("migrate", path, "t", "--storage-version", "2.2")
        relance("verify", path, "t")
        assert payloads(f"{path}/t.lance") == dict(enumerate(payload))
        kinds = {row["kind"] for row in lance.dataset(f"{path}/t.lance").to_table(columns=["b"])["b"].to_pylist() if row}
        assert kinds == {0, 1}, kinds


def payloads(uri):
    """What every row's blob holds, by id."""
    table = lance.dataset(uri)
    ids = table.to_table(columns=["id"])["id"].to_pylist()
    there = table.to_table(columns=["id"], filter="b is not null")["id"].to_pylist()
    places = [ids.index(i) for i in there]
    read = table.take_blobs("b", indices=places) if places else []
    return dict.fromkeys(ids) | {i: blob.readall() for i, blob in zip(there, read)}


def test_sidecars():
    """Blobs in files of their own keep their bytes through every strategy, and leave none behind."""
    with tempfile.TemporaryDirectory() as path:
        outside = Path(path, "outside.bin")
        outside.write_bytes(b"outside" * 100)
        sizes = [0, 10, 50, 51, 200, 299, 900, 1001, 5000, 20_000_000]
        payload = [bytes([i % 256]) * sizes[i % len(sizes)] if i % 7 else None for i in range(120)]
        values = [*payload[:-1], lance.Blob.from_uri(f"file://{outside}")]
        payload[-1] = outside.read_bytes()
        field = lance.blob_field("b", inline_size_threshold=50, dedicated_size_threshold=1000, pack_file_size_threshold=3000)
        rows = pa.table([pa.array(range(120)), lance.blob_array(values)], schema=pa.schema([("id", pa.int64()), field]))
        uri = f"{path}/t.lance"
        lance.write_dataset(rows, uri, data_storage_version="2.2", max_rows_per_file=25, allow_external_blob_outside_bases=True)
        expected = dict(enumerate(payload))
        assert payloads(uri) == expected
        table = lance.dataset(uri)
        kinds = {row["kind"] for row in table.to_table(columns=["b"])["b"].to_pylist() if row}
        assert kinds == {0, 1, 2, 3}, kinds
        for way in WAYS:
            relance("migrate", path, "t", "--strategy", way, "--add", f"{way}:int64=7", "--rename", "id=key", "--rename", "key=id")
            assert payloads(uri) == expected, way
            relance("verify", path, "t")
        lance.dataset(uri).delete("id in (3, 9, 44, 110)")
        expected = {i: p for i, p in expected.items() if i not in (3, 9, 44, 110)}
        there = set(Path(uri, "data").rglob("*"))
        held = relance("migrate", path, "t", "--strategy", "rewrite", "--rows-per-file", "30", "--hold")
        assert set(Path(uri, "data").rglob("*.blob")) > {file for file in there if file.suffix == ".blob"}, held
        relance("abort", path, "t")
        assert set(Path(uri, "data").rglob("*")) == there
        relance("migrate", path, "t", "--strategy", "rewrite", "--rows-per-file", "30", "--hold")
        lance.dataset(uri).delete("id in (5, 80)")
        relance("resume", path, "t")
        expected = {i: p for i, p in expected.items() if i not in (5, 80)}
        assert payloads(uri) == expected
        relance("migrate", path, "t", "--where", "id < 100", "--hold")
        expected = {i: p for i, p in expected.items() if i < 100}
        relance("resume", path, "t")
        assert payloads(uri) == expected
        relance("finalize", path, "t", "--history")
        assert payloads(uri) == expected


def test_packed_structs():
    """Structs whose children lie side by side, null rows included."""
    for version in ["2.1", "2.2"]:
        with tempfile.TemporaryDirectory() as path:
            kind = pa.struct([pa.field("x", pa.int32()), pa.field("y", pa.float64())])
            rows = pa.array([{"x": i, "y": i / 2} if i % 3 else None for i in range(50)], kind)
            schema = pa.schema([pa.field("id", pa.int64()), pa.field("s", kind, metadata={"packed": "true"})])
            lance.write_dataset(pa.table([pa.array(range(50)), rows], schema=schema), f"{path}/t.lance",
                                data_storage_version=version, max_rows_per_file=20)
            before = lance.dataset(f"{path}/t.lance").to_table()
            for way in WAYS:
                relance("migrate", path, "t", "--strategy", way, "--add", f"{way}:int64=7")
                assert lance.dataset(f"{path}/t.lance").to_table(columns=["id", "s"]).equals(before), (version, way)
                relance("verify", path, "t")


def test_a_new_storage_version():
    """Files become 2.2 in place: rows, tags, history and indices stay."""
    with tempfile.TemporaryDirectory() as path:
        rows = documents(0, 3000).append_column("number", pa.array(range(3000)))
        lance.write_dataset(rows, f"{path}/t.lance", data_storage_version="2.0", max_rows_per_file=1000)
        table = lancedb.connect(path).open_table("t")
        table.create_scalar_index("number", index_type="BTREE")
        table.delete("number = 5")
        lance.dataset(f"{path}/t.lance").tags.create("mine", 2)
        before = table.to_arrow()
        plan = relance("plan", path, "t", "--storage-version", "2.2")
        assert "2.0 becomes 2.2" in plan and "or newer can read it" in plan, plan
        relance("migrate", path, "t", "--storage-version", "2.2")
        after = lance.dataset(f"{path}/t.lance")
        assert after.data_storage_version == "2.2"
        assert {(f.file_major_version, f.file_minor_version) for fr in after.get_fragments() for f in fr.data_files()} == {(2, 2)}
        assert after.to_table().equals(before) and after.tags.list()["mine"]["version"] == 2
        assert lance.dataset(f"{path}/t.lance", version="mine").count_rows() == 3000
        assert lancedb.connect(path).open_table("t").index_stats("number_idx").num_unindexed_rows == 0
        assert "Nothing to do" in relance("migrate", path, "t", "--storage-version", "2.2")


def test_legacy_files():
    """Files of the legacy version become readable ones, with the changes."""
    with tempfile.TemporaryDirectory() as path:
        lance.write_dataset(documents(0, 300), f"{path}/t.lance", data_storage_version="legacy", max_rows_per_file=100)
        before = lance.dataset(f"{path}/t.lance")
        relance("migrate", path, "t", "--add", "n:int64=7")
        after = lance.dataset(f"{path}/t.lance")
        assert before.data_storage_version == "0.1" and after.data_storage_version == "2.1"
        assert after.to_table(columns=["text", "vector"]).equals(before.to_table())
        relance("rollback", path, "t")
        assert lance.dataset(f"{path}/t.lance").to_table().equals(before.to_table())


def test_embedding_functions_follow():
    """The metadata by which the client embeds names the columns as they are called now."""
    with tempfile.TemporaryDirectory() as path:
        rows = documents(0, 100)
        functions = [{"name": "f", "model": {}, "source_column": "text", "vector_column": "vector"}]
        rows = rows.replace_schema_metadata({"embedding_functions": json.dumps(functions)})
        lance.write_dataset(rows, f"{path}/t.lance")
        relance("migrate", path, "t", "--rename", "text=body", "--add", "n:int64=1")
        kept = json.loads(lance.dataset(f"{path}/t.lance").schema.metadata[b"embedding_functions"])
        assert kept == [{**functions[0], "source_column": "body"}], kept
        relance("migrate", path, "t", "--drop", "vector")
        assert json.loads(lance.dataset(f"{path}/t.lance").schema.metadata[b"embedding_functions"]) == []


def test_bad_values():
    """What would be lost is counted and shown, and refused unless told otherwise."""
    with tempfile.TemporaryDirectory() as path:
        values = ["1", "x", None, "2.5", "4"] * 20
        lance.write_dataset(pa.table({"id": range(100), "v": values}), f"{path}/t.lance", max_rows_per_file=30)
        for verb in ["plan", "migrate"]:
            done = subprocess.run([*RELANCE, verb, path, "t", "--cast", "v:int64"], capture_output=True, text=True)
            assert done.returncode == 3 and "40 values are not of the type" in done.stderr, done.stderr
            assert "'x' (_rowid 1)" in done.stderr, done.stderr
        assert lance.dataset(f"{path}/t.lance").version == 1
        relance("migrate", path, "t", "--cast", "v:int64", "--on-bad-value", "null")
        assert lance.dataset(f"{path}/t.lance").to_table()["v"].to_pylist() == [1, None, None, None, 4] * 20
        relance("verify", path, "t")
        relance("migrate", path, "t", "--not-null", "v", code=3)
        relance("rollback", path, "t")
        relance("migrate", path, "t", "--cast", "v:int64", "--on-bad-value", "quarantine")
        apart = lance.dataset(f"{path}/t__relance_quarantine.lance").to_table()
        assert apart["v"].to_pylist() == ["x", "2.5"] * 20 and apart["id"].to_pylist()[:4] == [1, 3, 6, 8], apart


def values_of(array):
    """The values of `array` for comparisons: times as counts, since Python has no such dates."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_date32(array.type) or pa.types.is_time32(array.type):
        array = array.cast(pa.int32())
    elif pa.types.is_temporal(array.type):
        array = array.cast(pa.int64())
    return [None if value is None else repr(value) for value in array.to_pylist()]


def test_casts_against_pyarrow():
    """Of each pair of types, no value is another one than PyArrow's safe cast gives; what relance refuses becomes null."""
    numbers = [0, 1, -1, 7, 86400, 1704110400, 2**53 + 1, 2**63 - 1, None]
    counts = pa.array(numbers, pa.int64())
    texts = ["0", "7", "1.5", "1e400", "65520", "9007199254740993", "2024-01-01", "2024-01-01T12:00", "12:30:00.5",
             "2024-01-01 12:00:00 America/New_York", "23:59:60", "12:30:00.123456789", "-", ".", "1.005", "x", None]
    sources = [
        counts,
        pa.array([0.0, 1.0, 0.1, 1704110400.5, 65520.0, 1e300, float("nan"), 2049.0, None]),
        pa.array([None if n is None else decimal.Decimal(n) / 1000 for n in numbers[:6]], pa.decimal128(20, 3)),
        counts.cast(pa.timestamp("ns")), counts.slice(0, 6).cast(pa.timestamp("s", "Europe/Paris")),
        counts.cast(pa.duration("s")), pa.array([0, 19723, 106752, 2**31 - 1, None], pa.int32()).cast(pa.date32()),
        pa.array([0, 45000500000, None], pa.int64()).cast(pa.time64("us")), pa.array(texts),
        pa.array(texts).dictionary_encode(),
    ]
    targets = {
        "int8": pa.int8(), "int64": pa.int64(), "uint32": pa.uint32(), "halffloat": pa.float16(), "double": pa.float64(),
        "decimal128(38, 10)": pa.decimal128(38, 10), "timestamp[s]": pa.timestamp("s"), "timestamp[us]": pa.timestamp("us"),
        "timestamp[ms, tz=America/New_York]": pa.timestamp("ms", "America/New_York"), "date32": pa.date32(),
        "date64": pa.date64(), "time32[s]": pa.time32("s"), "time64[us]": pa.time64("us"), "duration[ms]": pa.duration("ms"),
        "binary": pa.binary(),
    }
    compared = 0
    for source in sources:
        for text, target in targets.items():
            with tempfile.TemporaryDirectory() as path:
                lance.write_dataset(pa.table({"v": source}), f"{path}/t.lance")
                done = subprocess.run([*RELANCE, "migrate", path, "t", "--cast", f"v:{text}", "--on-bad-value", "null"],
                                      capture_output=True, text=True)
                assert done.returncode in (0, 3), (source.type, text, done.stderr)
                if done.returncode:
                    continue
                found = lance.dataset(f"{path}/t.lance").to_table()["v"].combine_chunks()
                assert found.type == target, (found.type, target)
                for row, value in enumerate(values_of(found)):
                    try:
                        wanted = values_of(source.slice(row, 1).cast(target))[0]
                    except pa.ArrowInvalid:
                        continue
                    except pa.ArrowNotImplementedError:
                        break
                    # PyArrow's float of a decimal is now and then the one beside the nearest.
                    floats = value is not None and pa.types.is_decimal(source.type) and pa.types.is_floating(target)
                    near = floats and math.isclose(float(value), float(wanted), rel_tol=1e-15)
                    assert near or value in (wanted, None), (source.type, text, source[row], value, wanted)
                    compared += value is not None
    assert compared > 150, compared


def test_data_frames():
    """pandas reads a table back as it was made, after a rename, a cast and a drop."""
    frame = pd.DataFrame({"n": [1, 2], "s": ["a", "b"], "gone": [1.5, 2.5]}, index=pd.Index([10, 20], name="key"))
    with tempfile.TemporaryDirectory() as path:
        lance.write_dataset(pa.Table.from_pandas(frame), f"{path}/t.lance")
        relance("migrate", path, "t", "--rename", "n=m", "--cast", "m:int32", "--drop", "gone")
        after = lance.dataset(f"{path}/t.lance").to_table().to_pandas()
        wanted = frame.drop(columns="gone").rename(columns={"n": "m"}).astype({"m": "int32"})
        pd.testing.assert_frame_equal(after, wanted)


def test_rows_know_their_versions():
    """Rows bear the version of the swap, not of one that was only prepared."""
    with tempfile.TemporaryDirectory() as path:
        lance.write_dataset(pa.table({"id": [1, 2], "s": ["a", "b"]}), f"{path}/t.lance", enable_stable_row_ids=True)
        relance("migrate", path, "t", "--add", "z:int8=1", "--rename", "s=t")
        last = lance.dataset(f"{path}/t.lance").to_table(columns=["_row_last_updated_at_version"])
        assert last.column(0).to_pylist() == [2, 2], last


def test_unusual_names():
    """The column that is named is the one that is changed, and Python finds it."""
    with tempfile.TemporaryDirectory() as path:
        names = ["a", " a", "Unnamed: 0", "dc:title", "a=b"]
        lance.write_dataset(pa.table({name: [at] for at, name in enumerate(names)}), f"{path}/t.lance")
        relance("migrate", path, "t", "--drop", " a", "--rename", "`dc:title`=title", "--set", "`Unnamed: 0`=`a=b` + 1")
        rows = lancedb.connect(path).open_table("t").to_arrow().to_pylist()
        assert rows == [{"a": 0, "Unnamed: 0": 5, "title": 3, "a=b": 4}], rows
