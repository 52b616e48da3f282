"""Python values as the engine's literals."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import re
import uuid
from typing import Any, NamedTuple

from .errors import UsageError

#: Nanoseconds of a unit, by its word in a type's name.
_NANOS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class _Span(NamedTuple):
    """A time span: Python's own has no nanoseconds."""

    nanos: int


def literal(value: Any, kind: str) -> str:
    """`value` as a literal of the type that prints as `kind`; of one that is not known, where that is empty."""
    value = _plain(value)
    if value is None:
        raise UsageError("None is no value: leave the default out, and every row is null")
    if kind == "json":
        return value if isinstance(value, str) else json.dumps(_json(value, "", raw=True))
    if isinstance(value, float) and "int" in kind and value.is_integer():
        value = int(value)
    if isinstance(value, float) and "string" in kind and value != value:
        raise UsageError("nan is no text: leave the default out, and every row is null")
    if kind.startswith("map<") and isinstance(value, (list, tuple)):
        value = dict(value)
    if isinstance(value, (list, tuple, dict)) and not isinstance(value, _Span):
        return json.dumps(_json(value, kind), ensure_ascii=False)
    if isinstance(value, bool) and kind == "bool8":
        return str(int(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bytes(bytes(value), kind)
    return _text(value, kind)


def _plain(value: Any) -> Any:
    """`value` without the wrapping of numpy, pandas, pyarrow and enums."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, datetime.timedelta):
        # pandas' is one, and has nanoseconds.
        micros = (value.days * 86_400 + value.seconds) * 10**6 + value.microseconds
        return _Span(micros * 1_000 + getattr(value, "nanoseconds", 0))
    module, name = type(value).__module__.partition(".")[0], type(value).__name__
    if module == "numpy":
        return _of_numpy(value, name)
    if module == "pyarrow" and name == "DurationScalar":
        return None if value.value is None else _Span(value.value * _NANOS[value.type.unit])
    if module == "pyarrow" and hasattr(value, "as_py"):
        return _plain(value.as_py())
    return value


def _of_numpy(value: Any, name: str) -> Any:
    # Its times may be of nanoseconds, which Python's are not.
    if name == "timedelta64":
        return _Span(int(value.astype("timedelta64[ns]").astype("int64")))
    if name == "datetime64":
        return str(value)
    if name == "ndarray" and value.ndim and value.dtype.kind in "mM":
        return [_plain(one) for one in value]
    return value.tolist()


def _text(value: Any, kind: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, _Span):
        return _count(value, kind)
    if isinstance(value, (str, int, uuid.UUID)):
        return str(value)
    raise UsageError(f"{type(value).__name__} is no literal: give a number, text, bytes, a time, a UUID, a list or a dict")


def _bytes(value: bytes, kind: str) -> str:
    if kind == "uuid" and len(value) == 16:
        return str(uuid.UUID(bytes=value))
    if "binary" in kind or kind == "bfloat16":
        return "\\x" + value.hex()
    if kind:
        return _decoded(value)
    # The same in a column of text and in one of bytes, where it can be.
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text and not text.startswith("\\x") else "\\x" + value.hex()


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UsageError("bytes that are no UTF-8 need a column of binary type, and not inside of a list or struct") from None


def _count(span: _Span, kind: str) -> str:
    units = list(dict.fromkeys(re.findall(r"duration\[(\w+)\]", kind)))
    if len(units) != 1:
        raise UsageError(f"a time span fits a duration, whose unit is known, not {kind or 'every column'}: give a number")
    count, rest = divmod(span.nanos, _NANOS[units[0]])
    if rest:
        raise UsageError(f"{span.nanos} ns is no whole number of duration[{units[0]}]")
    return str(count)


def _json(value: Any, kind: str, raw: bool = False) -> Any:
    """`value` as JSON. Every leaf is a text, which is read in its type; with `raw`, JSON's own."""
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, dict):
        return {_text(_plain(key), ""): _json(one, kind, raw) for key, one in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, _Span):
        return [_json(one, kind, raw) for one in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _decoded(bytes(value))
    if raw and isinstance(value, (bool, int, float)):
        if value != value or value in (float("inf"), float("-inf")) or not -(2**63) <= value < 2**64:
            raise UsageError(f"JSON in Lance has no number {value}")
        return value
    return _text(value, kind)
