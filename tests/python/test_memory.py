"""Many migrations in one process take no more memory than a few."""

import os
import re
import sys
from pathlib import Path

import pytest
import relance
from support import make, opened, rows

WARM_UP = 60
ROUNDS = 1_000 if os.environ.get("RELANCE_LONG") else 240
GROWTH_MAX = 50 << 20


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) << 10


def migrations(place, first: int, count: int) -> None:
    """Renames by a manifest, and columns that come and go with data; each gives up its way back."""
    for n in range(first, first + count):
        name, other = ("text", "body") if n % 2 == 0 else ("body", "text")
        relance.migrate(place, [relance.rename(name, other), "drop extra" if n % 2 else "add extra:string=x"])
        relance.finalize(place, history=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_many_migrations_take_no_more_memory_than_a_few(tmp_path):
    place = (str(tmp_path), "documents")
    make(place[0], rows=50)
    before = rows(place[0])
    migrations(place, 0, WARM_UP)
    warm = resident()
    migrations(place, WARM_UP, ROUNDS)
    grown = resident() - warm
    assert grown < GROWTH_MAX, f"{grown >> 20} MiB more after {ROUNDS} migrations"
    assert rows(place[0]) == before and opened(place[0]).version > WARM_UP + ROUNDS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are read from /proc")
def test_calls_leave_no_threads_and_no_open_files(tmp_path):
    place = (str(tmp_path), "documents")
    make(place[0], rows=50)

    def counts():
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        relance.plan(place, "drop price")
    before = counts()
    for _ in range(20):
        relance.plan(place, "drop price")
        with pytest.raises(relance.RefusedError):
            relance.migrate(place, relance.cast("text", "int64"))
    threads, opens = counts()
    assert threads <= before[0] + 4 and opens <= before[1] + 4
