#!/usr/bin/env python3
"""Values from elsewhere beside what a user would run: a join of a million rows beside Lance's `merge`, and a function beside
`add_columns` with a UDF and its checkpoint file. Each case is a process of its own, so that its peak memory is its own.

usage: scripts/bench_elsewhere.py [--rows N] [--rounds N] [--relance PATH] [--only CASE,CASE]
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WIDTH = 128


def made(folder: Path, rows: int) -> None:
    import lance
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"id": pa.array(range(rows), pa.int64()), "text": [f"text number {i}" for i in range(rows)]})
    lance.write_dataset(table, folder / "t.lance", max_rows_per_file=max(rows // 8, 1))
    keys = np.random.default_rng(1).permutation(rows)
    tags = pa.table({
        "id": pa.array(keys, pa.int64()),
        "tag": pa.array([f"tag {k % 1000}" for k in keys]),
        "score": pa.array(keys / 7, pa.float64()),
    })
    pq.write_table(tags, folder / "tags.parquet")


def merge(folder: Path) -> None:
    import lance
    import pyarrow.parquet as pq

    dataset = lance.dataset(folder / "t.lance")
    dataset.merge(pq.read_table(folder / "tags.parquet"), left_on="id", right_on="id")


def relance(folder: Path, *words: str) -> None:
    subprocess.run([OPTIONS.relance, "migrate", str(folder), "t", "--progress", "none", *words], check=True, stdout=subprocess.DEVNULL)


def join(folder: Path) -> None:
    relance(folder, "--join", f"{folder}/tags.parquet", "--on", "id", "--take", "tag,score", "--on-missing", "null", "--memory", "256MiB")


def zeros(batch):
    import numpy as np

    return np.zeros((batch.num_rows, WIDTH), np.float32)


def function(folder: Path) -> None:
    import pyarrow as pa

    import relance as package

    change = package.add("v", pa.list_(pa.float32(), WIDTH), by=zeros, inputs="id", batch_size=8192)
    package.migrate((str(folder), "t"), [change])


def program(folder: Path) -> None:
    here = f"{sys.executable} {Path(__file__).resolve()} --as-program"
    relance(folder, "--add", f"v:fixed_size_list<float>[{WIDTH}]", "--by", here, "--inputs", "id", "--by-batch", "8192")


def sql(folder: Path) -> None:
    """The same column, computed row by row: a constant would be encoded once."""
    zero = "arrow_cast(id * 0, 'Float32')"
    relance(folder, "--compute", f"v:fixed_size_list<float>[{WIDTH}]=array_repeat({zero}, {WIDTH})")


def udf(folder: Path) -> None:
    import lance
    import pyarrow as pa

    kind = pa.list_(pa.float32(), WIDTH)

    @lance.batch_udf(output_schema=pa.schema([("v", kind)]), checkpoint_file=folder / "checkpoint")
    def values(batch):
        flat = pa.array(zeros(batch).reshape(-1))
        return pa.record_batch([pa.FixedSizeListArray.from_arrays(flat, WIDTH)], ["v"])

    lance.dataset(folder / "t.lance").add_columns(values, read_columns=["id"], batch_size=8192)


def appended(folder: Path) -> None:
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"id": pa.array([-1], pa.int64()), "text": ["new"]}), folder / "t.lance", mode="append")


CASES = {"merge": merge, "join": join, "sql": sql, "function": function, "program": program, "udf": udf}


def measured(case: str, folder: Path) -> tuple:
    shutil.rmtree(folder / "db", ignore_errors=True)
    shutil.copytree(folder / "made", folder / "db")
    began = time.monotonic()
    done = subprocess.run([sys.executable, __file__, "--case", case, "--folder", str(folder / "db"), "--relance", OPTIONS.relance],
                          check=True, capture_output=True, text=True)
    seconds = time.monotonic() - began
    told = json.loads(done.stdout.splitlines()[-1])
    return told["seconds"], told["peak_mb"], seconds


def disturbed(folder: Path) -> None:
    """What an append does that lands while each runs."""
    for case in ("merge", "udf", "join", "function"):
        shutil.rmtree(folder / "db", ignore_errors=True)
        shutil.copytree(folder / "made", folder / "db")
        run = subprocess.Popen([sys.executable, __file__, "--case", case, "--folder", str(folder / "db"), "--relance", OPTIONS.relance],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        data = folder / "db" / "t.lance" / "data"
        before = len(list(data.iterdir()))
        while run.poll() is None and len(list(data.iterdir())) == before:
            time.sleep(0.001)
        appended(folder / "db")
        _, errors = run.communicate()
        import lance

        dataset = lance.dataset(folder / "db" / "t.lance")
        columns = ", ".join(dataset.schema.names)
        why = (errors.strip().splitlines() or [""])[-1][:160] if run.returncode else ""
        print(f"{case:10} append meanwhile: exit {run.returncode}, {dataset.count_rows():,} rows, columns {columns} {why}", flush=True)


def as_program() -> None:
    import pyarrow as pa

    with pa.ipc.open_stream(sys.stdin.buffer) as reader:
        schema = pa.schema([("v", pa.list_(pa.float32(), WIDTH))])
        with pa.ipc.new_stream(sys.stdout.buffer, schema) as writer:
            for batch in reader:
                flat = pa.array(zeros(batch).reshape(-1))
                writer.write_batch(pa.record_batch([pa.FixedSizeListArray.from_arrays(flat, WIDTH)], schema=schema))
                sys.stdout.buffer.flush()


def main() -> None:
    with tempfile.TemporaryDirectory(dir=OPTIONS.folder) as name:
        folder = Path(name)
        made(folder / "made", OPTIONS.rows) if (folder / "made").mkdir() is None else None
        cases = OPTIONS.only.split(",") if OPTIONS.only else list(CASES)
        runs: dict = {case: [] for case in cases}
        for _ in range(OPTIONS.rounds):
            for case in cases:
                runs[case].append(measured(case, folder))
        for case, all_runs in runs.items():
            seconds = statistics.median(run[0] for run in all_runs)
            peak = max(run[1] for run in all_runs)
            print(f"{case:10} {seconds:8.2f} s  peak {peak:6.0f} MB  (of {', '.join(f'{run[0]:.2f}' for run in all_runs)})", flush=True)
        if not OPTIONS.only:
            disturbed(folder)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rows", type=int, default=1_000_000)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--relance", default="relance")
parser.add_argument("--only", default="")
parser.add_argument("--case", choices=list(CASES))
parser.add_argument("--folder", default=None)
parser.add_argument("--as-program", action="store_true")
OPTIONS = parser.parse_args()

if OPTIONS.as_program:
    as_program()
elif OPTIONS.case:
    start = time.monotonic()
    CASES[OPTIONS.case](Path(OPTIONS.folder))
    took = time.monotonic() - start
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # A command is a process of its own, beside which this one does nothing.
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"seconds": took, "peak_mb": (theirs or own) / 1024}))
else:
    main()
