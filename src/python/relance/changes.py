"""Changes: what a migration does to columns."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterable as IterableABC
from collections.abc import Mapping
from typing import Any, Dict, Iterable, List, Optional, Tuple, Union

from . import _relance
from .errors import UsageError
from .literals import literal
from .producers import Embedding, Functions, caller, name_of, spooled

__all__ = ["Change", "add", "compute", "cast", "set", "fill", "rename", "drop", "nullable", "not_null", "replace", "join"]

_VERBS = ("add", "compute", "cast", "set", "fill", "rename", "drop", "nullable", "not-null", "replace", "join")

#: Stands for a default that was not given, since None could be one.
_MISSING: Any = object()


class Change:
    """One change. Make it with ``relance.add`` and its like, or read it from the command's text.

    Examples
    --------
    >>> import relance
    >>> relance.Change("add category:string=general")
    relance.Change('add category:string=general')
    """

    _json: str
    _text: str
    #: The column that it gives values to, and the function that gives them.
    _function: Optional[Tuple[str, Any]] = None
    #: What has to stay as long as the change.
    _held: Any = None

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise UsageError(f"a change's text was expected, not {text!r}")
        verb, _, rest = text.strip().removeprefix("--").partition(" ")
        if "=" in verb:
            verb, _, rest = text.strip().removeprefix("--").partition("=")
        if verb not in _VERBS:
            raise UsageError(f"{text!r} begins with no change: there is {', '.join(_VERBS)}")
        self._json, self._text = _engine(_relance.change, verb, _unquoted(rest))

    @classmethod
    def _of(cls, told: Any) -> "Change":
        change = cls.__new__(cls)
        change._json, change._text = told
        return change

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"relance.Change({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Change) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def _unquoted(text: str) -> str:
    """`text` without the quotes that a shell would have taken."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text


def _engine(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except UsageError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(str(error)) from None


def _kind(data_type: Any) -> str:
    """How `data_type` prints."""
    if not isinstance(data_type, str) and not hasattr(data_type, "__arrow_c_schema__"):
        raise UsageError(f"a type is a text as PyArrow prints it, or a type of an Arrow library, not {data_type!r}")
    text: str = _engine(_relance.typed_change, "add", "x", data_type, True, None)[1]
    return text.partition(":")[2]


def add(
    name: str,
    type: Any = None,
    *,
    default: Any = _MISSING,
    nullable: Optional[bool] = None,
    by: Any = None,
    inputs: Union[str, Iterable[str]] = (),
    version: Optional[str] = None,
    batch_size: int = 256,
) -> Change:
    """Adds a column.

    Parameters
    ----------
    name : str
        Its name; of a field in a struct, the path to it (``meta.author``).
    type : str or Arrow type
        A type of PyArrow or of another Arrow library, or a text such as ``"list<item: string>"``.
    default : optional
        What every row holds: a Python value that fits the type. Without it every row is null. ``"now"`` is the moment of
        planning in columns of times.
    nullable : bool, optional
        Whether it may hold nulls. Default: True. A column that may not needs a default.
    by, inputs, version, batch_size : optional
        What gives its values, instead of a default: see ``replace``.

    Raises
    ------
    UsageError
        When the type or the value is none.

    Examples
    --------
    >>> import relance
    >>> relance.add("category", "string", default="general")
    relance.Change('add category:string=general')
    """
    if by is not None:
        if default is not _MISSING:
            raise UsageError(f"column `{name}`: what gives the values and a default are too much")
        allows = True if nullable is None else nullable
        return _produced(name, by, type, inputs, version, batch_size, replaces=False, nullable=allows)
    kind = _kind(type)
    value = None if default is _MISSING or default is None else _about(name, literal, default, kind)
    allows = True if nullable is None else nullable
    if not allows and value is None:
        raise UsageError(f"column `{name}` may not be null, so it needs a default")
    return Change._of(_engine(_relance.typed_change, "add", name, type, allows, value))


def replace(
    name: str,
    by: Any,
    *,
    type: Any = None,
    inputs: Union[str, Iterable[str]] = (),
    version: Optional[str] = None,
    batch_size: int = 256,
    keep_old: Optional[str] = None,
) -> Change:
    """Gives a column that exists the values of a function or a program, in whatever type and dimension. An index on it is built
    again.

    What is computed is kept as it comes: an interrupted migration, gone on with by ``resume``, computes nothing twice but the
    batches that were under way.

    Parameters
    ----------
    name : str
        The column.
    by : callable, lancedb embedding function, or str
        A function that is given a ``pyarrow.RecordBatch`` of the inputs and gives as many values: an array of an Arrow library,
        of NumPy, a tensor, a series, or a list. An embedding function of lancedb, or its configuration from
        ``embedding_function``, which the table's metadata tells of afterwards. Or the command line of a program, which reads
        an Arrow IPC stream on stdin and writes one to stdout.
    type : str or Arrow type
        The type that the column gets. Of an embedding function it is known.
    inputs : str or list of str
        The columns that it is given, after the changes before this one.
    version : str, optional
        What it computes, as you name it: ``resume`` goes on only with the same, and a column that is of this version
        already is left alone. Of an embedding function it is its model.
    batch_size : int
        Rows that it is given at once, at most. Default: 256.
    keep_old : str, optional
        The name under which the old column stays beside the new one.

    Examples
    --------
    >>> import relance
    >>> def embed(batch):
    ...     return [[float(len(text))] * 4 for text in batch.column("text").to_pylist()]
    >>> print(relance.replace("vector", embed, type="fixed_size_list<float>[4]", inputs="text", version="length-1"))
    replace vector:fixed_size_list<item: float>[4] by relance.changes.embed of text, version length-1
    """
    return _produced(name, by, type, inputs, version, batch_size, replaces=True, keep_old=keep_old)


def join(
    other: Any,
    *,
    on: Union[str, Iterable[str], Mapping[str, str]],
    take: Union[str, Iterable[str], Mapping[str, str]],
    on_missing: str = "error",
    on_duplicate: str = "error",
) -> Change:
    """Takes columns over from other data, by a key.

    Parameters
    ----------
    other : str, path, or Arrow stream
        Files (``*`` for many) of Parquet, Arrow IPC, CSV or JSON lines, the URI of a Lance table, the name of a table of the
        same database; or anything with ``__arrow_c_stream__``, such as a ``pyarrow.Table`` or a ``RecordBatchReader``, which
        is written to a file of the system's first.
    on : str, list or dict
        The key: columns of the table, and, in a dict, what they are called in the other data.
    take : str, list or dict
        The columns that are taken over: what they are called in the table and, in a dict, in the other data. Those that the
        table has get other values, in their type.
    on_missing : str
        What becomes of rows whose key is not there: ``"error"`` (the default), ``"null"``, or ``"keep"``, which leaves the
        values of columns that exist.
    on_duplicate : str
        What becomes of keys that are there more than once: ``"error"`` (the default), ``"first"`` or ``"last"``.

    Examples
    --------
    >>> import relance
    >>> relance.join("tags/*.parquet", on="id", take={"tags": "tags", "lang": "language"})
    relance.Change("join 'tags/*.parquet' on id take tags,lang=language")
    """
    source = spooled(other)
    told = {
        "from": source if isinstance(source, str) else source.name,
        "on": [list(pair) for pair in _pairs(on)],
        "take": [{"name": name, "from": there} for name, there in _pairs(take)],
        "on_missing": on_missing,
        "on_duplicate": on_duplicate,
    }
    change = _plain("join", "join", **told)
    # A file goes when nobody holds it any more.
    change._held = source
    return change


def _pairs(names: Union[str, Iterable[str], Mapping[str, str]]) -> builtins.list[Tuple[str, str]]:
    if isinstance(names, Mapping):
        return [(str(name), str(there)) for name, there in names.items()]
    return [(name, name) for name in ([names] if isinstance(names, str) else names)]


def _produced(
    name: str,
    by: Any,
    type: Any,
    inputs: Union[str, Iterable[str]],
    version: Optional[str],
    batch_size: int,
    *,
    replaces: bool,
    keep_old: Optional[str] = None,
    nullable: bool = True,
) -> Change:
    names = [inputs] if isinstance(inputs, str) else list(inputs)
    embedding, entry = Embedding.of(by), None
    if embedding is not None:
        type = embedding.data_type() if type is None else type
        version = embedding.version() if version is None else version
        names = names or [source for source in [embedding.source] if source is not None]
        if len(names) != 1:
            raise UsageError(f"column `{name}`: an embedding function has one input, not {len(names)}")
        by, entry = embedding.call, embedding.entry(names[0], name)
    if not isinstance(by, str) and not callable(by):
        raise UsageError(f"column `{name}`: its values come from a function or a program, not {by!r}")
    if type is None:
        raise UsageError(f"column `{name}`: its type is missing")
    _kind(type)
    if not names:
        raise UsageError(f"column `{name}`: the columns that its values are made of are missing: inputs=[...]")
    if not 1 <= batch_size <= 1 << 20:
        raise UsageError(f"column `{name}`: a batch has 1 to 1048576 rows, not {batch_size}")
    told = {
        "name": name,
        "nullable": nullable,
        "replaces": replaces,
        "keep_old": keep_old,
        "by": {"program": by} if isinstance(by, str) else {"function": name_of(by)},
        "inputs": names,
        "version": version,
        "batch_rows": batch_size,
        "embedding": entry,
    }
    change = Change._of(_engine(_relance.produced_change, json.dumps(told), type))
    if not isinstance(by, str):
        change._function = (name, caller(by, type))
    return change


def _about(name: str, call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except UsageError as error:
        raise UsageError(f"column `{name}`: {error.message}") from None


def compute(name: str, sql: str, *, type: Any = None, nullable: bool = True) -> Change:
    """Adds a column that is computed from the others, as SQL.

    Without a ``type`` it has the expression's own.

    Examples
    --------
    >>> import relance
    >>> relance.compute("total", "price * quantity", type="double")
    relance.Change('compute total:double=price * quantity')
    """
    return Change._of(_engine(_relance.typed_change, "compute", name, type, nullable, sql))


def cast(name: str, type: Any) -> Change:
    """Gives a column another type. Values that do not fit are found before anything is written.

    Examples
    --------
    >>> import relance
    >>> relance.cast("price", "decimal128(10, 2)")
    relance.Change('cast price:decimal128(10, 2)')
    """
    return Change._of(_engine(_relance.typed_change, "cast", name, type, True, None))


def _plain(verb: str, key: str, **fields: Any) -> Change:
    return Change._of(_engine(_relance.plain_change, json.dumps({key: fields})))


def set(name: str, sql: str) -> Change:  # noqa: A001 - it is the flag's name
    """Gives a column other values, computed by SQL, in its own type.

    Examples
    --------
    >>> import relance
    >>> relance.set("title", "trim(title)")
    relance.Change('set title=trim(title)')
    """
    return _plain("set", "set", name=name, sql=sql)


def fill(name: str, value: Any) -> Change:
    """Puts ``value`` in place of a column's nulls. It is read in the column's type.

    Examples
    --------
    >>> import relance
    >>> relance.fill("views", 0)
    relance.Change('fill views=0')
    """
    return _plain("fill", "fill", name=name, value=_about(name, literal, value, ""))


def rename(name: str, to: str) -> Change:
    """Renames a column. Of a field in a struct, ``name`` is the path and ``to`` the bare name.

    Examples
    --------
    >>> import relance
    >>> relance.rename("txt", "text")
    relance.Change('rename txt=text')
    """
    return _plain("rename", "rename", name=name, to=to)


def drop(name: str) -> Change:
    """Drops a column.

    Examples
    --------
    >>> import relance
    >>> relance.drop("scratch")
    relance.Change('drop scratch')
    """
    return _plain("drop", "drop", name=name)


def nullable(name: str) -> Change:
    """Allows nulls in a column.

    Examples
    --------
    >>> import relance
    >>> relance.nullable("title")
    relance.Change('nullable title')
    """
    return _plain("nullable", "nullable", name=name)


def not_null(name: str) -> Change:
    """Forbids nulls in a column. It is refused while there are any.

    Examples
    --------
    >>> import relance
    >>> relance.not_null("title")
    relance.Change('not-null title')
    """
    return _plain("not-null", "not-null", name=name)


def functions(changes: Union[None, str, Change, Iterable[Union[str, Change]]]) -> Functions:
    """What gives values among `changes`."""
    several = [changes] if isinstance(changes, (str, Change)) else list(changes or [])
    found = [one._function for one in several if isinstance(one, Change)]
    return [one for one in found if one is not None]


def asked(changes: Union[None, str, Change, Iterable[Union[str, Change]]]) -> List[Dict[str, Any]]:
    """`changes` as the engine takes them, in their order."""
    if changes is None:
        return []
    if isinstance(changes, (str, Change)):
        changes = [changes]
    if not isinstance(changes, IterableABC):
        raise UsageError(f"changes are a list of what relance.add and its like give, not {changes!r}")
    made: builtins.list[Change] = []
    for one in changes:
        if not isinstance(one, (str, Change)):
            raise UsageError(f"a change is made with relance.add and its like, or is a text, not {one!r}")
        made.append(Change(one) if isinstance(one, str) else one)
    return [json.loads(one._json) for one in made]
