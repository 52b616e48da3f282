#!/usr/bin/env python3
"""Migrations of a table in a bucket beside the same done by hand with pylance, through a proxy that delays every request: on a
SeaweedFS that runs here. Seconds, requests, megabytes each way and our own peak of memory; ours and theirs in turn, medians of
the rounds.

usage: scripts/bench_buckets.py [--delay MS,MS] [--rounds N] [--relance PATH] [--only CASE,CASE] [--megabytes N]
"""

import argparse
import contextlib
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))

import proxy  # noqa: E402
import stores  # noqa: E402

CONSTANTS = ["--add", "a:string=x", "--add", "b:int64=7", "--add", "c:bool=true"]
DIM = 1024


class Bench:
    """A store, a proxy in front of it, and a table."""

    def __init__(self, store, passed):
        self.store, self.proxy, self.database, self.count, self.peak = store, passed, "", 0, 0.0

    @property
    def uri(self):
        return f"{self.database}/t.lance"

    def table(self, fragments, rows, dim=0):
        """A fresh table of so many fragments of so many rows."""
        import lance
        import numpy as np
        import pyarrow as pa

        self.count += 1
        self.database = self.store.database(f"db{self.count}")
        random = np.random.default_rng(0)
        for n in range(fragments if dim else 1):
            count = rows if dim else fragments * rows
            columns = {"id": pa.array(range(n * rows, n * rows + count))}
            if dim:
                values = random.random(count * dim, dtype=np.float32)
                columns["vector"] = pa.FixedSizeListArray.from_arrays(values, dim)
            options = {"storage_options": self.store.options(), "max_rows_per_file": rows, "max_rows_per_group": rows}
            lance.write_dataset(pa.table(columns), self.uri, mode="append" if n else "create", **options)
        self.proxy.forget()

    def dataset(self):
        import lance

        return lance.dataset(self.uri, storage_options=self.store.options(self.proxy.port))

    def relance(self, command, *words, exits=0):
        options = self.store.options(self.proxy.port)
        options = [word for key, value in options.items() for word in ("--storage-option", f"{key}={value}")]
        words = [OPTIONS.relance, command, self.database, "t", *options, "--progress", "none", *words]
        with tempfile.TemporaryFile() as told:
            child = subprocess.Popen(words, stdout=told, stderr=told)
            # What the system tells of a child that has ended counts this script's own memory, which it was made from.
            while child.poll() is None:
                self.peak = max(self.peak, resident(child.pid))
                time.sleep(0.01)
            told.seek(0)
            assert child.returncode == exits, told.read().decode()


def resident(pid):
    """Megabytes that a process has had at most."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    return 0.0


def thousand(bench):
    return lambda: bench.table(1_000, 10)


def one(bench):
    return lambda: bench.table(1, 1_000)


def vectors(bench):
    rows = max(OPTIONS.megabytes * 1_000_000 // (16 * DIM * 4), 1)
    return lambda: bench.table(16, rows, DIM)


def constants(bench):
    bench.relance("migrate", *CONSTANTS)


def add_columns(bench):
    bench.dataset().add_columns({"a": "'x'", "b": "cast(7 as bigint)", "c": "true"})


def cast(bench, *words):
    bench.relance("migrate", "--cast", f"vector:fixed_size_list<halffloat>[{DIM}]", *words)


def alter_columns(bench):
    import pyarrow as pa

    bench.dataset().alter_columns({"path": "vector", "data_type": pa.list_(pa.float16(), DIM)})


def rewrite(bench, *words):
    bench.relance("migrate", "--add", "a:string=x", "--strategy", "rewrite", *words)


def write_dataset(bench):
    import lance
    import pyarrow as pa

    source = bench.dataset()

    def batches():
        for batch in source.to_batches(batch_size=1024):
            yield batch.append_column("a", pa.array(["x"] * batch.num_rows))

    schema = source.schema.append(pa.field("a", pa.string()))
    options = {"storage_options": bench.store.options(bench.proxy.port), "max_rows_per_file": source.count_rows() // 16 + 1}
    lance.write_dataset(batches(), f"{bench.database}/new.lance", schema=schema, **options)


def by_hand(bench):
    """A client, how it transfers, and the table's data files."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    options = bench.store.options(bench.proxy.port)
    client = boto3.client(
        "s3", endpoint_url=options["aws_endpoint"], aws_access_key_id=stores.S3_KEY, aws_secret_access_key=stores.S3_SECRET,
        region_name="us-east-1", config=Config(max_pool_connections=32, request_checksum_calculation="when_required"),
    )
    how = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20, max_concurrency=16)
    prefix = f"{bench.uri.removeprefix('s3://tables/')}/data/"
    return client, how, sorted(bench.store.listed(prefix))


def inside(bench):
    """What the store takes to copy the same bytes by itself, range by range (UploadPartCopy), sixteen at once."""
    client, how, keys = by_hand(bench)
    for n, key in enumerate(keys):
        client.copy({"Bucket": "tables", "Key": key}, "tables", f"inside/{bench.count}/{n}", Config=how)


def same_bytes(bench):
    """What the network and the server take: every data file read in ranges and written in parts, sixteen at once."""
    client, how, keys = by_hand(bench)
    with tempfile.TemporaryDirectory() as folder:
        for n, key in enumerate(keys):
            file = os.path.join(folder, str(n))
            client.download_file("tables", key, file, Config=how)
            client.upload_file(file, "tables", f"copies/{bench.count}/{n}", Config=how)
            os.remove(file)


def held(bench):
    def prepare():
        bench.table(1_000, 10)
        bench.relance("migrate", "--hold", *CONSTANTS)
        bench.proxy.forget()

    return prepare


def abort(bench):
    bench.relance("abort")


@contextlib.contextmanager
def appender(bench, rate):
    """Somebody who commits so often a second, at random moments, and takes no detour."""
    import random

    import lancedb
    import pyarrow as pa

    table = lancedb.connect(bench.database, storage_options=bench.store.options()).open_table("t")
    stop = threading.Event()

    def append():
        due = time.monotonic()
        while not stop.is_set():
            table.checkout_latest()
            more = {"a": ["x"], "b": [7], "c": [True]} if "a" in table.schema.names else {}
            with contextlib.suppress(Exception):  # the columns came between the look and the append
                table.add(pa.table({"id": [1], **more}))
            due += random.expovariate(rate)
            time.sleep(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def beside(rate):
    def run(bench):
        with appender(bench, rate):
            began = time.monotonic()
            bench.relance("migrate", *CONSTANTS)
            return time.monotonic() - began

    return run


CASES = {
    "1,000 fragments, three constants": (thousand, {"relance": constants, "add_columns": add_columns}),
    "1 fragment, three constants": (one, {"relance": constants, "add_columns": add_columns}),
    "cast of vectors": (vectors, {
        "relance": cast,
        "full=read": lambda bench: cast(bench, "--verify", "full=read"),
        "quick": lambda bench: cast(bench, "--verify", "quick"),
        "full, sample": lambda bench: cast(bench, "--preflight", "sample"),
        "quick, sample": lambda bench: cast(bench, "--verify", "quick", "--preflight", "sample"),
        "alter_columns": alter_columns,
    }),
    "rewrite of vectors": (vectors, {
        "relance": rewrite,
        "full=read": lambda bench: rewrite(bench, "--verify", "full=read"),
        "quick": lambda bench: rewrite(bench, "--verify", "quick"),
        "write_dataset": write_dataset,
        "the same bytes": same_bytes,
        "inside the store": inside,
    }),
    "abort, 1,000 files": (held, {"relance": abort}),
    "2 commits a second": (one, {"relance": beside(2)}),
    "5 commits a second": (one, {"relance": beside(5)}),
}


def timed(bench, prepare, act):
    prepare()
    bench.peak = 0.0
    began = time.monotonic()
    seconds = act(bench) or time.monotonic() - began
    down, up = (sum(getattr(one, name) for one in bench.proxy.requests) / 1e6 for name in ("received", "sent"))
    return seconds, len(bench.proxy.requests), down, up, bench.peak


def main():
    print(f"{datetime.date.today()}, {os.cpu_count()} processors, medians of {OPTIONS.rounds}")
    for delay in OPTIONS.delay.split(","):
        with tempfile.TemporaryDirectory() as folder, stores.running("s3", Path(folder)) as store:
            with proxy.Proxy(store.port, lambda _: proxy.Action(delay=float(delay) / 1e3)) as passed:
                for name, (prepare, acts) in CASES.items():
                    if OPTIONS.only and not any(word in name for word in OPTIONS.only.split(",")):
                        continue
                    bench = Bench(store, passed)
                    bench.count = hash(name) % 10**6 * 1_000
                    found = {who: [] for who in acts}
                    for _ in range(OPTIONS.rounds):
                        for who, act in acts.items():
                            found[who].append(timed(bench, prepare(bench), act))
                    for who, rounds in found.items():
                        seconds, requests, down, up, peak = (statistics.median(column) for column in zip(*rounds))
                        line = f"{seconds:8.2f} s {requests:6.0f} requests {down:7.1f} MB down {up:7.1f} MB up {peak:5.0f} MB"
                        print(f"{delay:>3} ms  {name:34} {who:16} {line}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", default="0,30")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--relance", default=str(ROOT / "target" / "release" / "relance"))
    parser.add_argument("--only", default="")
    parser.add_argument("--megabytes", type=int, default=512)
    OPTIONS = parser.parse_args()
    main()
