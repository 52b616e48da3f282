"""Every call, every way to name a table, and what calls give back."""

import asyncio
import inspect
import json
import pickle
import re
import socket
import subprocess
import sys
import sysconfig
import typing
from pathlib import Path

import lance
import lancedb
import pyarrow as pa
import pytest
import relance
from lancedb.index import BTree
from relance import results
from relance.places import place_of
from support import STAGING, documents, nothing_written, opened, read, rows, staged, tables, until

TWINS = ["plan", "migrate", "resume", "abort", "rollback", "finalize", "verify", "status", "status_all", "tune"]

CHANGES = [
    relance.add("category", "string", default="general"),
    relance.compute("characters", "character_length(text)", type="int32"),
    relance.rename("price", "cost"),
]


def expected(table: pa.Table) -> pa.Table:
    """`table` after CHANGES, by pyarrow."""
    text = table["text"].to_pylist()
    table = table.rename_columns(["cost" if name == "price" else name for name in table.column_names])
    table = table.append_column("category", pa.array(["general"] * len(table)))
    return table.append_column("characters", pa.array([len(one) for one in text], pa.int32()))


def same(left: pa.Table, right: pa.Table) -> bool:
    return left.to_pylist() == right.to_pylist() and left.schema.types == right.schema.types


# The life of a migration


def test_a_plan_writes_nothing(db, place):
    with nothing_written(db):
        plan = relance.plan(place, CHANGES)
    assert (plan.table, plan.version, plan.strategy, plan.rows, plan.fragments) == ("documents", 1, "columns", 500, 1)
    assert plan.changes == [str(one) for one in CHANGES]
    names = ["id", "text", "vector", "cost", "meta", "category", "characters"]
    assert [field.name for field in plan.schema_after] == names
    assert plan.write_bytes > 0 and plan.bad_values == [] and plan.lost == []


def test_a_plan_shows_itself(place):
    plan = relance.plan(place, [*CHANGES, relance.add("<b>", "string")])
    assert "category" in str(plan) and str(plan) == str(plan).rstrip()
    page = plan._repr_html_()
    assert "<table>" in page and "category" in page and "&lt;b&gt;" in page and "<td><b></td>" not in page


def test_migrate_changes_every_row(db, place):
    before = read(db)
    done = relance.migrate(place, CHANGES)
    assert (done.ended, done.held, done.plan) == ("swapped", None, None)
    report = done.report
    assert (report.version_before, report.version_swapped, report.rows, report.verified) == (1, 2, 500, "full")
    assert same(read(db), expected(before))
    assert tables(db) == ["documents"]


def test_a_plan_is_carried_out_as_it_was_shown(db, place):
    before = read(db)
    plan = relance.plan(place, CHANGES)
    assert relance.migrate(place, plan=plan).report.changes == plan.changes
    assert same(read(db), expected(before))


def test_a_plan_can_be_saved_as_a_text(db, place):
    saved = relance.plan(place, CHANGES).saved
    assert isinstance(saved, str) and json.loads(saved)
    assert relance.migrate(place, plan=saved).ended == "swapped"


def test_a_plan_of_a_table_that_changed_since_is_not_carried_out(db, place):
    plan = relance.plan(place, [relance.drop("price")])
    opened(db).drop_columns(["text"])
    with pytest.raises(relance.RefusedError):
        relance.migrate(place, plan=plan)
    assert "price" in read(db).column_names


def test_a_held_migration_is_swapped_by_resume(db, place):
    before = read(db)
    done = relance.migrate(place, CHANGES, hold=True)
    assert (done.ended, done.report, done.held.rows, done.held.taken_over) == ("held", None, 500, False)
    assert read(db) == before
    status = relance.status(place)
    assert (status.staged.state, status.staged.id) == ("held", done.held.id)
    assert STAGING in tables(db)
    resumed = relance.resume(place)
    assert (resumed.ended, resumed.report.id) == ("swapped", done.held.id)
    assert same(read(db), expected(before))
    assert staged(place) is None and tables(db) == ["documents"]


def test_a_migration_that_waits_is_swapped_by_resume(db, place):
    job = relance.start(place, CHANGES, hold="wait")
    until(lambda: (one := staged(place)) and one.state == "held", "holding")
    assert job.status() == "running"
    assert relance.resume(place).ended == "swapped"
    done = job.wait()
    assert (done.ended, done.held.taken_over) == ("held", True)


def test_abort_drops_what_is_staged(db, place):
    before = read(db)
    held = relance.migrate(place, CHANGES, hold=True).held
    aborted = relance.abort(place)
    assert (aborted.table, aborted.id, aborted.left) == ("documents", held.id, [])
    assert aborted.files > 0 and aborted.bytes > 0
    assert read(db) == before and opened(db).version == 1
    assert staged(place) is None and tables(db) == ["documents"]


def test_rollback_puts_the_version_before_back(db, place):
    before = read(db)
    report = relance.migrate(place, CHANGES).report
    back = relance.rollback(place)
    assert (back.id, back.restored, back.discarded_commits, back.kept_commits) == (report.id, 1, 0, 0)
    assert back.version == opened(db).version == 3
    assert read(db) == before


def test_rollback_refuses_when_others_wrote_since(db, place):
    relance.migrate(place, CHANGES)
    opened(db).delete("id = 7")
    with pytest.raises(relance.RefusedError):
        relance.rollback(place)
    assert "category" in read(db).column_names


def test_rollback_discards_writes_if_it_is_told_to(db, place):
    before = read(db)
    relance.migrate(place, CHANGES)
    opened(db).delete("id = 7")
    back = relance.rollback(place, discard_writes=True)
    assert (back.discarded_commits, back.kept_commits) == (1, 0)
    assert read(db) == before


def test_rollback_keeps_writes_if_it_is_told_to(db, place):
    before = rows(db)
    relance.migrate(place, CHANGES)
    opened(db).delete("id = 7")
    back = relance.rollback(place, keep_writes=True)
    assert (back.discarded_commits, back.kept_commits) == (0, 1)
    assert rows(db) == [row for row in before if row["id"] != 7]


def test_rollback_does_not_keep_and_discard_at_once(db, place):
    relance.migrate(place, CHANGES)
    with nothing_written(db), pytest.raises(relance.UsageError):
        relance.rollback(place, keep_writes=True, discard_writes=True)


def test_finalize_gives_up_the_way_back(db, place):
    before = read(db)
    relance.migrate(place, CHANGES, rows_per_file=100)
    gone = relance.finalize(place)
    assert (gone.version, gone.rolled_back, gone.kept) == (1, False, [])
    assert gone.files > 0 and gone.bytes > 0
    with pytest.raises(relance.FailedError):
        relance.rollback(place)
    assert same(read(db), expected(before))


def test_finalize_removes_history_if_it_is_told_to(db, place):
    opened(db).delete("id = 7")
    opened(db).delete("id = 8")
    relance.migrate(place, CHANGES)
    relance.finalize(place, history=True)
    assert [one["version"] for one in opened(db).list_versions()] == [4]
    assert len(rows(db)) == 498


def test_finalize_tells_of_versions_that_history_would_remove(db, place):
    opened(db).delete("id = 7")
    relance.migrate(place, CHANGES)
    assert relance.finalize(place).older_versions == 1
    assert [one["version"] for one in opened(db).list_versions()] == [1, 3]


def test_verify_compares_every_value(db, place):
    report = relance.migrate(place, CHANGES).report
    with nothing_written(db):
        verified = relance.verify(place)
    assert (verified.id, verified.before, verified.swapped, verified.rows) == (report.id, 1, 2, 500)
    assert {"category", "characters", "cost"} <= {column.column for column in verified.columns}
    assert all(column.digest for column in verified.columns)


def test_status_of_a_table_tells_where_it_can_go_back_to(db, place):
    with nothing_written(db):
        assert relance.status(place).to_dict()["rollback_points"] == []
    report = relance.migrate(place, CHANGES).report
    opened(db).add(documents(900, 1).rename_columns({"price": "cost"}))
    status = relance.status(place)
    assert (status.table, status.version, status.staged, status.pins) == ("documents", 3, None, [])
    (point,) = status.rollback_points
    assert (point.id, point.version, point.swapped, point.commits_since) == (report.id, 1, 2, 1)
    nulls = {null.column: null for null in point.nulls}
    assert nulls["category"].rows == 1 and "general" in nulls["category"].fill


def test_status_of_a_database_has_every_table(db, place):
    lancedb.connect(db).create_table("people", pa.table({"id": [1]}))
    relance.migrate(place, CHANGES)
    with nothing_written(db):
        status = relance.status_all(db)
    assert isinstance(status, results.Status)
    found = {one.table: (one.version, len(one.rollback_points)) for one in status.tables}
    assert found == {"documents": (2, 1), "people": (1, 0)}


def test_status_of_a_database_shows_a_broken_table_beside_the_others(db):
    broken = Path(db, "broken.lance", "_versions")
    broken.mkdir(parents=True)
    (broken / "18446744073709551614.manifest").write_bytes(b"this is no manifest")
    told = {one.table: one for one in relance.status_all(db).tables}
    assert isinstance(told["documents"], results.TableStatus)
    assert isinstance(told["broken"], results.TableUnknown) and told["broken"].error.message


@pytest.mark.parametrize("of", [str, Path, lancedb.connect], ids=["text", "path", "connection"])
def test_status_takes_a_database_in_each_form(db, of):
    assert [one.table for one in relance.status_all(of(db)).tables] == ["documents"]


def test_tune_says_which_settings_to_use(db, place):
    before = opened(db).version
    tuned = relance.tune(place, CHANGES, time="2s")
    assert (tuned.table, opened(db).version, staged(place)) == ("documents", before, None)
    assert tuned.best in tuned.trials and tuned.best.workers >= 1
    assert "--batch-size" in tuned.flags
    assert tables(db) == ["documents"]


# What is asked for


def test_the_texts_of_the_command_are_changes(db, place):
    compute = "--compute 'characters:int32=character_length(text)'"
    texts = ["add category:string=general", compute, "rename price=cost"]
    before = read(db)
    assert relance.plan(place, texts).changes == relance.plan(place, CHANGES).changes
    relance.migrate(place, texts)
    assert same(read(db), expected(before))


def test_one_change_needs_no_list(db, place):
    assert relance.plan(place, "drop price").changes == ["drop price"]
    assert relance.plan(place, relance.drop("price")).changes == ["drop price"]
    lazily = (relance.drop(name) for name in ["price", "text"])
    assert relance.plan(place, lazily).changes == ["drop price", "drop text"]


def test_changes_are_applied_in_their_order(db, place):
    relance.migrate(place, [relance.rename("text", "body"), relance.set("body", "upper(body)"), "add text:string=new"])
    assert [(row["body"], row["text"]) for row in rows(db)] == [(f"TEXT {n}", "new") for n in range(500)]


def test_every_kind_of_change(db, place):
    opened(db).update(where="id % 2 = 0", values={"text": None})
    changes = [
        relance.add("meta.lang", "string", default="en"),
        relance.add("later", "timestamp[us]"),
        relance.compute("total", "price * 2", type=pa.float32()),
        relance.cast("id", pa.int32()),
        relance.set("price", "price + 1"),
        relance.fill("text", "none"),
        relance.not_null("text"),
        relance.drop("meta.a"),
        relance.rename("meta.b", "c"),
    ]
    relance.migrate(place, changes)
    table = read(db)
    assert table.schema.field("id").type == pa.int32() and not table.schema.field("text").nullable
    for n, row in enumerate(table.to_pylist()):
        assert row["meta"] == {"c": f"b{n}", "lang": "en"}
        assert row["later"] is None and row["total"] == n / 2 and row["price"] == n / 4 + 1
        assert row["text"] == ("none" if n % 2 == 0 else f"text {n}")
    relance.migrate(place, relance.nullable("text"))
    assert read(db).schema.field("text").nullable


def test_changes_are_values():
    assert relance.add("a", "string", default="b") == relance.Change("add a:string=b")
    assert len({relance.drop("a"), relance.Change("drop a"), relance.Change("--drop=a")}) == 1
    assert relance.drop("a") != relance.drop("b") and relance.drop("a") != "drop a"
    assert repr(relance.drop("a")) == "relance.Change('drop a')" and str(relance.drop("a")) == "drop a"
    assert pickle.loads(pickle.dumps(relance.drop("a"))) == relance.drop("a")


def test_where_leaves_rows_behind(db, place):
    report = relance.migrate(place, CHANGES, where="id < 100").report
    assert report.strategy == "rewrite"
    assert [row["id"] for row in rows(db)] == list(range(100))


def test_rows_per_file_and_storage_version_write_every_row_anew(db, place):
    relance.migrate(place, rows_per_file=100, storage_version="2.1")
    assert len(lance.dataset(f"{db}/documents.lance").get_fragments()) == 5
    assert [row["id"] for row in rows(db)] == list(range(500))


def test_a_strategy_can_be_named(db, place):
    assert relance.migrate(place, CHANGES, strategy="rewrite").report.strategy == "rewrite"


def test_bad_values_become_null_if_it_is_told_to(db, place):
    opened(db).update(where="id <> 7", values={"text": "12"})
    report = relance.migrate(place, relance.cast("text", "int64"), on_bad_value="null").report
    assert [(one.column, one.count) for one in report.values_nulled] == [("text", 1)]
    assert [row["text"] for row in rows(db)] == [None if n == 7 else 12 for n in range(500)]


def test_bad_values_are_quarantined_if_it_is_told_to(db, place):
    opened(db).update(where="id <> 7", values={"text": "12"})
    relance.migrate(place, relance.cast("text", "int64"), on_bad_value="quarantine")
    (kept,) = opened(db, "documents__relance_quarantine").to_arrow().to_pylist()
    assert (kept["id"], kept["text"]) == (7, "text 7")


def test_an_index_is_given_up_by_name(db, place):
    opened(db).create_index("text", config=BTree())
    (name,) = [index.name for index in opened(db).list_indices()]
    with pytest.raises(relance.RefusedError):
        relance.migrate(place, relance.drop("text"))
    assert relance.migrate(place, relance.drop("text"), drop_index=name).report.indices_dropped == [name]
    assert list(opened(db).list_indices()) == []


def test_settings_are_numbers_or_texts(db, place):
    more = {"workers": 1, "memory": 64 << 20, "batch_size": 100, "queue": 2, "max_rounds": 5, "cutover_timeout": 60}
    assert relance.migrate(place, CHANGES, verify="quick", **more).report.verified == "quick"
    texts = {"memory": "64MiB", "batch_size": "1MiB", "max_rate": "50MB", "cutover_timeout": "5m"}
    assert relance.migrate(place, relance.drop("category"), verify="full=read", **texts).report.verified == "full=read"


def test_storage_options_are_texts_for_the_engine(db, place):
    assert relance.plan(place, CHANGES, storage_options={"timeout": 30}).rows == 500


def test_a_store_that_does_not_answer_is_waited_for_as_long_as_is_said():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        options = {"aws_endpoint": address, "aws_region": "us-east-1", "allow_http": "true", "aws_access_key_id": "a"}
        with pytest.raises(relance.FailedError, match="waited for 1 s"):
            relance.status(("s3://bucket/db", "documents"), storage_options={**options, "aws_secret_access_key": "b"}, store_timeout=1)
    with pytest.raises(relance.UsageError, match="soon"):
        relance.status(("s3://bucket/db", "documents"), store_timeout="soon")


def test_storage_options_of_a_connection_are_taken_over_and_can_be_overridden(db):
    connection = lancedb.connect(db, storage_options={"timeout": "30", "secret": "hush"})
    table = connection.open_table("documents")
    dataset = lance.dataset(f"{db}/documents.lance", storage_options={"timeout": "30", "secret": "hush"})
    for one in (table, (connection, "documents"), dataset):
        found = place_of(one, {"timeout": 60})
        assert (found.table, found.storage_options) == ("documents", {"timeout": "60", "secret": "hush"})
        assert "hush" not in repr(found)
        assert relance.plan(one, CHANGES).rows == 500


# How a table is named


FORMS = {
    "database and name": lambda db: (db, "documents"),
    "path and name": lambda db: (Path(db), "documents"),
    "table": opened,
    "connection and name": lambda db: (lancedb.connect(db), "documents"),
    "table of a path": lambda db: lancedb.connect(Path(db)).open_table("documents"),
    "uri": lambda db: f"{db}/documents.lance",
    "uri with a slash": lambda db: f"{db}/documents.lance/",
    "file uri": lambda db: f"{Path(db).as_uri()}/documents.lance",
    "path": lambda db: Path(db, "documents.lance"),
    "dataset": lambda db: lance.dataset(f"{db}/documents.lance"),
    "dataset of a path": lambda db: lance.dataset(Path(db, "documents.lance")),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_named_in_each_form(db, form):
    table = FORMS[form](db)
    assert relance.plan(table, CHANGES).table == "documents"
    assert relance.migrate(table, CHANGES).report.version_swapped == 2
    assert relance.status(table).version == 2
    assert relance.rollback(table).restored == 1
    assert [row["id"] for row in rows(db)] == list(range(500))


def test_a_relative_path_is_one_of_the_working_directory(db, monkeypatch):
    monkeypatch.chdir(db)
    assert relance.plan("documents.lance", CHANGES).rows == 500
    assert relance.plan((".", "documents"), CHANGES).rows == 500
    assert relance.plan(Path("documents.lance"), CHANGES).rows == 500


def test_a_database_in_the_home_directory_is_named_as_for_lancedb(db, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(db).parent))
    table = lancedb.connect("~/db").open_table("documents")
    assert relance.plan(table, CHANGES).rows == 500


@pytest.mark.parametrize("name", ["a-b", "a.b", "_1", "documents.lance.old"])
def test_a_table_with_an_unusual_name(tmp_path, name):
    db = str(tmp_path)
    table = lancedb.connect(db).create_table(name, documents(0, 3))
    assert relance.migrate(table, relance.drop("price")).ended == "swapped"
    assert relance.status((db, name)).version == 2


def test_an_async_connection_names_a_table(db):
    async def life():
        connection = await lancedb.connect_async(db)
        done = await relance.migrate_async((connection, "documents"), CHANGES)
        status = await relance.status_all_async(connection)
        return done, status

    done, status = asyncio.run(life())
    assert done.ended == "swapped" and [one.version for one in status.tables] == [2]


# Twins


def test_every_call_has_an_async_twin(db, place):
    before = read(db)

    async def life():
        plan = await relance.plan_async(place, CHANGES)
        held = await relance.migrate_async(place, plan=plan, hold=True)
        status = await relance.status_async(place)
        aborted = await relance.abort_async(place)
        again = await relance.migrate_async(place, CHANGES, hold=True)
        swapped = await relance.resume_async(place)
        verified = await relance.verify_async(place)
        back = await relance.rollback_async(place)
        gone = await relance.finalize_async(place)
        tuned = await relance.tune_async(place, CHANGES, time="1s")
        return plan, held, status, aborted, again, swapped, verified, back, gone, tuned

    plan, held, status, aborted, again, swapped, verified, back, gone, tuned = asyncio.run(life())
    assert plan.rows == 500 and status.staged.state == "held"
    assert (held.ended, again.ended, swapped.ended) == ("held", "held", "swapped")
    assert (aborted.id, verified.id) == (held.held.id, again.held.id)
    assert back.restored == 1 and gone.rolled_back and tuned.trials
    assert read(db) == before


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_same_arguments_and_documentation(name):
    call, twin = getattr(relance, name), getattr(relance, f"{name}_async")
    assert inspect.iscoroutinefunction(twin) and not inspect.iscoroutinefunction(call)
    assert inspect.signature(call).parameters == inspect.signature(twin).parameters
    assert call.__doc__ == twin.__doc__ and call.__doc__
    assert (call.__name__, twin.__name__) == (name, f"{name}_async")
    assert {name, f"{name}_async"} <= set(relance.__all__)


@pytest.mark.parametrize("name", TWINS)
def test_signatures_tell_what_calls_give(name):
    for call in (getattr(relance, name), getattr(relance, f"{name}_async")):
        assert "Job" not in str(inspect.signature(call).return_annotation)


def test_everything_public_is_there_and_documented():
    for name in relance.__all__:
        assert getattr(relance, name) is not None
        assert name in ("__version__",) or getattr(relance, name).__doc__


# What is given back

GUIDE = Path(__file__).parents[2] / "src" / "guide" / "json.md"
SCHEMA = json.loads(re.search(r'```json\n(\{\s*"\$schema".*?)```', GUIDE.read_text(), re.S).group(1))

CLASSES = {
    "plan": results.Plan,
    "report": results.Report,
    "held": results.Held,
    "abort": results.Aborted,
    "table_status": results.TableStatus,
    "table_unknown": results.TableUnknown,
    "staged": results.Staged,
    "rollback_point": results.RollbackPoint,
    "run_figures": results.RunFigures,
    "verify": results.Verified,
    "rollback": results.RolledBack,
    "finalize": results.Finalized,
    "trial": results.Trial,
    "tune": results.Tuned,
    "finding": results.Finding,
    "nulled": results.Nulled,
    "skipped_values": results.SkippedValues,
    "field": results.Field,
    "status": results.Status,
    "store_estimate": results.StoreEstimate,
    "store_figures": results.StoreFigures,
    "phase_figures": results.PhaseFigures,
}

PARTS = {
    ("plan", "change_details"): results.ChangeDetail,
    ("plan", "other_strategies"): results.StrategyCost,
    ("plan", "chunks"): results.Chunk,
    ("plan", "indices"): results.Index,
    ("report", "seconds"): results.PhaseSeconds,
    ("rollback_point", "nulls"): results.Nulls,
    ("table_status", "pins"): results.Pin,
    ("verify", "columns"): results.ColumnDigest,
    ("finalize", "kept"): results.KeptVersion,
    ("finding", "examples"): results.Example,
}


def hints(kind) -> set:
    return set(typing.get_type_hints(kind))


@pytest.mark.parametrize("name", CLASSES)
def test_fields_are_those_of_the_json(name):
    assert hints(CLASSES[name]) == set(SCHEMA["$defs"][name]["required"]) - {"json_version"}


@pytest.mark.parametrize("name, part", PARTS)
def test_fields_of_parts_are_those_of_the_json(name, part):
    items = SCHEMA["$defs"][name]["properties"][part]["items"]
    assert hints(PARTS[name, part]) == set(items["required"])


def test_a_migration_has_the_fields_of_the_json():
    assert hints(results.Migrated) == set(SCHEMA["$defs"]["migrate"]["properties"]) - {"json_version", "time"}


def valid(name: str, record) -> bool:
    jsonschema = pytest.importorskip("jsonschema")
    data = record if isinstance(record, dict) else {"json_version": 1, **record.to_dict()}
    schema = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{name}"}
    return jsonschema.Draft202012Validator(schema).is_valid(data)


def test_results_are_valid_json(db, place):
    events = []
    assert valid("plan", relance.plan(place, CHANGES))
    assert valid("migrate", relance.migrate(place, CHANGES, hold=True, progress=events.append))
    assert valid("table_status", relance.status(place)) and valid("status", relance.status_all(db))
    assert valid("abort", relance.abort(place))
    assert valid("migrate", relance.migrate(place, CHANGES, progress=events.append))
    assert valid("verify", relance.verify(place)) and valid("table_status", relance.status(place))
    assert valid("rollback", relance.rollback(place)) and valid("finalize", relance.finalize(place))
    assert valid("tune", relance.tune(place, CHANGES, time="1s"))
    assert events and all(valid(f"{event['event']}_event", event) for event in events)


def test_results_can_be_compared_pickled_and_shown(place):
    plan = relance.plan(place, CHANGES)
    status = relance.status(place)
    assert status == relance.status(place) and status != plan
    for one in (plan, status):
        again = pickle.loads(pickle.dumps(one))
        assert again == one and again.to_dict() == one.to_dict() and str(again) == str(one)
        assert json.loads(one.to_json()) == one.to_dict()
    assert repr(status).startswith("TableStatus(table='documents', version=1")
    assert pickle.loads(pickle.dumps(plan)).saved == plan.saved


# The command


SCRIPT = str(Path(sysconfig.get_path("scripts"), "relance"))


@pytest.mark.parametrize("words", [[sys.executable, "-m", "relance"], [SCRIPT]], ids=["module", "script"])
def test_the_command_is_installed(db, place, words):
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["relance", relance.__version__])
    done = subprocess.run([*words, "status", db, "documents", "--json"], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["tables"] == [relance.status(place).to_dict()]
    done = subprocess.run([*words, "status", db, "nosuch", "--json"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (1, "no-table")
    done = subprocess.run([*words, "nosuch"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Usage" in done.stderr


def test_what_the_command_held_python_resumes(db, place):
    words = [sys.executable, "-m", "relance", "migrate", db, "documents", "--drop", "price", "--hold", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["ended"] == "held"
    assert relance.resume(place).ended == "swapped"
    assert "price" not in read(db).column_names
