"""Jobs: progress, stops, threads, loops, Ctrl-C, and the interpreter's end."""

import asyncio
import io
import json
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import lancedb
import pytest
import relance
from support import (
    STUCK, as_it_was, documents, ended, is_staging, make, opened, python, read, rows, run, staged, stuck, tables, until,
)

ADD = [relance.add("category", "string", default="general")]


def has_all(db, before) -> bool:
    return rows(db) == [{**row, "category": "general"} for row in before]


# A job


def test_a_job_finishes(db, place):
    before = rows(db)
    job = relance.start(place, ADD)
    assert isinstance(job, relance.Job)
    done = job.wait()
    assert (job.status(), done.ended) == ("finished", "swapped")
    assert job.wait() == done and job.wait(timeout=0) == done
    assert has_all(db, before)


def test_a_job_goes_on_when_nobody_holds_it(place):
    relance.start(place, ADD)
    until(lambda: relance.status(place).rollback_points, "the swap")


def test_a_job_that_failed_says_so_whenever_it_is_asked(place):
    job = relance.start(place, relance.cast("text", "int64"))
    for _ in range(2):
        with pytest.raises(relance.RefusedError):
            job.wait()
    assert job.status() == "failed"


def test_waiting_ends_after_the_timeout_and_the_job_goes_on(place):
    job = stuck(place, ADD)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            job.wait(timeout=timeout)
    assert job.status() == "running"
    job.cancel()
    with pytest.raises(relance.MigrationInterruptedError):
        job.wait(timeout=60)


def test_a_cancelled_job_is_resumed_by_another(parts):
    db, _ = parts
    before = rows(db)
    with as_it_was(db):
        job = stuck(parts, ADD)
        job.cancel()
        job.cancel()
        with pytest.raises(relance.MigrationInterruptedError):
            job.wait()
    assert job.status() == "cancelled"
    job = relance.start_resume(parts)
    assert job.wait().ended == "swapped" and has_all(db, before)
    job.cancel()
    assert job.status() == "finished"


def test_a_job_can_be_awaited(db, place):
    async def life():
        job = relance.start(place, ADD)
        return await job, await job

    done, again = asyncio.run(life())
    assert done.ended == "swapped" and again == done


def test_a_job_of_one_thread_is_waited_for_in_another(place):
    job = relance.start(place, ADD)
    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(job.wait) for _ in range(4)]
        assert len({end.result(timeout=60).report.id for end in ends}) == 1


# Progress


def check(events):
    assert all(isinstance(event, dict) and event["table"] == "documents" for event in events)
    assert {"phase", "progress"} <= {event["event"] for event in events}
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert phases.index("stage") < phases.index("verify") < phases.index("swap") < phases.index("done")
    last = [event for event in events if event["event"] == "progress" and event["phase"] == "stage"][-1]
    assert (last["rows"], last["rows_total"]) == (500, 500)


def test_a_function_gets_events(parts):
    events = []
    relance.migrate(parts, ADD, progress=events.append)
    check(events)


def test_a_function_gets_events_where_it_is_awaited(parts):
    events = []
    asyncio.run(relance.migrate_async(parts, ADD, progress=events.append))
    check(events)


def test_a_function_is_called_in_the_thread_that_waits(parts):
    called = set()
    relance.migrate(parts, ADD, progress=lambda event: called.add(threading.get_ident()))
    assert called == {threading.get_ident()}


def test_events_keep_their_order_and_are_told_once(parts):
    events = []
    job = relance.start(parts, ADD, progress=events.append)
    until(lambda: job.status() != "running", "the end")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: job.wait(), range(4)))
    check(events)
    assert len({json.dumps(event) for event in events}) == len(events)
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


def test_a_job_has_its_last_progress(parts):
    job = relance.start(parts, ADD)
    job.wait()
    assert job.progress["event"] == "progress" and job.progress["rows_total"] == 500


class Bar:
    """What is needed of tqdm."""

    def __init__(self):
        self.total, self.n, self.closed = None, 0, False

    def update(self, by=1):
        self.n += by


@pytest.mark.parametrize("call", [relance.plan, relance.migrate, relance.tune])
def test_every_call_with_changes_tells_of_progress(place, call):
    events = []
    more = {"time": "1s"} if call is relance.tune else {}
    call(place, ADD, progress=events.append, **more)
    assert events and all(event["json_version"] == 1 for event in events)


def test_anything_like_a_bar_is_moved(parts):
    bar = Bar()
    relance.migrate(parts, ADD, progress=bar)
    assert bar.total is not None and bar.n >= 0


def test_a_bar_of_tqdm_is_moved_and_left_open(parts):
    tqdm = pytest.importorskip("tqdm")
    seen = []

    class Watched(tqdm.tqdm):
        def reset(self, total=None):
            seen.append((self.desc, self.n))
            super().reset(total)

        def close(self):
            seen.append("closed")
            super().close()

    with Watched(file=io.StringIO()) as bar:
        relance.migrate(parts, ADD, progress=bar)
        assert "closed" not in seen
    assert ("documents stage: ", 500) in seen
    assert "closed" in seen


def test_tqdm_itself_makes_a_bar_and_closes_it(parts, capsys):
    tqdm = pytest.importorskip("tqdm")
    made = []

    class Watched(tqdm.tqdm):
        def __init__(self, *arguments, **more):
            made.append(self)
            super().__init__(*arguments, **more)

    relance.migrate(parts, ADD, progress=Watched)
    (bar,) = made
    assert bar.disable and "rows" in capsys.readouterr().err


def test_true_shows_a_bar_of_tqdm(parts, capsys):
    pytest.importorskip("tqdm")
    relance.migrate(parts, ADD, progress=True)
    said = capsys.readouterr()
    assert "documents" in said.err and "rows" in said.err and said.out == ""


def test_true_shows_lines_without_tqdm(parts, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    relance.migrate(parts, ADD, progress=True)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert "documents: stage: 500 rows" in lines and any("500 of 500 rows" in line for line in lines) and said.out == ""


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_shown_unless_it_is_asked_for(parts, capfd, progress):
    relance.migrate(parts, ADD, progress=progress)
    assert capfd.readouterr() == ("", "")


# Threads and loops


def test_four_threads_migrate_four_tables_at_once(tmp_path):
    db = str(tmp_path)
    names = [f"documents{n}" for n in range(4)]
    for name in names:
        make(db, name)
    before = rows(db, names[0])
    together = threading.Barrier(4)

    def migrate(name):
        together.wait(timeout=60)
        return relance.migrate((db, name), ADD).report.table

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(migrate, names)) == names
    for name in names:
        assert rows(db, name) == [{**row, "category": "general"} for row in before]


def test_of_four_threads_that_migrate_one_table_all_end_well(db, place):
    """Each adds its own column: it swaps, or is told that another one holds the table."""
    together = threading.Barrier(4)

    def migrate(n):
        together.wait(timeout=60)
        try:
            relance.migrate(place, relance.add(f"c{n}", "int64", default=n))
        except (relance.LockedError, relance.RefusedError, relance.MigrationInterruptedError) as error:
            return error
        return f"c{n}"

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(migrate, range(4)))
    won = [end for end in ends if isinstance(end, str)]
    assert won and set(read(db).column_names) == {*documents(0, 0).column_names, *won}
    assert staged(place) is None and tables(db) == ["documents"]


def test_two_loops_in_two_threads(tmp_path):
    db = str(tmp_path)
    names = ["one", "two"]
    for name in names:
        make(db, name)
    together = threading.Barrier(2)

    async def migrate(name):
        plan = await relance.plan_async((db, name), ADD)
        return (await relance.migrate_async((db, name), plan=plan)).report.table

    def loop(name):
        together.wait(timeout=60)
        return asyncio.run(migrate(name))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(loop, names)) == names
    assert all("category" in read(db, name).column_names for name in names)


def test_one_loop_migrates_tables_at_once_and_does_other_things_meanwhile(tmp_path):
    db = str(tmp_path)
    names = ["one", "two", "three"]
    for name in names:
        make(db, name)
    ticks = []

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0)

    async def life():
        ticker = asyncio.create_task(tick())
        done = await asyncio.gather(*(relance.migrate_async((db, name), ADD) for name in names))
        ticker.cancel()
        return [one.report.table for one in done]

    assert asyncio.run(life()) == names
    assert len(ticks) > 10


def test_a_cancelled_task_keeps_what_is_staged(parts):
    db, _ = parts
    before = rows(db)

    async def life():
        task = asyncio.create_task(relance.migrate_async(parts, ADD, max_rate=STUCK))
        while not is_staging(parts):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return (await relance.status_async(parts)).staged.state

    with as_it_was(db):
        assert asyncio.run(life()) == "interrupted"
    assert relance.resume(parts).ended == "swapped" and has_all(db, before)


def test_a_task_that_takes_too_long_keeps_what_is_staged(place):
    async def life():
        job = stuck(place, ADD)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(job, 0.05)
        return job.status(), (await relance.status_async(place)).staged.state

    assert asyncio.run(life()) == ("cancelled", "interrupted")
    relance.abort(place)


def test_a_shielded_job_goes_on(place):
    async def life():
        job = stuck(place, ADD)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(job)), 0.05)
        state = job.status()
        job.cancel()
        with pytest.raises(relance.MigrationInterruptedError):
            await job
        return state

    assert asyncio.run(life()) == "running"


def test_a_coroutine_that_is_closed_says_nothing(place):
    """As the collector does with a task that is left when its loop is closed."""

    async def life():
        coroutine = relance.migrate_async(place, ADD, max_rate=STUCK)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(life())
    until(lambda: (one := staged(place)) is None or one.state == "interrupted", "the stop")


def test_a_coroutine_that_is_never_awaited_does_nothing(db, place):
    relance.migrate_async(place, ADD).close()
    assert opened(db).version == 1 and staged(place) is None


# Ctrl-C and the interpreter's end


HEAD = """
import asyncio, json, sys
import relance

place = (sys.argv[1], "documents")
changes = [relance.add("category", "string", default="general")]

def started(event):
    if event.get("phase") == "stage":
        print("started", flush=True)

def told(stop):
    print(json.dumps("; ".join(getattr(stop, "__notes__", map(str, stop.args)))), flush=True)
    raise SystemExit(42)
"""

BLOCKING = HEAD + """
try:
    relance.migrate(place, changes, max_rate=1, progress=started)
except KeyboardInterrupt as stop:
    told(stop)
"""

JOB = HEAD + """
job = relance.start(place, changes, max_rate=1, progress=started)
try:
    job.wait()
except KeyboardInterrupt as stop:
    assert job.status() == "cancelled"
    told(stop)
"""

ASYNC = HEAD + """
async def life():
    try:
        await relance.migrate_async(place, changes, max_rate=1, progress=started)
    except asyncio.CancelledError as stop:
        print(json.dumps("; ".join(getattr(stop, "__notes__", ["resume"]))), flush=True)
        raise

try:
    asyncio.run(life())
except KeyboardInterrupt:
    raise SystemExit(42)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize("script", [BLOCKING, JOB, ASYNC], ids=["call", "job", "task"])
def test_ctrl_c_keeps_what_is_staged_and_says_how_to_go_on(parts, script):
    db, _ = parts
    before = rows(db)
    with as_it_was(db):
        process = python(script, db)
        assert process.stdout.readline() == "started\n"
        until(lambda: is_staging(parts), "staging")
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert code == 42, err
    assert "resume" in json.loads(out)
    assert staged(parts).state == "interrupted"
    assert relance.resume(parts).ended == "swapped" and has_all(db, before)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_ends_a_program_that_does_not_catch_it(place):
    process = python(HEAD + "relance.migrate(place, changes, max_rate=1, progress=started)", place[0])
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code in (-signal.SIGINT, 130) and "KeyboardInterrupt" in err


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_stops_the_command(place):
    script = "import sys, runpy; sys.argv[0] = 'relance'; runpy.run_module('relance', run_name='__main__')"
    words = ["migrate", place[0], "documents", "--add", "category:string=general", "--max-rate", "1"]
    process = python(script, *words)
    until(lambda: is_staging(place), "staging")
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 5 and "resume" in err
    relance.abort(place)


ENDS = {
    "the script ends": "",
    "it raises": "raise ValueError('of the script')",
    "it exits": "sys.exit(3)",
    "nobody holds the job": "del job",
    "a thread waits": "import threading; threading.Thread(target=job.wait, daemon=True).start()",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("go_on", [relance.resume, relance.abort])
def test_the_interpreter_ends_while_a_job_runs(parts, end, go_on):
    db, _ = parts
    script = HEAD + "job = relance.start(place, changes, max_rate=1)\n"
    script += "while relance.status(place).staged is None: pass\n" + ENDS[end]
    with as_it_was(db):
        code, _, err = run(script, db)
    assert code == {"it raises": 1, "it exits": 3}.get(end, 0), err
    assert "panicked" not in err and "Fatal" not in err
    assert staged(parts).state == "interrupted"
    go_on(parts)
    assert ("category" in read(db).column_names) == (go_on is relance.resume) and tables(db) == ["documents"]


def test_a_killed_process_is_gone_on_with(parts):
    db, _ = parts
    before = rows(db)
    with as_it_was(db):
        process = python(BLOCKING, db)
        until(lambda: is_staging(parts), "staging")
        process.kill()
        ended(process)
    assert relance.resume(parts).ended == "swapped" and has_all(db, before)


# Readers and writers in the same process


def test_readers_and_writers_go_on_meanwhile(parts, tmp_path):
    db, _ = parts
    before = rows(db)
    control = tmp_path / "control.toml"
    connection = lancedb.connect(db)
    old = connection.open_table("documents")
    job = stuck(parts, ADD, control=control)

    writer = connection.open_table("documents")
    writer.add(documents(500, 10))
    writer.delete("id < 5")
    writer.update(where="id = 7", values={"text": "seven"})
    assert old.count_rows() == 500 and old.version == 5
    writer.checkout_latest()
    assert writer.count_rows() == 505

    control.write_text('max-rate = "none"\n')
    assert job.wait(timeout=60).ended == "swapped"
    wanted = [{**row, "category": "general"} for row in before[5:] + documents(500, 10).to_pylist()]
    wanted[2]["text"] = "seven"
    assert rows(db) == wanted

    assert old.version == 5 and "category" not in old.schema.names
    assert old.to_arrow().sort_by("id").to_pylist() == before
    old.checkout_latest()
    assert "category" in old.schema.names and old.count_rows() == 505


def test_searches_give_whole_answers_while_tables_are_swapped(db, place):
    stop, wrong = threading.Event(), []

    def search():
        table = lancedb.connect(db).open_table("documents")
        while not stop.is_set():
            table.checkout_latest()
            found = table.search([7.0 + i for i in range(8)]).limit(1).to_list()
            if [row["id"] for row in found] != [7] or table.count_rows() != 500:
                wrong.append(found)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(search) for _ in range(2)]
        try:
            for n in range(5):
                relance.migrate(place, relance.add(f"c{n}", "int64", default=n))
                relance.migrate(place, relance.compute(f"d{n}", f"c{n} + id"))
        finally:
            stop.set()
        for reader in readers:
            reader.result(timeout=60)
    assert wrong == []
    assert rows(db)[7]["d4"] == 11


def test_rows_added_during_many_migrations_are_all_there(db, place):
    migrated = []

    def migrate():
        for n in range(3):
            relance.migrate(place, relance.add(f"c{n}", "int64", default=n), max_rounds=1_000_000)
            migrated.append(n)

    def write(first):
        table = lancedb.connect(db).open_table("documents")
        table.add([{"id": first, "text": "new"}])

    with ThreadPoolExecutor(1) as pool:
        migrations = pool.submit(migrate)
        ids = range(1000, 1040)
        for n in ids:
            # It met a swap, which a writer is told of, and tries again.
            until(lambda: written(write, n), "the write")
        migrations.result(timeout=60)
    assert migrated == [0, 1, 2]
    assert [row["id"] for row in rows(db)] == [*range(500), *ids]


def written(write, first) -> bool:
    try:
        write(first)
    except Exception as error:
        assert "conflict" in str(error).lower(), error
        return False
    return True
