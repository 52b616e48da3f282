import re
import uuid

import pytest
from buckets import Bucket
from stores import KINDS, Stores
from support import make


@pytest.fixture
def db(tmp_path) -> str:
    """A database with 500 documents in one data file."""
    path = str(tmp_path / "db")
    make(path)
    return path


@pytest.fixture
def place(db) -> tuple:
    return db, "documents"


@pytest.fixture
def parts(tmp_path) -> tuple:
    """A table of 500 documents in five data files."""
    path = str(tmp_path / "db")
    make(path, files=5)
    return path, "documents"


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """The object stores that run here."""
    with Stores(tmp_path_factory.mktemp("stores")) as found:
        yield found


@pytest.fixture(params=KINDS)
def bucket(request, stores) -> Bucket:
    """A database of its own in a store of each kind."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return Bucket(stores[request.param], f"{name[:60]}-{uuid.uuid4().hex[:6]}")
