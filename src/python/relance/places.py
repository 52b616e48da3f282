"""Where a table is: what Python programs have in hand for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from .errors import UsageError

#: What a call takes for a table.
FORMS = "(db, name), a lancedb Table, (connection, name), or the table's URI"


@dataclass(frozen=True)
class Place:
    """A table, or with ``table`` None a database."""

    database: str
    table: Optional[str]
    storage_options: Dict[str, str] = field(default_factory=dict, repr=False)


def place_of(table: Any, storage_options: Optional[Mapping[str, Any]] = None, *, whole: bool = False) -> Place:
    """The place of `table`, in any of its forms; with `whole`, a database will do."""
    found = _found(table, whole)
    _expect_local(found.database)
    options = {**found.storage_options, **{str(key): str(value) for key, value in (storage_options or {}).items()}}
    return Place(found.database, found.table, options)


def _found(table: Any, whole: bool) -> Place:
    if isinstance(table, tuple):
        return _pair(table)
    if isinstance(table, (str, os.PathLike)):
        text = os.fspath(table)
        return Place(text, None) if whole and not _ends(text) else _split(text)
    library = type(table).__module__.partition(".")[0]
    if library == "lancedb":
        return _of_lancedb(table, whole)
    if library == "lance" and hasattr(table, "uri"):
        return _split(str(table.uri), getattr(table, "_storage_options", None))
    raise UsageError(f"{_name(table)} is no table that relance can migrate: give {FORMS}")


def _pair(pair: Tuple[Any, ...]) -> Place:
    if len(pair) != 2 or not isinstance(pair[1], str):
        raise UsageError(f"a pair of a database and a table's name was expected: give {FORMS}")
    database, name = pair
    if isinstance(database, (str, os.PathLike)):
        return Place(os.fspath(database), name)
    if type(database).__module__.partition(".")[0] == "lancedb":
        uri, options = _connection(database)
        return Place(uri, name, options)
    raise UsageError(f"{_name(database)} is no database that relance can reach: give {FORMS}")


def _of_lancedb(table: Any, whole: bool) -> Place:
    kind = type(table).__name__
    if "Remote" in kind:
        raise UsageError("a table of LanceDB Cloud or Enterprise is migrated where its files are: relance does not reach it")
    if kind == "AsyncTable":
        raise UsageError("an AsyncTable does not tell its database: give (connection, name)")
    if "Connection" in kind:
        if not whole:
            raise UsageError("a connection needs the table's name beside it: give (connection, name)")
        uri, options = _connection(table)
        return Place(uri, None, options)
    connection = getattr(table, "_conn", None)
    if connection is None or not hasattr(table, "name"):
        raise UsageError(f"{_name(table)} is no table: give {FORMS}")
    if getattr(table, "namespace", None):
        raise UsageError("a table in a namespace is not supported: give the URI of its dataset")
    uri, options = _connection(connection)
    initial = getattr(table, "initial_storage_options", None)
    more = initial() if callable(initial) else None
    options = {**options, **(more or {})}
    own = str(table.uri)
    if own.rstrip("/").endswith(f"/{table.name}.lance"):
        return _split(own, options)
    return Place(uri, table.name, options)


def _connection(connection: Any) -> Tuple[str, Dict[str, str]]:
    if "Remote" in type(connection).__name__:
        raise UsageError("a database of LanceDB Cloud or Enterprise is migrated where its files are: relance does not reach it")
    is_open = getattr(connection, "is_open", None)
    if callable(is_open) and not is_open():
        raise UsageError("the connection is closed")
    uri = getattr(connection, "uri", None)
    if not isinstance(uri, str):
        raise UsageError(f"{_name(connection)} does not tell where its database is: give {FORMS}")
    return uri, dict(getattr(connection, "storage_options", None) or {})


def _ends(uri: str) -> bool:
    return uri.rstrip("/").endswith(".lance")


def _split(uri: str, options: Optional[Mapping[str, str]] = None) -> Place:
    """The database and the table of a dataset's URI."""
    bare = uri.rstrip("/")
    database, _, last = bare.replace(os.sep, "/").rpartition("/")
    name = last.removesuffix(".lance")
    if not _ends(bare) or not name:
        raise UsageError(f"the URI of a table ends with NAME.lance, which {uri!r} does not: give {FORMS}")
    return Place(database or ("/" if bare.startswith("/") else "."), name, dict(options or {}))


def _expect_local(database: str) -> None:
    if database.startswith("memory:"):
        raise UsageError("a table in memory is seen by the library that made it alone: relance cannot reach it")
    if database.startswith("db:"):
        raise UsageError("db:// is LanceDB Cloud or Enterprise: its tables are migrated where their files are")


def _name(thing: Any) -> str:
    kind = type(thing)
    return f"a {kind.__module__}.{kind.__qualname__}"
