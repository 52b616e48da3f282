"""Values of Python, numpy and pyarrow as defaults; types; names."""

import copy
import datetime as dt
import decimal
import enum
import json
import uuid
import zoneinfo

import lancedb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import relance
from support import WIDTH, read

ROWS = 3
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
TWO_EAST = dt.timezone(dt.timedelta(hours=2))
ID = uuid.UUID("12345678-1234-5678-9abc-def012345678")
NAIVE = dt.datetime(2026, 1, 2, 3, 4, 5, 678901)
TWICE = dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)
UTC = NAIVE.replace(tzinfo=dt.timezone.utc)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str, enum.Enum):
    YES = "yes"


@pytest.fixture
def db(tmp_path) -> str:
    lancedb.connect(tmp_path).create_table("documents", pa.table({"id": range(ROWS), "text": ["a", None, "c"]}))
    return str(tmp_path)


def added(db, kind, value) -> pa.Array:
    """What a new column holds in all rows, read by lancedb."""
    relance.migrate((db, "documents"), relance.add("new", kind, default=value))
    return read(db)["new"].combine_chunks()


def equal(found: pa.Array, wanted: pa.Array) -> bool:
    """Whether they are equal; NaN is, zero and minus zero are not."""
    stored = {pa.binary_view(): pa.binary(), pa.string_view(): pa.string()}
    values = [[repr(one) for one in array.to_pylist()] for array in (found, wanted)]
    return found.type == stored.get(wanted.type, wanted.type) and values[0] == values[1]


INT64 = pa.int64()
FLOAT = pa.float64()
MICROS = pa.timestamp("us")
STRUCT = pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.list_(pa.string()))]))])

# Name, type, value; what is wanted is what pyarrow makes of the value, or what comes fourth.
VALUES = [
    ("text", pa.string(), "general"),
    ("empty text", pa.string(), ""),
    ("text with spaces", pa.string(), "  a b  "),
    ("text with signs", pa.string(), "a=b:c 'd' \"e\" `f` \\x00 {} [1] -- ;"),
    ("text with line ends", pa.string(), "a\nb\r\n\tc"),
    ("text of all the world", pa.string(), "ä 漢字 🎉 \u202e \x00"),
    ("text that reads null", pa.string(), "null"),
    ("large text", pa.large_string(), "general"),
    ("long text", pa.string(), "x" * 100_000),
    ("int", INT64, 7),
    ("greatest int", INT64, 2**63 - 1),
    ("least int", INT64, -(2**63)),
    ("unsigned int", pa.uint64(), 2**64 - 1),
    ("small int", pa.int8(), -128),
    ("int in a float", FLOAT, 3),
    ("float", FLOAT, 0.1),
    ("float with an exponent", FLOAT, 1.5e300),
    ("least float", FLOAT, 5e-324),
    ("minus zero", FLOAT, -0.0),
    ("nan", FLOAT, float("nan")),
    ("inf", FLOAT, float("inf")),
    ("minus inf", FLOAT, float("-inf")),
    ("float32", pa.float32(), 0.1),
    ("float32 nan", pa.float32(), float("nan")),
    ("half float", pa.float16(), np.float16(1.5)),
    ("true", pa.bool_(), True),
    ("false", pa.bool_(), False),
    ("decimal", pa.decimal128(10, 2), decimal.Decimal("12.50")),
    ("decimal with an exponent", pa.decimal128(10, 2), decimal.Decimal("1E+3")),
    ("least decimal", pa.decimal128(38, 10), decimal.Decimal("-1E-10")),
    ("large decimal", pa.decimal256(60, 2), decimal.Decimal(10**50)),
    ("int in a decimal", pa.decimal128(10, 2), 12),
    ("naive time", MICROS, NAIVE),
    ("naive time in seconds", pa.timestamp("s"), NAIVE.replace(microsecond=0)),
    ("naive time in nanoseconds", pa.timestamp("ns"), NAIVE),
    ("time before 1970", MICROS, dt.datetime(1677, 1, 1, 0, 0, 0, 1)),
    ("first time", MICROS, dt.datetime.min),
    ("last time", MICROS, dt.datetime.max),
    ("time in utc", pa.timestamp("us", "UTC"), UTC),
    ("time elsewhere in utc", pa.timestamp("us", "UTC"), NAIVE.replace(tzinfo=TWO_EAST)),
    ("time in a zone", pa.timestamp("us", "Europe/Berlin"), NAIVE.replace(tzinfo=BERLIN)),
    ("time in two zones", pa.timestamp("us", "Europe/Berlin"), UTC),
    ("second of two equal times", pa.timestamp("us", "Europe/Berlin"), TWICE),
    ("naive time in a column of utc", pa.timestamp("us", "UTC"), NAIVE),
    ("date", pa.date32(), dt.date(2026, 1, 2)),
    ("date64", pa.date64(), dt.date(2026, 1, 2)),
    ("date in a column of times", MICROS, dt.date(2026, 1, 2), dt.datetime(2026, 1, 2)),
    ("time of day", pa.time64("us"), dt.time(3, 4, 5, 678901)),
    ("time of day in seconds", pa.time32("s"), dt.time(3, 4, 5)),
    ("time of day in milliseconds", pa.time32("ms"), dt.time(3, 4, 5, 678000)),
    ("time of day in nanoseconds", pa.time64("ns"), dt.time(3, 4, 5, 678901)),
    ("span", pa.duration("us"), dt.timedelta(days=1, microseconds=1)),
    ("span in seconds", pa.duration("s"), dt.timedelta(hours=1)),
    ("span in nanoseconds", pa.duration("ns"), dt.timedelta(microseconds=1)),
    ("span backwards", pa.duration("ms"), dt.timedelta(milliseconds=-1)),
    ("int in a duration", pa.duration("s"), 90),
    ("bytes", pa.binary(), b"\x00\xff\\x"),
    ("no bytes", pa.binary(), b""),
    ("bytes that read as hex", pa.binary(), b"\\x00"),
    ("large bytes", pa.large_binary(), b"\x80"),
    ("bytes in a view", pa.binary_view(), b"\xff"),
    ("text in a view", pa.string_view(), "general"),
    ("bytes of fixed size", pa.binary(4), b"\x00\xff\x80a"),
    ("bytearray", pa.binary(), bytearray(b"\xff"), b"\xff"),
    ("memoryview", pa.binary(), memoryview(b"\xff"), b"\xff"),
    ("bytes in a text", pa.string(), "ä".encode(), "ä"),
    ("uuid in a text", pa.string(), ID, str(ID)),
    ("uuid in bytes", pa.binary(16), ID, ID.bytes),
    ("list", pa.list_(INT64), [1, 2, 3]),
    ("list with nulls", pa.list_(INT64), [1, None]),
    ("empty list", pa.list_(INT64), []),
    ("tuple", pa.list_(INT64), (1, 2), [1, 2]),
    ("list of texts", pa.list_(pa.string()), ["a", "1", "", "null", "ä\n\"'", "\\"]),
    ("list of bools", pa.list_(pa.bool_()), [True, False]),
    ("list of floats", pa.list_(FLOAT), [0.1, float("nan"), float("-inf")]),
    ("list of ints beyond 2**53", pa.list_(INT64), [2**63 - 1]),
    ("list of dates", pa.list_(pa.date32()), [dt.date(2026, 1, 2)]),
    ("list of times", pa.list_(MICROS), [NAIVE]),
    ("list of decimals", pa.list_(pa.decimal128(10, 2)), [decimal.Decimal("1.50")]),
    ("list of spans", pa.list_(pa.duration("us")), [dt.timedelta(seconds=1)]),
    ("list of bytes", pa.list_(pa.binary()), [b"ab"]),
    ("list of lists", pa.list_(pa.list_(INT64)), [[1], [], [2, 3]]),
    ("large list", pa.large_list(INT64), [1, 2]),
    ("vector", pa.list_(pa.float32(), WIDTH), [0.5] * WIDTH),
    ("dict", STRUCT, {"a": 1, "b": {"c": ["x", "y"]}}),
    ("dict with nulls", STRUCT, {"a": None, "b": {"c": None}}),
    ("dict without a field", STRUCT, {"a": 1}),
    ("list of dicts", pa.list_(STRUCT), [{"a": 1, "b": {"c": ["x"]}}, {"a": 2, "b": None}]),
    ("numpy int", INT64, np.int64(7)),
    ("numpy small int", INT64, np.uint8(200)),
    ("numpy float", FLOAT, np.float64(0.1)),
    ("numpy float32", pa.float32(), np.float32(0.1)),
    ("numpy float32 in a double", FLOAT, np.float32(0.1)),
    ("numpy nan", FLOAT, np.float64("nan")),
    ("numpy bool", pa.bool_(), np.bool_(True), True),
    ("numpy text", pa.string(), np.str_("general")),
    ("numpy bytes", pa.binary(), np.bytes_(b"\xff")),
    ("numpy vector", pa.list_(pa.float32(), WIDTH), np.arange(WIDTH, dtype=np.float32) / 3),
    ("numpy list of ints", pa.list_(INT64), np.array([1, 2])),
    ("numpy matrix", pa.list_(pa.list_(INT64)), np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ("numpy list of texts", pa.list_(pa.string()), np.array(["a", "b"])),
    ("numpy list of times", pa.list_(MICROS), np.array([NAIVE], "datetime64[us]"), [NAIVE]),
    ("numpy list of nanoseconds", pa.list_(pa.timestamp("ns")), np.array([NAIVE], "datetime64[ns]")),
    ("numpy list of dates", pa.list_(pa.date32()), np.array(["2026-01-02"], "datetime64[D]"), [dt.date(2026, 1, 2)]),
    ("numpy number without dimensions", INT64, np.array(7), 7),
    ("numpy time", MICROS, np.datetime64("2026-01-02T03:04:05.678901")),
    ("numpy time in nanoseconds", pa.timestamp("ns"), np.datetime64("2026-01-02T03:04:05.678901234")),
    ("numpy date", pa.date32(), np.datetime64("2026-01-02"), dt.date(2026, 1, 2)),
    ("numpy span", pa.duration("us"), np.timedelta64(5, "us")),
    ("numpy span of other units", pa.duration("ms"), np.timedelta64(2, "h"), dt.timedelta(hours=2)),
    ("numpy span in nanoseconds", pa.duration("ns"), np.timedelta64(1, "ns")),
    ("list of numpy floats", pa.list_(pa.float32()), [np.float32(0.1), np.float32(2)]),
    ("dict of numpy values", STRUCT, {"a": np.int64(1), "b": {"c": np.array(["x"])}}, {"a": 1, "b": {"c": ["x"]}}),
    ("pandas time", pa.timestamp("ns"), pd.Timestamp("2026-01-02T03:04:05.678901234")),
    ("pandas time in a zone", pa.timestamp("us", "UTC"), pd.Timestamp("2026-01-02T03:04:05", tz="Europe/Berlin")),
    ("pandas span", pa.duration("us"), pd.Timedelta(hours=2)),
    ("pandas span in nanoseconds", pa.duration("ns"), pd.Timedelta(1_000_001, "ns")),
    ("enum", pa.string(), Colour.RED, "red"),
    ("enum of ints", INT64, Level.HIGH, 3),
    ("enum of texts", pa.string(), Word.YES, "yes"),
    ("list of enums", pa.list_(pa.string()), [Colour.RED], ["red"]),
    ("arrow int", INT64, pa.scalar(7), 7),
    ("arrow text", pa.string(), pa.scalar("a"), "a"),
    ("arrow time", MICROS, pa.scalar(NAIVE, MICROS), NAIVE),
    ("arrow time in nanoseconds", pa.timestamp("ns"), pa.scalar(1, pa.timestamp("ns"))),
    ("arrow span in nanoseconds", pa.duration("ns"), pa.scalar(1, pa.duration("ns"))),
    ("arrow list", pa.list_(INT64), pa.scalar([1, 2]), [1, 2]),
    ("arrow dict", STRUCT, pa.scalar({"a": 1, "b": {"c": ["x"]}}, STRUCT)),
    ("arrow bytes", pa.binary(), pa.scalar(b"\xff"), b"\xff"),
    ("arrow decimal", pa.decimal128(10, 2), pa.scalar(decimal.Decimal("1.50")), decimal.Decimal("1.50")),
]


CASES = [pytest.param(*one[1:3], one[-1], id=one[0]) for one in VALUES]


@pytest.mark.parametrize("kind, value, wanted", CASES)
def test_a_value_is_what_pyarrow_makes_of_it(db, kind, value, wanted):
    assert equal(added(db, kind, value), pa.array([wanted] * ROWS, kind))


IDS = {"uuid": ID, "text": str(ID), "bytes": ID.bytes, "arrow": pa.scalar(ID.bytes, pa.uuid())}


@pytest.mark.parametrize("value", IDS.values(), ids=IDS)
def test_a_uuid_is_one(db, value):
    found = added(db, pa.uuid(), value)
    assert found.type == pa.uuid() and found.to_pylist() == [ID] * ROWS


@pytest.mark.parametrize("value", [True, 1])
def test_a_bool8_is_a_truth_value(db, value):
    assert added(db, pa.bool8(), value).to_pylist() == [True] * ROWS


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, {"b": "c"}]}, [1, "2"], '{"a": 1}', {}], ids=repr)
def test_json_is_what_the_json_module_makes_of_it(db, value):
    found = added(db, pa.json_(), value)
    assert found.type == pa.json_()
    wanted = json.loads(value) if isinstance(value, str) else value
    assert [json.loads(one) for one in found.to_pylist()] == [wanted] * ROWS


@pytest.mark.parametrize("value", [[("a", 1), ("b", 2)], {"a": 1, "b": 2}], ids=["pairs", "dict"])
def test_a_map_takes_pairs_and_dicts(tmp_path, value):
    """Lance keeps maps from storage version 2.2 on."""
    table = pa.table({"id": range(ROWS)})
    options = {"new_table_data_storage_version": "2.2"}
    try:
        lancedb.connect(tmp_path, storage_options=options).create_table("documents", table)
    except Exception:
        pytest.skip("this lancedb does not write storage version 2.2")
    kind = pa.map_(pa.string(), pa.int64())
    found = added(str(tmp_path), kind, value)
    assert found.to_pylist() == [[("a", 1), ("b", 2)]] * ROWS


def test_no_default_is_null_in_every_row(db):
    relance.migrate((db, "documents"), [relance.add("a", "int64"), relance.add("b", "string", default=None)])
    table = read(db)
    assert table["a"].null_count == table["b"].null_count == ROWS


def test_not_null_columns_need_a_default(db):
    relance.migrate((db, "documents"), relance.add("a", "int64", default=0, nullable=False))
    assert not read(db).schema.field("a").nullable
    with pytest.raises(relance.UsageError, match="`b`"):
        relance.add("b", "int64", nullable=False)


def test_now_is_the_moment_of_planning(db):
    before = dt.datetime.now(dt.timezone.utc)
    changes = [relance.add("a", pa.timestamp("us", "UTC"), default="now"), relance.add("b", "string", default="now")]
    relance.migrate((db, "documents"), changes)
    after = dt.datetime.now(dt.timezone.utc)
    table = read(db)
    (moment,) = set(table["a"].to_pylist())
    assert before <= moment <= after
    assert set(table["b"].to_pylist()) == {"now"}


def test_a_value_is_not_changed(db):
    value = {"a": [1, 2], "b": np.array([1.0])}
    kept = copy.deepcopy(value)
    relance.add("new", pa.struct([("a", pa.list_(INT64)), ("b", pa.list_(FLOAT))]), default=value)
    assert repr(value) == repr(kept)


FILLED = [
    (pa.string(), "none", "none"),
    (pa.string(), b"none", "none"),
    (INT64, 0, 0),
    (FLOAT, float("nan"), float("nan")),
    (pa.bool_(), False, False),
    (pa.decimal128(10, 2), decimal.Decimal("1.50"), decimal.Decimal("1.50")),
    (MICROS, NAIVE, NAIVE),
    (pa.timestamp("us", "UTC"), UTC, UTC),
    (pa.date32(), dt.date(2026, 1, 2), dt.date(2026, 1, 2)),
    (pa.binary(), b"\xff", b"\xff"),
    (pa.binary(16), ID, ID.bytes),
    (pa.duration("s"), 90, dt.timedelta(seconds=90)),
    (pa.list_(INT64), [1, 2], [1, 2]),
    (pa.string(), Colour.RED, "red"),
    (INT64, np.int64(7), 7),
]


@pytest.mark.parametrize("kind, value, wanted", FILLED, ids=[f"{value!r} in {kind}" for kind, value, _ in FILLED])
def test_fill_puts_a_value_in_place_of_nulls(tmp_path, kind, value, wanted):
    column = pa.array([None, wanted, None], kind)
    lancedb.connect(tmp_path).create_table("documents", pa.table({"id": range(ROWS), "new": column}))
    relance.migrate((tmp_path, "documents"), relance.fill("new", value))
    assert equal(read(tmp_path)["new"].combine_chunks(), pa.array([wanted] * ROWS, kind))


def test_a_span_cannot_be_filled_in_since_the_unit_is_not_known():
    with pytest.raises(relance.UsageError, match="`new`"):
        relance.fill("new", dt.timedelta(seconds=90))


# Types


TYPES = [
    "string", "large_string", "bool", "int8", "uint16", "int64", "halffloat", "float", "double", "binary",
    "date32[day]", "timestamp[us]", "timestamp[ns, tz=Europe/Berlin]", "time32[ms]", "time64[us]", "duration[s]",
    "decimal128(10, 2)", "decimal256(50, 3)", "fixed_size_binary[16]", "list<item: string>", "large_list<item: int64>",
    "fixed_size_list<item: float>[8]", "struct<a: int64, b: struct<c: string>>", "list<item: struct<a: int32>>",
]


@pytest.mark.parametrize("text", TYPES)
def test_a_type_is_a_text_as_pyarrow_prints_it(db, text):
    relance.migrate((db, "documents"), relance.add("new", text))
    assert str(read(db).schema.field("new").type) == text


ARROW_TYPES = [
    pa.string(), pa.int8(), pa.float16(), pa.timestamp("ms", "+02:00"), pa.list_(pa.float32(), 8), STRUCT,
    pa.list_(pa.field("element", pa.int32(), nullable=False)), pa.decimal128(20, 0), pa.binary(3), pa.uuid(),
    pa.json_(), pa.bool8(),
]


@pytest.mark.parametrize("kind", ARROW_TYPES, ids=str)
def test_a_type_is_one_of_pyarrow(db, kind):
    relance.migrate((db, "documents"), relance.add("new", kind))
    assert read(db).schema.field("new").type == kind


@pytest.mark.parametrize("text", ["json", "extension<arrow.json>", "uuid", "extension<arrow.uuid>"])
def test_an_extension_type_is_a_text(db, text):
    relance.migrate((db, "documents"), relance.add("new", text))
    assert read(db).schema.field("new").type == (pa.json_() if "json" in text else pa.uuid())


def test_casts_and_computed_columns_take_both(db):
    for kind in ("int32", pa.int32()):
        assert relance.cast("id", kind) == relance.Change("cast id:int32")
        assert relance.compute("n", "id + 1", type=kind) == relance.Change("compute n:int32=id + 1")
    relance.migrate((db, "documents"), [relance.cast("id", pa.int32()), relance.compute("n", "id + 1")])
    assert read(db)["n"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("kind", ["strin", "list<", "", None, 7, str, "dictionary<"], ids=repr)
def test_what_is_no_type_is_refused(kind):
    with pytest.raises(relance.UsageError):
        relance.add("new", kind)
    with pytest.raises(relance.UsageError):
        relance.cast("text", kind)


# Names


NAMES = ["dc:title", "a b", "Unnamed: 0", "a=b", "ä", "select", "a'b", 'a"b', "1st", "-x", "a\\b"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_what_they_are(db, name):
    place = (db, "documents")
    relance.migrate(place, [relance.add(name, "string", default="x"), relance.rename("text", f"{name}2")])
    table = read(db)
    assert table.column_names == ["id", f"{name}2", name] and table[name].to_pylist() == ["x"] * ROWS
    relance.migrate(place, [relance.fill(f"{name}2", "y"), relance.cast(name, "large_string"), relance.not_null(name)])
    table = read(db)
    assert table[f"{name}2"].to_pylist() == ["a", "y", "c"] and table[name].type == pa.large_string()
    relance.migrate(place, [relance.drop(name), relance.rename(f"{name}2", "text")])
    assert read(db).column_names == ["id", "text"]


@pytest.mark.parametrize("name", ["dc:title", "a b", "a=b"])
def test_a_change_reads_its_own_text(name):
    changes = [
        relance.add(name, "string", default="x"), relance.drop(name), relance.cast(name, "int8"),
        relance.fill(name, "x"), relance.rename(name, f"{name}2"), relance.set(name, "1"),
        relance.nullable(name), relance.not_null(name),
    ]
    for change in changes:
        assert relance.Change(str(change)) == change


def test_a_dot_leads_into_a_struct_and_stands_in_backticks_elsewhere(tmp_path):
    place = (str(tmp_path), "documents")
    meta = pa.array([{"a": n, "b.c": n} for n in range(ROWS)], pa.struct([("a", INT64), ("b.c", INT64)]))
    lancedb.connect(tmp_path).create_table("documents", pa.table({"id": range(ROWS), "meta": meta}))
    changes = [relance.cast("meta.`b.c`", "string"), relance.drop("meta.a"), relance.add("meta.d", "int64", default=1)]
    relance.migrate(place, changes)
    assert read(place[0])["meta"].to_pylist() == [{"b.c": str(n), "d": 1} for n in range(ROWS)]


def test_new_names_have_no_dot(db):
    with pytest.raises((relance.UsageError, relance.RefusedError)):
        relance.plan((db, "documents"), relance.add("`a.b`", "string"))
    with pytest.raises((relance.UsageError, relance.RefusedError)):
        relance.plan((db, "documents"), relance.rename("text", "a.b"))
