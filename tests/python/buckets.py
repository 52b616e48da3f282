"""A database in an object store, and the command that is run on it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Optional
from urllib.parse import quote

import lance
import lancedb
import pyarrow as pa
from proxy import PASS, Action, Proxy, Request
from stores import SECRETS, Store

WIDTH = 8
TABLE = "documents"

#: Seconds after which a command counts as hanging.
PATIENCE = 90.0


def documents(first: int, count: int) -> pa.Table:
    """Rows `first` and on of a table of documents. Every third has no note."""
    ids = range(first, first + count)
    columns = {
        "id": pa.array(ids, pa.int64()),
        "text": pa.array([f"text {n}" for n in ids], pa.string()),
        "price": pa.array([n / 4 for n in ids], pa.float64()),
        "note": pa.array([None if n % 3 == 0 else f"note {n}" for n in ids], pa.string()),
        "vector": pa.array([[float(n + i) for i in range(WIDTH)] for n in ids], pa.list_(pa.float32(), WIDTH)),
    }
    return pa.table(columns)


@dataclasses.dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    @property
    def json(self) -> dict:
        return json.loads(self.out)

    def expect(self, code: int) -> "Done":
        assert self.code == code, f"exit {self.code}, not {code}: {self.said[-4000:]}"
        return self


def binary() -> str:
    return os.environ.get("RELANCE_BINARY") or str(Path(sys.executable).parent / "relance")


class Run:
    """A command that runs."""

    def __init__(self, words: list, environment: dict):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment})

    def ended(self, patience: float = PATIENCE) -> Done:
        """Waits for it. Whatever it printed, no secret is in it."""
        try:
            out, err = self.process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"it hangs; it said {out[-2000:]!r} and {err[-4000:]!r}") from None
        for secret in SECRETS:
            for form in (secret, quote(secret, safe="")):
                assert form not in out + err, "a secret is printed"
        return Done(self.process.returncode, out, err)


class Bucket:
    """A database in `store`, and its table of documents."""

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name
        self.uri = store.database(name)

    def connect(self, port: Optional[int] = None):
        return lancedb.connect(self.uri, storage_options=self.store.options(port))

    def make(self, rows: int = 300, files: int = 3, version: str = "2.1", data=documents):
        """A table of `rows` documents in so many data files."""
        size = rows // files
        options = {"new_table_data_storage_version": version}
        table = self.connect().create_table(TABLE, data(0, size), storage_options={**self.store.options(), **options})
        for n in range(1, files):
            table.add(data(n * size, size))
        return table

    def table(self, port: Optional[int] = None):
        return self.connect(port).open_table(TABLE)

    def dataset(self, version: Optional[int] = None):
        place = f"{self.uri}/{TABLE}.lance"
        return lance.dataset(place, version=version, storage_options=self.store.options())

    def rows(self, key: str = "id") -> list:
        """Every row of the newest version, as lancedb reads it, by its `key`."""
        return sorted(self.table().to_arrow().to_pylist(), key=lambda row: row[key])

    def objects(self) -> dict:
        """Every object of the database, and its size."""
        return self.store.listed(f"{self.name}/")

    def start(self, command: str, *words: str, port: Optional[int] = None, options: Optional[dict] = None,
              uri: Optional[str] = None, more: Optional[dict] = None, **environment: str) -> Run:
        """Starts a command on the table; `port` is a proxy's, and `more` are options beside the store's own."""
        given = self.store.options(port) if options is None else options
        given = {**given, **(more or {})}
        pairs = [word for name, value in given.items() for word in ("--storage-option", f"{name}={value}")]
        return Run([binary(), command, uri or self.uri, TABLE, *words, *pairs], environment)

    def run(self, command: str, *words: str, code: int = 0, **more) -> Done:
        """Runs a command on the table, and expects that it ends with `code`."""
        return self.start(command, *words, **more).ended().expect(code)

    def staged(self) -> Optional[dict]:
        (table,) = self.run("status", "--json").json["tables"]
        return table["staged"]

    def unnamed(self) -> list:
        """The objects of the database that no version of the table names: what is left over."""
        known, folders = set(), set()
        newest = self.dataset()
        for one in newest.versions():
            version = self.dataset(one["version"])
            for fragment in version.get_fragments():
                files = [file.path for file in fragment.metadata.files]
                known.update(f"data/{path}" for path in files)
                folders.update(f"data/{path.removesuffix('.lance')}" for path in files)
                if fragment.deletion_file() is not None:
                    known.add(fragment.deletion_file())
            indices = version.describe_indices()
            folders.update(f"_indices/{segment.uuid}" for index in indices for segment in index.segments)
            transaction = newest.read_transaction(one["version"])
            if transaction is not None:
                known.add(f"_transactions/{transaction.read_version}-{transaction.uuid}.txn")
            known.update({f"_versions/{2**64 - 1 - one['version']}.manifest", f"_versions/{one['version']}.manifest"})
        known.add("_versions/latest_version_hint.json")
        known.update(f"_refs/tags/{tag}.json" for tag in newest.tags.list())
        root = f"{self.name}/{TABLE}.lance/"
        return [name for name in self.objects() if not _is_known(name, root, known, folders)]

    def assert_clean(self) -> None:
        """Nothing is left over: neither objects that nobody names, nor unfinished uploads, nor a staging table."""
        assert self.unnamed() == []
        assert self.uploads() == []

    def uploads(self) -> list:
        """Its unfinished uploads."""
        return [name for name in self.store.uploads() if f"{self.name}/" in name]


def _is_known(name: str, root: str, known: set, folders: set) -> bool:
    if not name.startswith(root):
        return False
    inner = name.removeprefix(root)
    return inner in known or inner.rpartition("/")[0] in folders


def is_staged_file(request: Request) -> bool:
    """Whether a data file of a migration is written."""
    return request.writes and "-relance-" in request.path and "-relance-probe-" not in request.path


def counted(is_it: Callable[[Request], bool], act: Callable[[int], Action]) -> Callable[[Request], Action]:
    """A rule: the n-th request of those for which `is_it` becomes `act(n)`, counted from 1."""
    seen = [0]

    def rule(request: Request) -> Action:
        if not is_it(request):
            return PASS
        seen[0] += 1
        return act(seen[0])

    return rule


class Killer:
    """A rule that kills a command at its n-th write; the store sees that write if it `passes`."""

    def __init__(self, n: int, passes: bool = False, how: int = signal.SIGKILL):
        self.n, self.passes, self.how, self.seen, self.killed = n, passes, how, 0, False
        self.run: Optional[Run] = None

    def __call__(self, request: Request) -> Action:
        if self.killed or not request.writes:
            return PASS
        self.seen += 1
        if self.seen < self.n:
            return PASS
        while self.run is None:
            time.sleep(0.001)
        self.killed = True
        os.kill(self.run.process.pid, self.how)
        return PASS if self.passes else Action(reset=True)


def kill_at(bucket: Bucket, n: int, command: str, *words: str, passes: bool = False) -> bool:
    """Runs a command that is killed at its n-th write. Gives whether it lived that long."""
    killer = Killer(n, passes)
    with Proxy(bucket.store.port, killer) as proxy:
        killer.run = bucket.start(command, *words, port=proxy.port)
        done = killer.run.ended()
    assert done.code == (-signal.SIGKILL if killer.killed else 0), done.said
    return killer.killed


def general(rows: list) -> list:
    """Rows as `--add category:string=general` makes them."""
    return [row | {"category": "general"} for row in rows]


class Appender:
    """A Python client that appends one row after the other, in the shape that the table had, as long as this is open."""

    def __init__(self, bucket: Bucket, first: int = 5000):
        self.bucket, self.first, self.count = bucket, first, 0
        self._error: Optional[Exception] = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._append, daemon=True)

    def _append(self) -> None:
        try:
            table = self.bucket.table()
            while not self._stop.is_set():
                table.checkout_latest()
                self._add(table)
                self._stop.wait(0.05)
        except Exception as error:  # noqa: BLE001 told where it is closed
            self._error = error

    def _add(self, table) -> None:
        try:
            table.add(documents(self.first + self.count, 1))
        except RuntimeError as error:
            # It met the swap, as any two commits can meet: once more, on the new version.
            if "Incompatible transaction" not in str(error):
                raise
        else:
            self.count += 1

    def goes_on(self) -> None:
        """Waits until another two rows are appended."""
        wanted, end = self.count + 2, time.monotonic() + PATIENCE
        while self.count < wanted:
            assert self._error is None and time.monotonic() < end, self._error
            time.sleep(0.01)

    def __enter__(self) -> "Appender":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert self._error is None and not self._thread.is_alive(), self._error

    def rows(self) -> list:
        return documents(self.first, self.count).to_pylist()
