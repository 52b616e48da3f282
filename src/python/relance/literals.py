"""Python values as the engine's literals."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import re
import uuid
from typing import Any

from .errors import UsageError

#: Nanoseconds of a unit, by its word in a type's name.
_NANOS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def literal(value: Any, kind: str) -> str:
    """`value` as a literal of the type that prints as `kind`."""
    value = _plain(value)
    if value is None:
        raise UsageError("None is no value: leave the default out, and every row is null")
    if kind == "json":
        return value if isinstance(value, str) else json.dumps(_json(value, raw=True))
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(_json(value), ensure_ascii=False)
    if isinstance(value, datetime.timedelta):
        return _duration(((value.days * 86_400 + value.seconds) * 10**6 + value.microseconds) * 1_000, kind)
    if type(value).__name__ == "timedelta64":
        return _duration(int(value.astype("timedelta64[ns]").astype("int64")), kind)
    if isinstance(value, uuid.UUID) and "binary" in kind:
        value = value.bytes
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex() if "binary" in kind else _decoded(bytes(value))
    return _text(value)


def _plain(value: Any) -> Any:
    """`value` without the wrapping of numpy, pyarrow and enums."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    module = type(value).__module__.partition(".")[0]
    if module == "numpy":
        # Their nanoseconds do not fit Python's own times.
        if type(value).__name__ == "timedelta64":
            return value
        return str(value) if type(value).__name__ == "datetime64" else value.tolist()
    if module == "pyarrow" and hasattr(value, "as_py"):
        return _plain(value.as_py())
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (str, int, uuid.UUID)):
        return str(value)
    raise UsageError(f"{type(value).__name__} is no literal: give a number, text, bytes, a time, a UUID, a list or a dict")


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UsageError("bytes that are no UTF-8 need a column of binary type, and not inside of a list or struct") from None


def _duration(nanos: int, kind: str) -> str:
    unit = re.search(r"duration\[(\w+)\]", kind)
    if unit is None:
        raise UsageError(f"a time span fits a duration, whose unit is known, not {kind or 'every column'}: give a number")
    count, rest = divmod(nanos, _NANOS[unit.group(1)])
    if rest:
        raise UsageError(f"{nanos} ns is no whole number of {kind}")
    return str(count)


def _json(value: Any, raw: bool = False) -> Any:
    """`value` as JSON. Every leaf is a text, which is read in its type; with `raw`, JSON's own."""
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, dict):
        return {_text(_plain(key)): _json(one, raw) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(one, raw) for one in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _decoded(bytes(value))
    if raw and isinstance(value, (bool, int, float)):
        return value
    return _text(value)
