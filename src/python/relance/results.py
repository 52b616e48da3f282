"""What calls give back: objects with the fields of ``relance --json``."""

from __future__ import annotations

import html
import json
import sys
import typing
from typing import Any, Dict, List, Optional, Sequence, Union

_HINTS: Dict[type, Dict[str, Any]] = {}


class Record:
    """An object with the fields of a JSON object. Fields that this version has no name for are in ``to_dict()``."""

    def __init__(self, data: Dict[str, Any]):
        self._data = data
        hints = _HINTS.get(type(self))
        if hints is None:
            hints = typing.get_type_hints(type(self), vars(sys.modules[__name__]))
            _HINTS[type(self)] = hints
        for name, hint in hints.items():
            setattr(self, name, _made(hint, data.get(name)))

    def to_dict(self) -> Dict[str, Any]:
        """The fields as plain data: what ``--json`` prints."""
        return self._data

    def to_json(self) -> str:
        """The same as JSON."""
        return json.dumps(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and type(self) is type(other) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in _HINTS[type(self)])
        return f"{type(self).__name__}({fields})"


def _made(hint: Any, value: Any) -> Any:
    """`value` with the records that `hint` says are in it."""
    if value is None:
        return [] if typing.get_origin(hint) is list else None
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Union:
        if TableUnknown in arguments:
            return TableUnknown(value) if "error" in value else TableStatus(value)
        return _made(arguments[0], value)
    if typing.get_origin(hint) is list:
        return [_made(arguments[0], one) for one in value]
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint(value)
    return value


class Example(Record):
    """A value, and the row that it is in."""

    #: LanceDB's ``_rowid``, where row ids are not stable; the row's address everywhere.
    row: int
    value: str


class Finding(Record):
    """Values of a column that a change cannot take over."""

    column: str
    #: ``null``, ``not-a-value``, ``overflow`` or ``lossy``.
    problem: str
    count: int
    examples: List[Example]


class Nulled(Record):
    """Values that did not go through and became null."""

    column: str
    problem: str
    count: int


class SkippedValues(Record):
    """How a column that was there already compares with what was asked for."""

    column: str
    rows: int
    others: int
    nulls: int
    #: What ``fill`` would put in place of nulls.
    fill: Optional[str]


class Field(Record):
    """A column."""

    name: str
    type: str
    nullable: bool


class ChangeDetail(Record):
    """How a change is carried out."""

    change: str
    strategy: str
    why: str
    #: The change that takes it back; None, where it loses values.
    undo: Optional[str]


class StrategyCost(Record):
    """What another strategy would cost."""

    strategy: str
    read_bytes: int
    write_bytes: int
    needed_bytes: int


class Chunk(Record):
    """A unit of work and of resume."""

    id: int
    rows: int
    bytes: int
    fragments: List[int]


class Index(Record):
    """An index of the table, and what becomes of it: ``keep``, ``rebuild`` or ``drop``."""

    name: str
    column: str
    kind: str
    fate: str


class ProducerTrial(Record):
    """What gives the values of a column gave for the first rows, and how long all of them will take at this rate."""

    column: str
    rows: int
    seconds: float
    seconds_in_all: int
    example: Optional[str]


class JoinTrial(Record):
    """How the rows of the table find their keys in the other data of a join."""

    #: Rows there that have a key, and different keys among them.
    rows: int
    keys: int
    #: Rows there that repeat a key.
    duplicates: int
    #: Rows of the table whose key is there, and is not.
    matched: int
    missing: int
    #: The ``_rowid`` of a few that are missing.
    examples: List[int]


class StoreEstimate(Record):
    """Requests to an object store that write or list, and that read; the bytes each way; and what that costs. ``commits`` is whether
    it commits safely: ``"safe"``, ``"untried"``, which ``migrate`` tries, or ``"tried"``, which is safe as well."""

    writes: int
    reads: int
    bytes_sent: int
    bytes_received: int
    dollars: float
    commits: str


class Plan(Record):
    """What a migration would do, and what it would cost. ``print(plan)`` shows it as the command does."""

    table: str
    version: int
    #: ``nothing``, ``metadata``, ``columns`` or ``rewrite``.
    strategy: str
    why: str
    changes: List[str]
    change_details: List[ChangeDetail]
    other_strategies: List[StrategyCost]
    skipped: List[str]
    skipped_values: List[SkippedValues]
    lost: List[str]
    bad_values: List[Finding]
    schema_before: List[Field]
    schema_after: List[Field]
    storage_version: str
    storage_version_before: str
    rows: int
    fragments: int
    chunks: List[Chunk]
    read_bytes: int
    write_bytes: int
    verify_bytes: int
    needed_bytes: int
    free_bytes: Optional[int]
    #: What it asks of the object store, about; ``None`` on a disk.
    store: Optional[StoreEstimate]
    copied_columns: List[str]
    indices: List[Index]
    undo: Optional[List[str]]
    producers: List[ProducerTrial]
    joins: List[JoinTrial]

    def __init__(self, data: Dict[str, Any], text: str = "", saved: str = "", functions: Sequence[Any] = (), held: Any = None):
        super().__init__(data)
        self._text = text
        #: The functions that give values, each with its column.
        self.functions = list(functions)
        self._held = held
        #: The plan for ``migrate(..., plan=plan)``, as ``relance plan --out`` writes it.
        self.saved = saved

    def __getstate__(self) -> Dict[str, Any]:
        # Functions and files stay in their process.
        return {**self.__dict__, "functions": [], "_held": None}

    def __str__(self) -> str:
        return self._text.rstrip()

    def _repr_html_(self) -> str:
        before = {field.name: field for field in self.schema_before}
        rows = "".join(_schema_row(before.get(field.name), field) for field in self.schema_after)
        after = {field.name for field in self.schema_after}
        rows += "".join(_schema_row(field, None) for field in self.schema_before if field.name not in after)
        details = "".join(
            f"<li><code>{html.escape(one.change)}</code> ({html.escape(one.strategy)}: {html.escape(one.why)})</li>"
            for one in self.change_details
        )
        lost = "".join(f"<li>{html.escape(one)}</li>" for one in self.lost)
        return (
            f"<div><b>{html.escape(self.table)}</b> at version {self.version}: strategy <b>{html.escape(self.strategy)}</b>, "
            f"{html.escape(self.why)}.<br>{self.rows:,} rows in {self.fragments:,} fragments; reads {_bytes(self.read_bytes)}, "
            f"writes {_bytes(self.write_bytes)}.<ul>{details}</ul>"
            + (f"Lost:<ul>{lost}</ul>" if lost else "")
            + f"<table><thead><tr><th>column</th><th>before</th><th>after</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )


def _schema_row(before: Optional[Field], after: Optional[Field]) -> str:
    shown = ["" if one is None else html.escape(one.type + ("" if one.nullable else " not null")) for one in (before, after)]
    name = html.escape((after or before).name)  # type: ignore[union-attr]
    cells = f"<td>{name}</td><td>{shown[0]}</td><td>{shown[1]}</td>"
    return f"<tr>{cells}</tr>" if shown[0] == shown[1] else f'<tr style="font-weight:bold">{cells}</tr>'


def _bytes(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if size >= 10 or units[0] == "B" else f"{size:.1f} {units[0]}"


class PhaseSeconds(Record):
    """How long a phase took."""

    phase: str
    seconds: float


class PhaseFigures(Record):
    """What one phase asked of an object store."""

    phase: str
    requests: Dict[str, int]
    bytes_sent: int
    bytes_received: int


class StoreFigures(Record):
    """Requests to an object store by kind, and bytes that went there and came back: in all, and by phase."""

    requests: Dict[str, int]
    bytes_sent: int
    bytes_received: int
    phases: List[PhaseFigures]


class Report(Record):
    """A migration that is done."""

    table: str
    id: str
    changes: List[str]
    skipped: List[str]
    skipped_values: List[SkippedValues]
    strategy: str
    #: The version before the swap, which is the rollback point.
    version_before: int
    version_swapped: int
    #: The newest version, after indices were built.
    version_after: int
    rollback_tag: str
    rows: int
    fragments_before: int
    fragments_after: int
    bytes_written: int
    #: ``full``, ``full=read`` or ``quick``.
    verified: str
    #: Bytes that were not read back for it, since the store confirmed them by its own checksum; 0 on a disk.
    bytes_confirmed: int
    values_nulled: List[Nulled]
    rounds: int
    swapped_after_seconds: Optional[float]
    indices_rebuilt: List[str]
    indices_dropped: List[str]
    fields: List[str]
    seconds: List[PhaseSeconds]
    #: What was asked of the object store; ``None`` on a disk.
    store: Optional[StoreFigures]
    notes: List[str]


class Held(Record):
    """A migration that waits for ``resume``."""

    table: str
    id: str
    rows: int
    values_nulled: List[Nulled]
    taken_over: bool


class Migrated(Record):
    """How a migration ended: ``swapped`` with a ``report``, ``held``, or ``nothing`` with the ``plan`` that says why."""

    ended: str
    report: Optional[Report]
    held: Optional[Held]
    plan: Optional[Plan]


class Aborted(Record):
    """A migration that was dropped."""

    table: str
    id: str
    pins: int
    files: int
    bytes: int
    left: List[str]


class RunFigures(Record):
    """How far a run was when it was last seen."""

    phase: str
    rows_done: int
    rows: int
    rows_per_second: int
    bytes_per_second: int
    eta_seconds: Optional[int]
    limited_by: Optional[str]


class Staged(Record):
    """A migration that is staged."""

    id: str
    #: ``running``, ``held``, ``interrupted``, ``running or died``, ``swapped`` or ``unreadable``.
    state: str
    phase: str
    began: str
    seen: str
    host: str
    swap: Optional[str]
    problem: Optional[str]
    source_version: int
    changes: List[str]
    chunks_done: int
    chunks: int
    rows_done: int
    rows: int
    alive: bool
    progress: Optional[RunFigures]


class Nulls(Record):
    """A column that was added with a value, and is null in rows that were written since."""

    column: str
    rows: int
    at_least: bool
    #: The command that fills them.
    fill: str


class RollbackPoint(Record):
    """Where a table can be rolled back to."""

    id: str
    version: int
    swapped: int
    commits_since: int
    commits_at_least: bool
    versions_since: int
    nulls: List[Nulls]
    nulls_unknown: Optional[str]


class Pin(Record):
    """A version that is kept for a migration that is not there: ``abort`` lets it go; or for a rollback point that was not given
    up to its end: ``finalize`` goes on."""

    id: str
    version: int
    finalize: bool


class TableStatus(Record):
    """What is known of a table's migrations."""

    table: str
    version: int
    staged: Optional[Staged]
    rollback_points: List[RollbackPoint]
    pins: List[Pin]


class ErrorInfo(Record):
    """Why a table could not be looked at."""

    kind: str
    message: str
    exit: int


class TableUnknown(Record):
    """A table that could not be looked at."""

    table: str
    error: ErrorInfo


class Status(Record):
    """What is known of every table of a database."""

    tables: List[Union[TableStatus, TableUnknown]]


class ColumnDigest(Record):
    """A column's digest, equal on both sides."""

    column: str
    digest: str


class Verified(Record):
    """The live table compared with its rollback point."""

    table: str
    id: str
    before: int
    swapped: int
    rows: int
    columns: List[ColumnDigest]
    commits_since: int
    commits_at_least: bool


class Unused(Record):
    """What is kept and not used any more."""

    files: int
    bytes: int


class RolledBack(Record):
    """The version before the swap, put back."""

    table: str
    id: str
    restored: int
    version: int
    discarded_commits: int
    kept_commits: int
    indices_dropped: List[str]
    unused: Optional[Unused]


class KeptVersion(Record):
    """A version that a tag keeps."""

    version: int
    tag: str


class Finalized(Record):
    """A rollback point given up."""

    table: str
    id: str
    version: int
    rolled_back: bool
    files: int
    bytes: int
    older_versions: int
    kept: List[KeptVersion]


class Trial(Record):
    """Settings that were tried."""

    batch_bytes: int
    workers: int
    queue: int
    rounds: int
    seconds: float
    seconds_min: float
    seconds_max: float
    bytes_per_second: float
    peak_bytes: Optional[int]


class Tuned(Record):
    """What was found for a table."""

    table: str
    row_bytes: int
    sample_rows: int
    sample_bytes: int
    trials: List[Trial]
    best: Trial
    differs: bool
    #: The best as flags of the command.
    flags: str
