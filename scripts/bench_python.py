"""What relance costs in a Python process: its import, and three constants on one fragment beside LanceDB's `add_columns`.

usage: "$(scripts/python)" scripts/bench_python.py [--rows N] [--rounds N]     with the wheel installed: see scripts/test_python
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import lancedb
import numpy as np
import pyarrow as pa

import relance

CONSTANTS = {"n": "7", "category": "'general'", "is_active": "true"}
CHANGES = ["add n:int64=7", "add category:string=general", "add is_active:bool=true"]


def table(path, rows, dim=384):
    vectors = pa.array(np.random.default_rng(1).standard_normal(rows * dim, dtype=np.float32))
    texts = pa.array([f"document {i}" for i in range(rows)])
    data = pa.table({"text": texts, "vector": pa.FixedSizeListArray.from_arrays(vectors, dim)})
    lancedb.connect(path).create_table("documents", data)


def by_lancedb(path):
    lancedb.connect(path).open_table("documents").add_columns(CONSTANTS)


def by_relance(path):
    assert relance.migrate((path, "documents"), CHANGES).report.verified == "full"


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def imported(code):
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))


def told(name, all_seconds):
    low, high = min(all_seconds), max(all_seconds)
    print(f"{name}: median {statistics.median(all_seconds) * 1000:.0f} ms ({low * 1000:.0f} to {high * 1000:.0f})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=11)
    asked = parser.parse_args()
    runs = {"add_columns": [], "relance.migrate": []}
    imports = {"pass": [], "import relance": []}
    with tempfile.TemporaryDirectory() as base:
        table(f"{base}/made", asked.rows)
        for _ in range(asked.rounds):
            for name, work in (("add_columns", by_lancedb), ("relance.migrate", by_relance)):
                shutil.rmtree(f"{base}/db", ignore_errors=True)
                shutil.copytree(f"{base}/made", f"{base}/db")
                runs[name].append(seconds(lambda: work(f"{base}/db")))
            for code in imports:
                imports[code].append(imported(code))
    print(f"three constants on {asked.rows:,} rows in one fragment, every value verified by relance, {asked.rounds} rounds")
    for name, all_seconds in {**runs, **imports}.items():
        told(name, all_seconds)


if __name__ == "__main__":
    main()
