"""Every exception, and that nothing is written where one is raised."""

import asyncio
import copy
import datetime as dt
import pickle
import types
from pathlib import Path

import lancedb
import pandas as pd
import pyarrow as pa
import pydantic
import pytest
import relance
from lancedb.pydantic import LanceModel
from relance.errors import error_of
from support import (
    STAGING, STUCK, as_it_was, documents, files, make, nothing_written, notes, opened, read, rows, run, staged, stuck,
    tables,
)

ADD = [relance.add("category", "string", default="general")]
ERRORS = [
    "FailedError", "UsageError", "NoTableError", "RefusedError", "MismatchError", "MigrationInterruptedError",
    "LockedError", "OutcomeUnknownError", "UnfinishedError", "ForkedError",
]


# Requests that make no sense


USAGE = {
    "no change": {},
    "no index": {"changes": ADD, "drop_index": 7},
    "a condition that is no text": {"changes": ADD, "where": 7},
    "an empty list": {"changes": []},
    "a number": {"changes": 7},
    "a list of numbers": {"changes": [7]},
    "a verb that is none": {"changes": "remove text"},
    "a text without a value": {"changes": "add category"},
    "a text of a type that is none": {"changes": "add category:strin"},
    "an unknown strategy": {"changes": ADD, "strategy": "fast"},
    "an unknown word for bad values": {"changes": ADD, "on_bad_value": "ignore"},
    "an unknown word for columns that exist": {"changes": ADD, "if_exists": "replace"},
    "an unknown preflight": {"changes": ADD, "preflight": "none"},
    "no workers": {"changes": ADD, "workers": 0},
    "workers as a text": {"changes": ADD, "workers": "two"},
    "less than no workers": {"changes": ADD, "workers": -1},
    "memory that is no size": {"changes": ADD, "memory": "much"},
    "too little memory": {"changes": ADD, "memory": 1},
    "a rate of nothing": {"changes": ADD, "max_rate": 0},
    "an unknown storage version": {"changes": ADD, "storage_version": "9.9"},
    "no rows per file": {"changes": ADD, "rows_per_file": 0},
    "changes and a schema": {"changes": ADD, "to": pa.schema([("id", pa.int64())])},
    "a progress that is none": {"changes": ADD, "progress": 7},
    "SQL that is none": {"changes": "set text=upper("},
    "a condition that is none": {"changes": ADD, "where": "id <"},
    "a value that does not fit": {"changes": "add n:int8=300"},
}


@pytest.mark.parametrize("what", USAGE)
def test_a_malformed_request_is_a_usage_error(db, place, what):
    for call in (relance.plan, relance.migrate):
        with nothing_written(db), pytest.raises(relance.UsageError) as caught:
            call(place, **USAGE[what])
        error = caught.value
        assert isinstance(error, ValueError) and error.exit_code == 2 and error.kind == "usage" and str(error)


SETTINGS = [{"verify": "never"}, {"hold": "forever"}, {"cutover_timeout": "soon"}, {"max_rounds": 0}, {"queue": 0}]


@pytest.mark.parametrize("more", SETTINGS, ids=str)
def test_a_malformed_setting_is_a_usage_error(db, place, more):
    with nothing_written(db), pytest.raises(relance.UsageError):
        relance.migrate(place, ADD, **more)


def test_an_unknown_argument_is_a_type_error(place):
    with pytest.raises(TypeError):
        relance.migrate(place, ADD, tempo="fast")


def test_a_plan_leaves_no_room_for_changes(db, place):
    plan = relance.plan(place, ADD)
    for more in ({"changes": ADD}, {"to": "other"}):
        with nothing_written(db), pytest.raises(relance.UsageError):
            relance.migrate(place, plan=plan, **more)


OTHERWISE = [{"where": "id < 5"}, {"strategy": "rewrite"}, {"on_bad_value": "null"}, {"rows_per_file": 10}]


@pytest.mark.parametrize("more", OTHERWISE, ids=str)
def test_a_plan_leaves_no_room_for_options_that_change_it(db, place, more):
    plan = relance.plan(place, ADD)
    with nothing_written(db), pytest.raises(relance.UsageError):
        relance.migrate(place, plan=plan, **more)


def test_what_is_no_plan_is_refused(db, place):
    for plan in ("{}", "no json", 7):
        with nothing_written(db), pytest.raises(relance.UsageError):
            relance.migrate(place, plan=plan)


LITERALS = [
    ("int64", "x"), ("int8", 300), ("uint8", -1), ("int64", 1.5), ("int64", 2**63), ("int64", ""), ("bool", "maybe"),
    ("date32", "2026-13-01"), ("timestamp[us]", "yesterday"), ("timestamp[us]", "NaT"), ("time32[s]", "25:00:00"),
    ("decimal128(4, 2)", 123.45), ("fixed_size_binary[4]", b"12345"), ("fixed_size_list<item: float>[8]", [1.0]),
    ("struct<a: int64>", {"b": 1}), ("list<item: int64>", ["x"]), ("list<item: int64>", 7), ("uuid", "x"),
    ("json", "{"), ("duration[s]", dt.timedelta(milliseconds=1)), ("int64", dt.timedelta(1)),
]


@pytest.mark.parametrize("kind, value", LITERALS, ids=[f"{value!r} in {kind}" for kind, value in LITERALS])
def test_a_value_that_does_not_fit_its_column_is_a_usage_error(db, place, kind, value):
    with nothing_written(db), pytest.raises(relance.UsageError, match="new"):
        relance.migrate(place, relance.add("new", kind, default=value))


NO_VALUES = [object(), 1j, {1, 2}, print, pd.DataFrame({"a": [1]}), b"\xff"]


@pytest.mark.parametrize("value", NO_VALUES, ids=lambda one: type(one).__name__)
def test_what_is_no_value_is_a_usage_error(value):
    with pytest.raises(relance.UsageError, match="new"):
        relance.add("new", "string", default=value)
    with pytest.raises(relance.UsageError, match="new"):
        relance.add("new", "list<item: string>", default=[value])


def test_null_is_no_value_to_fill_with():
    with pytest.raises(relance.UsageError, match="text"):
        relance.fill("text", None)


# Tables that are none


def fake(name: str, module: str):
    return type(name, (), {"__module__": module})()


STRANGERS = {
    "a number": 7,
    "nothing": None,
    "a data frame": pd.DataFrame({"id": [1]}),
    "an arrow table": documents(0, 1),
    "a list": ["db", "documents"],
    "a pair of numbers": (1, 2),
    "a pair without a name": ("db", None),
    "three": ("db", "documents", "more"),
    "a class": relance.Job,
    "an uri without an end": "db/documents",
    "an end without a name": "db/.lance",
    "an empty text": "",
    "a cloud": ("db://mine", "documents"),
    "a cloud's uri": "db://mine/documents.lance",
    "memory": ("memory://", "documents"),
    "a remote table": fake("RemoteTable", "lancedb.remote.table"),
    "a remote connection": (fake("RemoteDBConnection", "lancedb.remote.db"), "documents"),
    "something of lancedb": fake("Permutation", "lancedb.permutation"),
    "a pair of a data frame": (pd.DataFrame(), "documents"),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_what_is_no_table_is_a_usage_error(what):
    for call in (relance.status, relance.resume):
        with pytest.raises(relance.UsageError):
            call(STRANGERS[what])


def test_a_connection_alone_is_no_table(db):
    with pytest.raises(relance.UsageError, match="name"):
        relance.plan(lancedb.connect(db), ADD)


def test_a_table_in_memory_cannot_be_reached():
    connection = lancedb.connect("memory://")
    table = connection.create_table("documents", documents(0, 1))
    for one in (table, (connection, "documents")):
        with pytest.raises(relance.UsageError, match="memory"):
            relance.plan(one, ADD)


def test_a_connection_to_the_cloud_cannot_be_reached():
    connection = lancedb.connect("db://mine", api_key="sk_none", region="us-east-1")
    for one in (connection, (connection, "documents")):
        with pytest.raises(relance.UsageError, match="Cloud"):
            relance.status(one)


def test_async_tables_and_closed_connections_are_usage_errors(db):
    async def life():
        connection = await lancedb.connect_async(db)
        table = await connection.open_table("documents")
        with pytest.raises(relance.UsageError, match="connection, name"):
            await relance.plan_async(table, ADD)
        assert (await relance.plan_async((connection, "documents"), ADD)).rows == 500
        connection.close()
        with pytest.raises(relance.UsageError, match="closed"):
            await relance.plan_async((connection, "documents"), ADD)

    asyncio.run(life())


def test_a_table_that_is_not_there(db):
    for call in (relance.status, relance.resume, relance.abort, relance.rollback, relance.finalize, relance.verify):
        with nothing_written(db), pytest.raises(relance.NoTableError, match="nosuch") as caught:
            call((db, "nosuch"))
        assert isinstance(caught.value, LookupError) and caught.value.exit_code == 1 and caught.value.kind == "no-table"
    for call in (relance.plan, relance.migrate, relance.tune):
        with nothing_written(db), pytest.raises(relance.NoTableError):
            call((db, "nosuch"), ADD)


def test_a_database_that_is_not_there(tmp_path):
    with pytest.raises(relance.RelanceError):
        relance.migrate((tmp_path / "nosuch", "documents"), ADD)
    assert not (tmp_path / "nosuch").exists()


# Tables that do not allow it


def test_values_that_do_not_go_through_are_refused_and_shown(db, place):
    opened(db).update(where="id <> 7", values={"text": "12"})
    for call in (relance.plan, relance.migrate):
        with nothing_written(db), pytest.raises(relance.RefusedError) as caught:
            call(place, relance.cast("text", "int64"))
        error = caught.value
        (finding,) = error.findings
        assert (finding.column, finding.problem, finding.count) == ("text", "not-a-value", 1)
        assert [example.value for example in finding.examples] == ["'text 7'"]
        assert (error.kind, error.exit_code, error.version) == ("refused", 3, None)
        assert "text 7" in error.message == str(error)


def test_examples_name_the_rows(db, place):
    opened(db).update(where="id % 100 = 7", values={"text": None})
    with pytest.raises(relance.RefusedError) as caught:
        relance.migrate(place, relance.not_null("text"))
    (finding,) = caught.value.findings
    assert (finding.problem, finding.count) == ("null", 5)
    found = opened(db).search().with_row_id(True).where("text is null").to_arrow()
    assert {example.row for example in finding.examples} <= set(found["_rowid"].to_pylist())


@pytest.mark.parametrize("changes", ["drop nosuch", "rename text=price", "add text:int64=1", "cast vector:string"])
def test_what_the_table_does_not_allow_is_refused(db, place, changes):
    with nothing_written(db), pytest.raises((relance.RefusedError, relance.UsageError)):
        relance.migrate(place, changes)


def test_an_added_column_that_is_there_is_skipped_or_refused(db, place):
    relance.migrate(place, ADD)
    with nothing_written(db):
        done = relance.migrate(place, ADD)
        assert done.ended == "nothing" and done.plan.skipped
        with pytest.raises(relance.RefusedError):
            relance.migrate(place, ADD, if_exists="error")


def test_a_second_migration_is_locked_out(db, place):
    held = relance.migrate(place, ADD, hold=True).held
    for call in (lambda: relance.migrate(place, relance.drop("text")), lambda: relance.finalize(place)):
        with nothing_written(db), pytest.raises(relance.LockedError) as caught:
            call()
        assert (caught.value.kind, caught.value.exit_code) == ("locked", 6)
    assert staged(place).id == held.id
    relance.abort(place)
    assert relance.migrate(place, ADD).ended == "swapped"


def test_a_migration_that_runs_is_not_taken_over(place):
    job = stuck(place, ADD)
    for call in (relance.resume, relance.abort):
        with pytest.raises(relance.LockedError):
            call(place)
    job.cancel()
    with pytest.raises(relance.MigrationInterruptedError):
        job.wait()


def test_nothing_to_go_on_with_is_a_failure(db, place):
    for call in (relance.resume, relance.abort, relance.rollback, relance.finalize, relance.verify):
        with nothing_written(db), pytest.raises(relance.FailedError) as caught:
            call(place)
        assert (caught.value.kind, caught.value.exit_code, caught.value.findings) == ("failed", 1, [])


# Stops


def test_a_cancelled_migration_is_interrupted(parts):
    db, _ = parts
    before = rows(db)
    with as_it_was(db):
        job = stuck(parts, ADD)
        job.cancel()
        with pytest.raises(relance.MigrationInterruptedError, match="resume") as caught:
            job.wait()
        assert (caught.value.kind, caught.value.exit_code, job.status()) == ("interrupted", 5, "cancelled")
    assert staged(parts).state == "interrupted" and STAGING in tables(db)
    assert relance.resume(parts).ended == "swapped"
    assert rows(db) == [{**row, "category": "general"} for row in before]


class Boom(Exception):
    """What a callback raises."""


def boom(event):
    raise Boom("from the callback")


@pytest.mark.parametrize("go_on", [relance.resume, relance.abort])
def test_what_a_callback_raises_arrives_and_nothing_is_swapped(db, place, go_on):
    with as_it_was(db):
        with pytest.raises(Boom, match="from the callback") as caught:
            relance.migrate(place, ADD, max_rate=STUCK, progress=boom)
        assert staged(place) is None or staged(place).state == "interrupted"
    if staged(place) is not None:
        assert "resume" in notes(caught.value)
        go_on(place)
        assert ("category" in read(db).column_names) == (go_on is relance.resume)
    assert tables(db) == ["documents"]


def test_what_a_callback_raises_while_rows_are_staged_leaves_them_staged(db, place):
    def only_then(event):
        if event.get("phase") == "stage":
            raise Boom

    with as_it_was(db), pytest.raises(Boom) as caught:
        relance.migrate(place, ADD, max_rate=STUCK, progress=only_then)
    assert "resume" in notes(caught.value) and staged(place).state == "interrupted"
    assert relance.resume(place).ended == "swapped"


def test_what_a_callback_raises_arrives_where_it_is_awaited(db, place):
    def only_then(event):
        if event.get("phase") == "stage":
            raise Boom

    with as_it_was(db), pytest.raises(Boom) as caught:
        asyncio.run(relance.migrate_async(place, ADD, max_rate=STUCK, progress=only_then))
    assert "resume" in notes(caught.value) and staged(place).state == "interrupted"
    relance.abort(place)


def late(event):
    if event.get("phase") == "done":
        raise Boom


def awaited(place, changes, **more):
    return asyncio.run(relance.migrate_async(place, changes, **more))


@pytest.mark.parametrize("migrate", [relance.migrate, awaited], ids=["call", "twin"])
def test_what_a_callback_raises_at_the_end_says_that_it_had_finished(db, place, migrate):
    with pytest.raises(Boom) as caught:
        migrate(place, ADD, progress=late)
    assert opened(db).version == 2 and "finished" in notes(caught.value)


def test_a_callback_that_raised_is_not_called_again(place):
    seen = []

    def only_once(event):
        seen.append(event)
        raise Boom

    job = relance.start(place, ADD, max_rate=STUCK, progress=only_once)
    with pytest.raises(Boom):
        job.wait()
    with pytest.raises(relance.MigrationInterruptedError):
        job.wait()
    assert len(seen) == 1


# Damage


def new_files(db, before) -> list:
    found = set(files(db)) - set(before)
    return [Path(db, name) for name in sorted(found) if name.endswith(".lance")]


def damage(path: Path) -> None:
    """Changes bytes in the middle, and keeps the size and the time."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    for at in range(middle - 8, middle + 8):
        data[at] ^= 0xFF
    path.write_bytes(data)


def exchange(paths: list) -> None:
    """Puts each of two files of the same size in the place of the other."""
    sizes = [path.stat().st_size for path in paths]
    first = next(n for n, size in enumerate(sizes) if sizes.count(size) > 1)
    second = sizes.index(sizes[first], first + 1)
    data = [paths[n].read_bytes() for n in (first, second)]
    paths[first].write_bytes(data[1])
    paths[second].write_bytes(data[0])


SHOUT = [relance.set("text", "upper(text)")]


def test_what_was_damaged_while_it_was_held_is_not_swapped(parts):
    db, _ = parts
    before = files(db)
    relance.migrate(parts, SHOUT, hold=True)
    with as_it_was(db):
        damage(new_files(db, before)[0])
        with pytest.raises(relance.MismatchError) as caught:
            relance.resume(parts)
    assert (caught.value.kind, caught.value.exit_code) == ("mismatch", 4)
    relance.abort(parts)
    assert relance.migrate(parts, SHOUT).ended == "swapped"


def test_values_that_are_not_those_of_the_source_are_not_swapped(parts):
    db, _ = parts
    before = files(db)
    relance.migrate(parts, SHOUT, hold=True)
    with as_it_was(db):
        exchange(new_files(db, before))
        with pytest.raises(relance.MismatchError, match="`text`"):
            relance.resume(parts)
    relance.abort(parts)


@pytest.mark.parametrize("how", ["damaged", "exchanged"])
def test_what_happened_to_files_after_the_swap_is_found_by_verify(parts, how):
    db, _ = parts
    before = files(db)
    relance.migrate(parts, SHOUT)
    found = new_files(db, before)
    damage(found[0]) if how == "damaged" else exchange(found)
    with pytest.raises(relance.FailedError if how == "damaged" else relance.MismatchError):
        relance.verify(parts)
    relance.rollback(parts)
    assert [row["text"] for row in rows(db)] == [f"text {n}" for n in range(500)]


# Errors as values


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_a_relance_error_and_can_be_pickled(name):
    kind = getattr(relance, name)
    assert issubclass(kind, relance.RelanceError) and name in relance.__all__
    finding = {"column": "a", "problem": "null", "count": 1, "examples": [{"row": 3, "value": "x"}]}
    error = kind("what happened", {"exit": 9, "findings": [finding], "version": 4})
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind and str(again) == again.message == "what happened"
        assert (again.exit_code, again.version) == (9, 4)
        assert again.findings == error.findings and again.findings[0].examples[0].value == "x"


def test_every_kind_of_the_command_has_its_error():
    kinds = {
        "failed": 1, "no-table": 1, "usage": 2, "refused": 3, "mismatch": 4, "interrupted": 5, "locked": 6,
        "outcome-unknown": 7, "unfinished": 8,
    }
    for kind, exit_code in kinds.items():
        error = error_of({"kind": kind, "message": "m", "exit": exit_code})
        assert (error.kind, error.exit_code, str(error)) == (kind, exit_code, "m")
    assert type(error_of({"kind": "one of a later version", "message": "m", "exit": 1})) is relance.FailedError
    assert error_of({"kind": "unfinished", "message": "m", "exit": 8, "version": 4}).version == 4


ELSEWHERE = """
import pickle, sys, relance
try:
    relance.migrate((sys.argv[1], "documents"), relance.cast("text", "int64"))
except relance.RefusedError as error:
    print(pickle.dumps(error).hex())
"""


def test_errors_arrive_from_other_processes(db):
    error = pickle.loads(bytes.fromhex(run(ELSEWHERE, db)[1]))
    assert type(error) is relance.RefusedError and error.findings[0].count == 500


FORKED = """
import os, sys, relance
place = (sys.argv[1], "documents")
if sys.argv[2] == "used":
    relance.status(place)
child = os.fork()
if child == 0:
    try:
        code = 10 + relance.status(place).version
    except relance.ForkedError as error:
        code = 20 if isinstance(error, RuntimeError) and "spawn" in str(error) else 21
    os._exit(code)
_, how = os.waitpid(child, 0)
relance.status(place)
sys.exit(os.waitstatus_to_exitcode(how))
"""


@pytest.mark.parametrize("when, code", [("used", 20), ("unused", 11)])
def test_a_forked_process_is_told_that_it_cannot_be(db, when, code):
    assert run(FORKED, db, when)[0] == code


# The alarm ends a child that waits for threads that it does not have.
FORKED_MEANWHILE = """
import os, signal, sys, relance
job = relance.start((sys.argv[1], "documents"), "add a:string=b", max_rate=1)
while relance.status((sys.argv[1], "documents")).staged is None:
    pass
child = os.fork()
if child == 0:
    signal.alarm(5)
    if sys.argv[2] == "ends":
        sys.exit(7)
    try:
        job.wait()
    except relance.ForkedError:
        os._exit(7)
_, how = os.waitpid(child, 0)
print(job.status(), flush=True)
job.cancel()
sys.exit(os.waitstatus_to_exitcode(how))
"""


@pytest.mark.parametrize("what", ["ends", "waits"])
def test_a_forked_process_leaves_the_job_alone(db, place, what):
    code, out, err = run(FORKED_MEANWHILE, db, what)
    assert (code, out.split()) == (7, ["running"]), err
    assert relance.resume(place).ended == "swapped"


# Models


class Plain(pydantic.BaseModel):
    id: int


class Raising(LanceModel):
    id: int
    text: str
    tag: str = pydantic.Field(default_factory=lambda: 1 / 0)


class Strange(LanceModel):
    id: int
    text: dict


class Unfit(LanceModel):
    id: int
    count: int = pydantic.Field(default="many")


NO_MODELS = [(Plain, "LanceModel"), (Raising, "tag"), (Strange, "Strange"), (int, "int"), (Unfit, "count")]


@pytest.mark.parametrize("model, said", NO_MODELS)
def test_a_model_that_is_none_is_a_usage_error(db, place, model, said):
    for call in (relance.plan, relance.migrate):
        with nothing_written(db), pytest.raises(relance.UsageError, match=said):
            call(place, to=model)


NO_SCHEMAS = [7, object(), ("db",), Plain(id=1), types, pa.string()]


@pytest.mark.parametrize("to", NO_SCHEMAS, ids=lambda one: type(one).__name__)
def test_what_is_no_schema_is_a_usage_error(db, place, to):
    with nothing_written(db), pytest.raises(relance.UsageError):
        relance.plan(place, to=to)


def test_a_table_of_another_database_is_a_usage_error(db, place, tmp_path):
    make(str(tmp_path / "other"), rows=1)
    with nothing_written(db), pytest.raises(relance.UsageError, match="another database"):
        relance.plan(place, to=(str(tmp_path / "other"), "documents"))


def test_a_schema_that_is_not_there(db, place, tmp_path):
    for to in ("nosuch", tmp_path / "nosuch.parquet", (db, "nosuch")):
        with nothing_written(db), pytest.raises(relance.RelanceError):
            relance.plan(place, to=to)
