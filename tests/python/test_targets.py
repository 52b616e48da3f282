"""Schemas to come to: pyarrow's, models, tables, files."""

import datetime as dt
import enum
import json
from typing import List, Optional

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pydantic
import pytest
import relance
from lancedb.pydantic import LanceModel, Vector
from support import WIDTH, documents, make, nothing_written, opened, read, rows, tables

TARGET = pa.schema([
    ("id", pa.int32()),
    ("text", pa.large_string()),
    ("vector", pa.list_(pa.float32(), WIDTH)),
    ("price", pa.float64()),
    ("meta", pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ("category", pa.string()),
    ("created", pa.timestamp("us", "UTC")),
])


def came_to(db, schema: pa.Schema) -> bool:
    return read(db).schema.remove_metadata() == schema


def test_a_schema_of_pyarrow(db, place):
    before = rows(db)
    with nothing_written(db):
        plan = relance.plan(place, to=TARGET)
    assert [field.name for field in plan.schema_after] == TARGET.names
    assert relance.migrate(place, to=TARGET).ended == "swapped"
    assert came_to(db, TARGET)
    assert rows(db) == [{**row, "category": None, "created": None} for row in before]


def test_columns_that_are_not_in_the_schema_go(db, place):
    schema = pa.schema([TARGET.field("text"), pa.field("price", pa.float64())])
    relance.migrate(place, to=schema)
    assert opened(db).schema == schema


def test_renames_are_never_guessed(db, place):
    names = ["body" if name == "text" else name for name in opened(db).schema.names]
    plan = relance.plan(place, to=pa.schema(list(zip(names, opened(db).schema.types))))
    assert set(plan.changes) == {"add body:string", "drop text"}


def test_a_schema_that_is_there_already_is_nothing_to_do(db, place):
    for to in (opened(db).schema, opened(db), lance.dataset(f"{db}/documents.lance"), (db, "documents"), "documents"):
        with nothing_written(db):
            done = relance.migrate(place, to=to)
        assert (done.ended, done.report, done.plan.strategy) == ("nothing", None, "nothing")


def test_coming_to_a_schema_twice_is_done_once(db, place):
    assert relance.migrate(place, to=TARGET).ended == "swapped"
    assert relance.migrate(place, to=TARGET).ended == "nothing"


def test_a_schema_may_forbid_nulls(db, place):
    schema = opened(db).schema
    schema = schema.set(1, pa.field("text", pa.string(), nullable=False))
    relance.migrate(place, to=schema)
    assert not opened(db).schema.field("text").nullable


def test_metadata_of_a_new_column_comes_with_it(db, place):
    field = pa.field("category", pa.string(), metadata={"note": "by hand"})
    relance.migrate(place, to=opened(db).schema.append(field))
    assert opened(db).schema.field("category").metadata == {b"note": b"by hand"}


def test_other_names_for_what_a_schema_is(db, place, tmp_path):
    """Whatever tells a schema: a batch, a table, anything with Arrow's interface."""

    class Mine:
        def __arrow_c_schema__(self):
            return TARGET.__arrow_c_schema__()

    empty = TARGET.empty_table()
    for to in (empty, empty.to_batches(), Mine()):
        if isinstance(to, list):
            to = pa.RecordBatch.from_pylist([], TARGET)
        assert [field.name for field in relance.plan(place, to=to).schema_after] == TARGET.names


# Tables and files


@pytest.fixture
def target(db):
    """Another table of the database, with the schema to come to."""
    return lancedb.connect(db).create_table("target", TARGET.empty_table())


FORMS = {
    "name": lambda db: "target",
    "pair": lambda db: (db, "target"),
    "table": lambda db: opened(db, "target"),
    "dataset": lambda db: lance.dataset(f"{db}/target.lance"),
}


@pytest.mark.parametrize("form", FORMS)
def test_another_table(db, place, target, form):
    relance.migrate(place, to=FORMS[form](db))
    assert came_to(db, TARGET) and tables(db) == ["documents", "target"]


def test_a_table_of_another_database_that_is_open(db, place, tmp_path):
    other = lancedb.connect(tmp_path / "other").create_table("target", TARGET.empty_table())
    relance.migrate(place, to=other)
    assert came_to(db, TARGET)


def parquet(path):
    pyarrow.parquet.write_table(TARGET.empty_table(), path)


def ipc(path):
    with pa.ipc.new_file(path, TARGET):
        pass


def stream(path):
    with pa.ipc.new_stream(path, TARGET):
        pass


def feather(path):
    pyarrow.feather.write_feather(TARGET.empty_table(), path)


WRITERS = {"a.parquet": parquet, "a.arrow": ipc, "a.ipc": ipc, "a.arrows": stream, "a.feather": feather}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("form", [str, lambda path: path], ids=["text", "path"])
def test_a_file(db, place, tmp_path, name, form):
    WRITERS[name](tmp_path / name)
    relance.migrate(place, to=form(tmp_path / name))
    assert came_to(db, TARGET)


def test_a_parquet_file_with_rows_gives_its_schema_alone(db, place, tmp_path):
    pyarrow.parquet.write_table(documents(5_000, 10).drop_columns(["meta"]), tmp_path / "a.parquet")
    relance.migrate(place, to=tmp_path / "a.parquet")
    assert len(rows(db)) == 500 and "meta" not in read(db).column_names


def test_the_fields_that_a_plan_prints(db, place, tmp_path):
    fields = relance.plan(place, to=TARGET).to_dict()["schema_after"]
    (tmp_path / "schema.json").write_text(json.dumps(fields))
    relance.migrate(place, to=tmp_path / "schema.json")
    assert came_to(db, TARGET)


# Models


class Meta(pydantic.BaseModel):
    a: Optional[int] = None
    b: Optional[str] = None


class Author(pydantic.BaseModel):
    name: str = "nobody"
    age: Optional[int] = None


class Lang(str, enum.Enum):
    EN = "en"


class Same(LanceModel):
    """What the table has."""

    id: Optional[int]
    text: Optional[str]
    vector: Vector(WIDTH)
    price: Optional[float]
    meta: Optional[Meta]


class Article(Same):
    category: str = "general"
    score: float = 0.5
    views: int = 0
    active: bool = True
    subtitle: Optional[str] = None
    tags: List[str] = pydantic.Field(default_factory=lambda: ["new", "ü"])
    author: Author = Author()
    published: dt.date = dt.date(2026, 1, 2)
    created: dt.datetime = dt.datetime(2026, 1, 2, 3, 4, 5, 6)
    second: Vector(2) = [0.5, 1.5]


def test_a_model_that_the_table_has_already_is_nothing_to_do(db, place):
    with nothing_written(db):
        assert relance.migrate(place, to=Same).ended == "nothing"


def test_the_defaults_of_a_model_are_what_new_columns_hold(db, place):
    before = rows(db)
    relance.migrate(place, to=Article)
    assert opened(db).schema == Article.to_arrow_schema()
    new = {
        "category": "general", "score": 0.5, "views": 0, "active": True, "subtitle": None, "tags": ["new", "ü"],
        "author": {"name": "nobody", "age": None}, "published": dt.date(2026, 1, 2),
        "created": dt.datetime(2026, 1, 2, 3, 4, 5, 6), "second": [0.5, 1.5],
    }
    assert rows(db) == [{**row, **new} for row in before]


def test_rows_of_a_model_can_be_written_and_read_after_it(db, place):
    relance.migrate(place, to=Article)
    table = opened(db)
    table.add([Article(id=900, text="new", vector=[0.0] * WIDTH, price=1.0, meta=Meta())])
    (found,) = table.search().where("id = 900").limit(1).to_pydantic(Article)
    assert found.category == "general" and found.author == Author() and found.tags == ["new", "ü"]
    assert len(table.search().where("id < 900").limit(1000).to_pydantic(Article)) == 500


def test_coming_to_a_model_twice_is_done_once(db, place):
    relance.migrate(place, to=Article)
    with nothing_written(db):
        assert relance.migrate(place, to=Article).ended == "nothing"


def test_a_factory_is_called_once(db, place):
    calls = []

    class Counted(Same):
        token: str = pydantic.Field(default_factory=lambda: calls.append(1) or f"token {len(calls)}")

    relance.migrate(place, to=Counted)
    assert len(calls) == 1
    assert {row["token"] for row in rows(db)} == {"token 1"}


def test_a_required_field_without_a_default_is_refused_unless_it_may_be_null(db, place):
    class Required(Same):
        owner: str

    class Allowed(Same):
        owner: Optional[str]

    with nothing_written(db), pytest.raises((relance.RefusedError, relance.UsageError), match="owner"):
        relance.migrate(place, to=Required)
    relance.migrate(place, to=Allowed)
    assert {row["owner"] for row in rows(db)} == {None}


def test_a_field_that_is_no_longer_there_goes(db, place):
    class Less(LanceModel):
        id: Optional[int]
        text: Optional[str]

    relance.migrate(place, to=Less)
    assert opened(db).schema.names == ["id", "text"]


def test_a_field_that_may_not_be_null_is_refused_where_there_are_nulls(db, place):
    class Strict(Same):
        text: str

    opened(db).update(where="id = 7", values={"text": None})
    with nothing_written(db), pytest.raises(relance.RefusedError) as caught:
        relance.migrate(place, to=Strict)
    assert [(one.column, one.problem, one.count) for one in caught.value.findings] == [("text", "null", 1)]
    opened(db).update(where="id = 7", values={"text": "seven"})
    relance.migrate(place, to=Strict)
    assert not opened(db).schema.field("text").nullable


def test_defaults_may_be_values_of_numpy_and_enums(db, place):
    class Strange(Same):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        lang: str = Lang.EN
        second: Vector(2) = pydantic.Field(default_factory=lambda: np.array([0.5, 1.5], np.float32))

    relance.migrate(place, to=Strange)
    assert {(row["lang"], *row["second"]) for row in rows(db)} == {("en", 0.5, 1.5)}


def test_a_default_of_a_column_that_is_there_changes_nothing(db, place):
    class Defaults(Same):
        text: Optional[str] = "never"
        category: str = "general"

    opened(db).update(where="id = 7", values={"text": None})
    relance.migrate(place, to=Defaults)
    assert [(row["text"], row["category"]) for row in rows(db)][6:8] == [("text 6", "general"), (None, "general")]


def test_a_model_of_one_table_makes_it_for_another(tmp_path):
    """A table that lancedb made of a model comes to the model's next version."""

    class First(LanceModel):
        id: int
        text: str

    class Second(First):
        lang: str = "en"

    table = lancedb.connect(tmp_path).create_table("documents", schema=First)
    table.add([First(id=n, text=f"text {n}") for n in range(3)])
    relance.migrate(table, to=Second)
    assert table.to_arrow().schema == First.to_arrow_schema()
    table.checkout_latest()
    assert table.to_arrow().schema == Second.to_arrow_schema()
    assert [one.lang for one in table.search().to_pydantic(Second)] == ["en"] * 3


def test_a_table_without_rows_comes_to_a_schema_too(tmp_path):
    make(str(tmp_path), "other", rows=1)
    lancedb.connect(tmp_path).create_table("documents", documents(0, 0))
    assert relance.migrate((tmp_path, "documents"), to=Article).ended == "swapped"
    assert opened(tmp_path).schema == Article.to_arrow_schema() and rows(tmp_path) == []
