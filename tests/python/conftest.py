import pytest
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
