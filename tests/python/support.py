"""What the tests share: tables, how they are read back, and waiting without guessing how long."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import lancedb
import pyarrow as pa
import relance

WIDTH = 8
STAGING = "documents__relance_staging"

#: Bytes a second at which a migration never ends by itself.
STUCK = 1

#: Seconds after which something that should have happened counts as not happening.
PATIENCE = 60.0


def documents(first: int, count: int) -> pa.Table:
    """Rows `first` and on of a table of documents."""
    ids = range(first, first + count)
    vector = [[float(n + i) for i in range(WIDTH)] for n in ids]
    meta = [{"a": n, "b": f"b{n}"} for n in ids]
    columns = {
        "id": pa.array(ids, pa.int64()),
        "text": pa.array([f"text {n}" for n in ids], pa.string()),
        "vector": pa.array(vector, pa.list_(pa.float32(), WIDTH)),
        "price": pa.array([n / 4 for n in ids], pa.float64()),
        "meta": pa.array(meta, pa.struct([("a", pa.int64()), ("b", pa.string())])),
    }
    return pa.table(columns)


def make(db, name: str = "documents", rows: int = 500, files: int = 1):
    """A table of `rows` documents in so many data files."""
    size = rows // files
    table = lancedb.connect(db).create_table(name, documents(0, size))
    for n in range(1, files):
        table.add(documents(n * size, size))
    return table


def opened(db, name: str = "documents"):
    return lancedb.connect(db).open_table(name)


def read(db, name: str = "documents") -> pa.Table:
    """A table's newest version as lancedb reads it, sorted by id."""
    return opened(db, name).to_arrow().sort_by("id").combine_chunks()


def rows(db, name: str = "documents") -> list:
    return read(db, name).to_pylist()


def tables(db) -> list:
    return sorted(entry.stem for entry in Path(db).iterdir() if entry.suffix == ".lance")


def files(db) -> dict:
    """Every file of a database with its size and time."""
    found = (path for path in Path(db).rglob("*") if path.is_file())
    return {str(path.relative_to(db)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@contextlib.contextmanager
def nothing_written(db):
    """Expects that what is done inside writes no file, and changes and removes none."""
    before = files(db)
    yield
    assert files(db) == before


@contextlib.contextmanager
def as_it_was(db):
    """Expects that what is done inside leaves the live table as it is, whatever is staged beside it."""
    before = (opened(db).version, read(db))
    yield
    assert (opened(db).version, read(db)) == before


def until(is_so, what: str):
    """Looks until `is_so()` is something, and gives it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = is_so()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen")


def staged(place):
    return relance.status(place).staged


def is_staging(place) -> bool:
    """Whether a migration has begun to write."""
    return any(Path(place[0], f"{place[1]}__relance_staging.lance").rglob("*.manifest")) and staged(place) is not None


def stuck(place, changes, **more):
    """A job of a migration that is staging, and never ends unless it is stopped."""
    job = relance.start(place, changes, max_rate=STUCK, **more)
    until(lambda: is_staging(place) or job.status() != "running", "staging")
    assert job.status() == "running"
    return job


def python(script: str, *arguments, **more) -> subprocess.Popen:
    """A Python that runs `script`."""
    words = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more)


def ended(process: subprocess.Popen) -> tuple:
    """Waits for `process`: its exit code, its output, its errors."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it did not end; it said {out!r} and {err!r}") from None
    return process.returncode, out, err


def run(script: str, *arguments) -> tuple:
    return ended(python(script, *arguments))


def notes(error: BaseException) -> str:
    """What was noted on `error`: before Python 3.11 the notes are among its arguments."""
    return "\n".join(getattr(error, "__notes__", map(str, error.args)))
