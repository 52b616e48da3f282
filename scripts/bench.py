"""relance and its peers in turn on fresh copies of one table; medians, ratios, peak memory.

usage: python bench.py RELANCE_BINARY [ROWS=1000000] [ROUNDS=3] [DIM=384]

  relance        migrate --strategy rewrite --add three constants, verified in full
  relance quick  the same with --verify quick
  copy           lance.write_dataset(dataset): a plain rewrite that adds nothing
  pandas         to_pandas, add columns, drop_table, create_table: the script that relance replaces
  stream         to_batches, append constants, create_table from the generator
"""

import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ADDS = ["created_at:timestamp[us]=now", "category:string=general", "is_active:bool=true"]


def make(path, rows, dim):
    import lance
    import numpy as np
    import pyarrow as pa

    words = np.array("lance vector table column schema migrate stream batch arrow rust staging swap".split())
    schema = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32(), dim))])

    def batches(step=65_536):
        rng = np.random.default_rng(7)
        for start in range(0, rows, step):
            n = min(step, rows - start)
            text = [" ".join(w) for w in words[rng.integers(0, len(words), (n, 12))]]
            vector = pa.array(rng.standard_normal(n * dim, dtype=np.float32))
            yield pa.record_batch([pa.array(text), pa.FixedSizeListArray.from_arrays(vector, dim)], schema=schema)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance.write_dataset(reader, f"{path}/documents.lance", schema=schema)


def copy(path):
    import lance

    lance.write_dataset(lance.dataset(f"{path}/documents.lance"), f"{path}/copy.lance")


def pandas(path):
    import lancedb
    import pyarrow as pa

    db = lancedb.connect(path)
    table = db.open_table("documents")
    schema = table.schema
    frame = table.to_pandas().copy()
    for name, kind, value in [("created_at", pa.timestamp("us"), datetime.datetime.now()),
                              ("category", pa.string(), "general"), ("is_active", pa.bool_(), True)]:
        frame[name] = value
        schema = schema.append(pa.field(name, kind))
    db.drop_table("documents")
    db.create_table("documents", frame, schema=schema, mode="overwrite")
    db.open_table("documents").to_pandas().head(3)


def stream(path):
    import lancedb
    import pyarrow as pa

    db = lancedb.connect(path)
    source = db.open_table("documents").to_lance()
    added = [("created_at", pa.scalar(datetime.datetime.now(), pa.timestamp("us"))),
             ("category", pa.scalar("general")), ("is_active", pa.scalar(True))]
    schema = source.schema
    for name, value in added:
        schema = schema.append(pa.field(name, value.type))

    def batches():
        for batch in source.to_batches():
            columns = [*batch.columns, *(pa.repeat(value, len(batch)) for _, value in added)]
            yield pa.record_batch(columns, schema=schema)

    db.create_table("documents_new", batches(), schema=schema)


PEERS = {"copy": copy, "pandas": pandas, "stream": stream}


def one(name, binary, base):
    """Seconds and peak megabytes of one run, the interpreter's start left out of the seconds."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(base)) as path:
        shutil.copytree(f"{base}/documents.lance", f"{path}/documents.lance")
        os.sync()
        if name in PEERS:
            command = [sys.executable, __file__, "--peer", name, path]
        else:
            command = [binary, "migrate", path, "documents", "--progress", "none", "--strategy", "rewrite"]
            command += [part for column in ADDS for part in ("--add", column)]
            command += ["--verify", "quick"] if name == "relance quick" else []
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        assert status == 0, f"{name} failed"
        return (float(printed) if name in PEERS else seconds), usage.ru_maxrss // 1024


def main(binary, rows=1_000_000, rounds=3, dim=384):
    rows, rounds, dim = int(rows), int(rounds), int(dim)
    names = ["relance", "relance quick", *PEERS]
    seen = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as base:
        # In a process of its own: a child's peak memory is at least its parent's.
        subprocess.run([sys.executable, __file__, "--make", base, str(rows), str(dim)], check=True)
        size = sum(os.path.getsize(f"{base}/documents.lance/data/{f}") for f in os.listdir(f"{base}/documents.lance/data"))
        for turn in range(rounds):
            # Each begins a round in its turn: what ran just before leaves its mark on the disk.
            for name in names[turn % len(names):] + names[: turn % len(names)]:
                seen[name].append(one(name, binary, base))
    medians = {name: statistics.median(s for s, _ in runs) for name, runs in seen.items()}
    print(f"{rows:,} rows, {size / 1e9:.2f} GB, {os.cpu_count()} processors, {rounds} rounds, in turn\n")
    print("| | seconds, median (min to max) | times relance | MB/s | peak MB |\n| --- | --- | --- | --- | --- |")
    for name, runs in seen.items():
        times = [s for s, _ in runs]
        ratio, rate = medians[name] / medians["relance"], size / 1e6 / medians[name]
        peak = max(m for _, m in runs)
        print(f"| {name} | {medians[name]:.2f} ({min(times):.2f} to {max(times):.2f}) | {ratio:.1f} | {rate:.0f} | {peak} |")
    print("\n" + json.dumps({"rows": rows, "bytes": size, "runs": seen}))


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1] == "--peer":
        began = time.perf_counter()
        PEERS[sys.argv[2]](sys.argv[3])
        print(time.perf_counter() - began)
    else:
        main(*sys.argv[1:])
