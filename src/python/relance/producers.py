"""Functions that give values: what they get, and what becomes of what they give."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import _relance
from .errors import UsageError


def caller(function: Callable[[Any], Any], data_type: Any) -> Callable[[Any], Any]:
    """`function`, as the engine calls it: with a batch of any Arrow library, for an array of `data_type`."""
    pa = _pyarrow()
    kind = pa.schema(_relance.type_schema(data_type)).field(0).type

    def call(batch: Any) -> Any:
        rows = pa.record_batch(batch)
        return array_of(function(rows), kind)

    return call


def _pyarrow() -> Any:
    try:
        import pyarrow  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise UsageError("a function that gives values needs pyarrow: pip install pyarrow") from None
    return pyarrow


def array_of(given: Any, kind: Any) -> Any:
    """`given` as an array of `kind`: one of an Arrow library, of NumPy, a tensor, a series, or a list."""
    pa = _pyarrow()
    if isinstance(given, (pa.RecordBatch, pa.Table)):
        if given.num_columns != 1:
            raise TypeError(f"it gave {given.num_columns} columns, not 1")
        given = given.column(0)
    if isinstance(given, pa.ChunkedArray):
        given = given.combine_chunks()
    if isinstance(given, pa.ChunkedArray):  # of no chunks
        given = pa.array([], given.type)
    if isinstance(given, pa.Array):
        return given if given.type == kind else given.cast(kind)
    if hasattr(given, "__arrow_c_array__"):
        return array_of(pa.array(given), kind)
    if hasattr(given, "__arrow_c_stream__"):
        return array_of(pa.chunked_array(given), kind)
    if hasattr(given, "detach"):  # torch
        given = given.detach().cpu()
    if hasattr(given, "__array__"):
        import numpy

        return _of_numpy(numpy.asarray(given), kind)
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"it gave {type(given).__name__}, not an array or a list")
    return _of_list(list(given), kind)


def _of_list(given: List[Any], kind: Any) -> Any:
    pa = _pyarrow()
    if _holds_integers(kind):
        # PyArrow would cut fractions off.
        made = pa.array(given)
        if not pa.types.is_null(made.type):
            return made if made.type == kind else made.cast(kind)
    return pa.array(given, kind)


def _holds_integers(kind: Any) -> bool:
    pa = _pyarrow()
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    return bool(pa.types.is_integer(kind)) or any(_holds_integers(one) for one in inner)


def _of_numpy(given: Any, kind: Any) -> Any:
    pa = _pyarrow()
    if given.ndim == 2 and pa.types.is_fixed_size_list(kind):
        if given.shape[1] != kind.list_size:
            raise TypeError(f"it gave vectors of {given.shape[1]} numbers, not {kind.list_size}")
        values = pa.array(given.reshape(-1)).cast(kind.value_type)
        return pa.FixedSizeListArray.from_arrays(values, kind.list_size).cast(kind)
    if given.ndim == 2:
        return pa.array(list(given), kind)
    if given.ndim != 1:
        raise TypeError(f"it gave an array of {given.ndim} dimensions")
    made = pa.array(given)
    return made if made.type == kind else made.cast(kind)


def name_of(function: Any) -> str:
    """What `function` is called in plans and journals."""
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}.{name}"


def spooled(other: Any) -> Any:
    """`other` as a text, or a file with its rows, which goes with the object."""
    if isinstance(other, (str, os.PathLike)):
        return os.fspath(other)
    if not hasattr(other, "__arrow_c_stream__"):
        raise UsageError(f"a file, a table's name or an Arrow stream was expected to join, not {other!r}")
    pa = _pyarrow()
    file = tempfile.NamedTemporaryFile(prefix="relance-join-", suffix=".arrow")
    reader = pa.RecordBatchReader.from_stream(other)
    # As a stream, in which dictionaries may change.
    with pa.OSFile(file.name, "wb") as sink, pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return file


class Embedding:
    """An embedding function of lancedb, and what its registry tells of it."""

    def __init__(self, function: Any, source: Optional[str]):
        self.function, self.source = function, source

    @classmethod
    def of(cls, by: Any) -> Optional["Embedding"]:
        """`by`, if it is one, or the configuration of one."""
        inner = getattr(by, "function", None)
        if inner is not None and hasattr(inner, "compute_source_embeddings"):
            return cls(inner, getattr(by, "source_column", None))
        return cls(by, None) if hasattr(by, "compute_source_embeddings") else None

    @property
    def _alias(self) -> str:
        name = getattr(self.function, "__embedding_function_registry_alias__", type(self.function).__name__)
        return str(name)

    def data_type(self) -> Any:
        """The type of its vectors."""
        pa = _pyarrow()
        return pa.list_(pa.float32(), int(self.function.ndims()))

    def version(self) -> str:
        """What it computes."""
        return f"{self._alias} {json.dumps(self.function.safe_model_dump(), sort_keys=True)}"

    def entry(self, source: str, vector: str) -> str:
        """Its entry in the metadata of a table, as lancedb writes it."""
        entry = {"name": self._alias, "model": self.function.safe_model_dump(), "source_column": source, "vector_column": vector}
        return json.dumps(entry)

    def call(self, batch: Any) -> List[Any]:
        """The vectors of a batch of one column. What is null has none."""
        texts = batch.column(0).to_pylist()
        there = [text for text in texts if text is not None]
        vectors = iter(self.function.compute_source_embeddings(there) if there else [])
        return [None if text is None else next(vectors) for text in texts]


def embedding_function(table: Any, column: str) -> Any:
    """The embedding function that lancedb has registered for a vector column of a table, for ``relance.replace``.

    Parameters
    ----------
    table
        A lancedb ``Table``.
    column : str
        The vector column.

    Raises
    ------
    UsageError
        When none is registered.

    Examples
    --------
    >>> import relance
    >>> function = relance.embedding_function(table, "vector")  # doctest: +SKIP
    >>> relance.replace("vector", function)  # doctest: +SKIP
    """
    from lancedb.embeddings import EmbeddingFunctionRegistry

    registry: Any = EmbeddingFunctionRegistry
    found: Dict[str, Any] = registry.get_instance().parse_functions(table.schema.metadata)
    if column not in found:
        raise UsageError(f"no embedding function is registered for column `{column}`")
    return found[column]


#: What a change gives to the engine: for which column, and what is called.
Functions = Sequence[Tuple[str, Callable[[Any], Any]]]
