"""Changes: what a migration does to columns."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterable as IterableABC
from typing import Any, Dict, Iterable, List, Optional, Union

from . import _relance
from .errors import UsageError
from .literals import literal

__all__ = ["Change", "add", "compute", "cast", "set", "fill", "rename", "drop", "nullable", "not_null"]

_VERBS = ("add", "compute", "cast", "set", "fill", "rename", "drop", "nullable", "not-null")

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


def add(name: str, type: Any, *, default: Any = _MISSING, nullable: Optional[bool] = None) -> Change:
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
    kind = _kind(type)
    value = None if default is _MISSING or default is None else _about(name, literal, default, kind)
    allows = True if nullable is None else nullable
    if not allows and value is None:
        raise UsageError(f"column `{name}` may not be null, so it needs a default")
    return Change._of(_engine(_relance.typed_change, "add", name, type, allows, value))


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
