"""Schemas to come to: those of Arrow libraries, pydantic models, other tables."""

from __future__ import annotations

import os
from typing import Any, Dict, Tuple

from . import _relance
from .changes import _engine, _kind
from .errors import UsageError
from .literals import literal
from .places import Place, place_of

#: What `to` takes.
FORMS = "a schema of an Arrow library, a LanceModel, a table of the same database, or a schema's file"


def target(to: Any, place: Place) -> Tuple[Dict[str, Any], Any]:
    """What to ask the engine for, and the schema that goes with it, for it to come to `to`."""
    if isinstance(to, (str, os.PathLike)):
        return {"to": os.fspath(to)}, None
    if isinstance(to, type):
        return _model(to)
    if hasattr(to, "__arrow_c_schema__"):
        return {}, _engine(_relance.Schema, to)
    if not isinstance(to, tuple) and hasattr(getattr(to, "schema", None), "__arrow_c_schema__"):
        return {}, _engine(_relance.Schema, to.schema)
    if isinstance(to, tuple):
        other = place_of(to)
        if os.path.abspath(other.database) != os.path.abspath(place.database) and other.database != place.database:
            raise UsageError("that table is in another database: open it with lancedb and give the table")
        return {"to": other.table}, None
    raise UsageError(f"no schema can be told from {to!r}: give {FORMS}")


def _model(model: type) -> Tuple[Dict[str, Any], Any]:
    if not hasattr(model, "to_arrow_schema"):
        raise UsageError(f"{model.__name__} is no LanceModel: derive it from lancedb.pydantic.LanceModel, or give {FORMS}")
    try:
        arrow = model.to_arrow_schema()
    except Exception as error:
        raise UsageError(f"{model.__name__} has no Arrow schema: {error}") from error
    fields: Dict[str, Any] = getattr(model, "model_fields")
    defaults = {}
    for name, data_type in zip(arrow.names, arrow.types):
        value = _default(model, name, fields.get(name))
        if value is not None:
            try:
                defaults[_part(name)] = literal(_dumped(value), _kind(data_type))
            except UsageError as error:
                raise UsageError(f"the default of {model.__name__}.{name}: {error.message}") from None
    return {"defaults": defaults}, _engine(_relance.Schema, arrow)


def _default(model: type, name: str, field: Any) -> Any:
    """What `field` holds when nothing is given; None, when something has to be. A factory is called once."""
    if field is None or field.is_required():
        return None
    if field.default_factory is None:
        return field.default
    try:
        return field.default_factory()
    except Exception as error:
        raise UsageError(f"the default_factory of {model.__name__}.{name} raised {error!r}") from error


def _dumped(value: Any) -> Any:
    """`value` with models in it as dicts."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, (list, tuple)):
        return [_dumped(one) for one in value]
    return value


def _part(name: str) -> str:
    """`name` as a path of one part."""
    return "`" + name.replace("`", "``") + "`" if "." in name or "`" in name else name
