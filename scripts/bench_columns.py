"""New columns beside the others: relance's `columns` against LanceDB's own `add_columns` and `alter_columns`.

usage: python bench_columns.py RELANCE_BINARY [ROUNDS]     prints JSON; scripts/bench --columns makes a table of it

Tables of 1,000,000 rows, in one fragment and in a thousand; medians of rounds in turn. relance's time has the process
start and the verification in it; LanceDB's is that of the call alone. Nothing is deleted before the end: for minutes after
files were deleted, ext4 takes several times as long to create others.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import lance
import lancedb
import numpy as np
import pyarrow as pa

ADDS = ["created_at:timestamp[us]=2026-01-01", "category:string=general", "is_active:bool=true"]
SQL = {"created_at": "cast('2026-01-01' as timestamp)", "category": "'general'", "is_active": "true"}
HALF = "vector:fixed_size_list<halffloat>[64]"


def add_columns(path):
    table = lancedb.connect(path).open_table("t")
    began = time.perf_counter()
    table.add_columns(SQL)
    return time.perf_counter() - began


def alter_columns(path):
    table = lancedb.connect(path).open_table("t")
    began = time.perf_counter()
    table.alter_columns({"path": "vector", "data_type": pa.list_(pa.float16(), 64)})
    return time.perf_counter() - began


def relance(binary, path, *changes):
    began = time.perf_counter()
    done = subprocess.run([binary, "migrate", path, "t", *changes], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


JOBS = {
    "three constants": (add_columns, [part for add in ADDS for part in ("--add", add)]),
    "vector to float16": (alter_columns, ["--cast", HALF]),
    # As little looking as LanceDB does: values are tried on a sample, and only a few are read back.
    "vector to float16, quick": (alter_columns, ["--cast", HALF, "--preflight", "sample", "--verify", "quick"]),
}


def measure(binary, rounds):
    """What was measured: the medians of each job, in seconds."""
    rows, found = 1_000_000, []
    with tempfile.TemporaryDirectory() as base:
        rng = np.random.default_rng(0)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(rows * 64, dtype=np.float32)), 64)
        data = pa.table({"id": np.arange(rows), "vector": vectors})
        for fragments in (1, 1000):
            lance.write_dataset(data, f"{base}/{fragments}.lance", max_rows_per_file=rows // fragments)
        for name, (own, changes) in JOBS.items():
            for fragments in (1, 1000):
                times = {"own": [], "relance": []}
                for round_ in range(rounds):
                    for who in ("own", "relance") if round_ % 2 else ("relance", "own"):
                        path = tempfile.mkdtemp(dir=base)
                        # Second names for the data files, which nobody writes to.
                        shutil.copytree(f"{base}/{fragments}.lance", f"{path}/t.lance", copy_function=os.link)
                        os.sync()
                        run = own(path) if who == "own" else relance(binary, path, *changes)
                        times[who].append(run)
                medians = {who: statistics.median(runs) for who, runs in times.items()}
                found.append({"job": name, "fragments": fragments, "rounds": rounds, **medians})
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)))
