"""The calls: one for each of the command's, each with an async twin."""

from __future__ import annotations

import datetime
import functools
import inspect
import os
from collections.abc import Iterable
from typing import Any, Callable, Coroutine, Dict, List, Mapping, Optional, ParamSpec, Tuple, TypeVar, Union

from .changes import Change, asked, functions
from .errors import UsageError
from .jobs import Job
from .places import place_of
from .producers import Functions
from .progress import Progress
from .results import Aborted, Finalized, Migrated, Plan, RolledBack, Status, TableStatus, Tuned, Verified
from .targets import target

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Callable[..., Any])

#: A table: ``(db, name)``, a lancedb ``Table``, ``(connection, name)``, a ``lance`` dataset, or the URI of one.
Table = Any

#: What is asked for: changes and texts of them, in the order in which they are applied.
Changes = Union[None, str, Change, Iterable[Union[str, Change]]]

#: A number of seconds, or a text such as ``"10m"``.
Time = Union[None, float, str, datetime.timedelta]

#: A number of bytes, or a text such as ``"64MiB"``.
Bytes = Union[None, int, str]

_STRATEGIES = ("auto", "metadata", "columns", "rewrite")


def _blocking(start: Callable[P, Job[R]]) -> Callable[P, R]:
    @functools.wraps(start)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return start(*args, **kwargs).wait()

    return _signed(call, start)


def _awaiting(start: Callable[P, Job[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    @functools.wraps(start)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return await start(*args, **kwargs)

    return _signed(call, start)


def _signed(call: C, start: Callable[..., Any]) -> C:
    """`call`, which gives what the job of `start` ends with, and says so."""
    signature = inspect.signature(start)
    gives = str(signature.return_annotation).removeprefix("Job[").removesuffix("]")
    setattr(call, "__signature__", signature.replace(return_annotation=gives))
    call.__annotations__ = {**start.__annotations__, "return": gives}
    return call


def _start(
    command: str,
    table: Table,
    make: Callable[[Dict[str, Any]], R],
    store: Tuple[Optional[Mapping[str, Any]], Time],
    progress: Progress,
    *,
    whole: bool = False,
    to: Any = None,
    given: Functions = (),
    held: Any = None,
    **more: Any,
) -> Job[R]:
    storage_options, store_timeout = store
    place = place_of(table, storage_options, whole=whole)
    if whole and place.table is not None:
        raise UsageError("a database was expected, not a table")
    if to is not None and more["request"]["changes"]:
        raise UsageError("a schema to come to says what changes: leave the changes out")
    options, schema = ({}, None) if to is None else target(to, place)
    told = {"command": command, "database": place.database, "table": place.table, "storage_options": place.storage_options}
    told["store_timeout"] = _text(store_timeout)
    return Job({**told, **options, **more}, schema, progress, make, given, held)


def _request(
    changes: Changes = None,
    where: Optional[str] = None,
    storage_version: Optional[str] = None,
    rows_per_file: Optional[int] = None,
    on_bad_value: str = "fail",
    preflight: str = "full",
    allow_key_change: bool = False,
    if_exists: str = "skip",
    drop_index: Union[str, Iterable[str]] = (),
    strategy: str = "auto",
) -> Dict[str, Any]:
    _one_of("strategy", strategy, _STRATEGIES)
    _one_of("on_bad_value", on_bad_value, ("fail", "null", "quarantine"))
    _one_of("preflight", preflight, ("full", "sample"))
    _one_of("if_exists", if_exists, ("skip", "error"))
    return {
        "changes": asked(changes),
        "filter": where,
        "storage_version": storage_version,
        "rows_per_file": rows_per_file,
        "on_bad_value": on_bad_value,
        "preflight": preflight,
        "allow_key_change": allow_key_change,
        "if_exists": if_exists,
        "drop_indices": _names("drop_index", drop_index),
        "strategy": None if strategy == "auto" else strategy,
    }


def _settings(
    batch_size: Union[None, int, str] = None,
    workers: Optional[int] = None,
    memory: Bytes = None,
    max_rate: Bytes = None,
    queue: Optional[int] = None,
    control: Union[None, str, "os.PathLike[str]"] = None,
    verify: Optional[str] = None,
    hold: Union[bool, str] = False,
    max_rounds: Optional[int] = None,
    cutover_timeout: Time = None,
    by_parallel: Optional[int] = None,
    by_retries: Optional[int] = None,
    by_timeout: Time = None,
    finite: bool = False,
    try_store: bool = False,
) -> Dict[str, Any]:
    if verify is not None:
        _one_of("verify", verify, ("full", "full=read", "quick"))
    if not isinstance(hold, bool):
        _one_of("hold", hold, ("exit", "wait"))
    return {
        "batch_size": _text(batch_size),
        "workers": workers,
        "memory": _text(memory),
        "max_rate": _text(max_rate),
        "queue": queue,
        "control": None if control is None else os.fspath(control),
        "verify": verify,
        "hold": hold if isinstance(hold, str) else "exit" if hold else None,
        "max_rounds": max_rounds,
        "cutover_timeout": _text(cutover_timeout),
        "by_parallel": by_parallel,
        "by_retries": by_retries,
        "by_timeout": _text(by_timeout),
        "finite": finite,
        "try_store": try_store,
    }


def _text(value: Any) -> Optional[str]:
    if isinstance(value, datetime.timedelta):
        return f"{value.total_seconds():.3f}s"
    return None if value is None else str(value)


def _names(what: str, names: Union[str, Iterable[str]]) -> List[str]:
    if not isinstance(names, Iterable):
        raise UsageError(f"{what} takes a name or a list of them, not {names!r}")
    return [names] if isinstance(names, str) else list(names)


def _one_of(name: str, value: str, words: Iterable[str]) -> None:
    if value not in words:
        raise UsageError(f"{name} is one of {', '.join(words)}, not {value!r}")


def _planned(given: Functions, held: Any, told: Dict[str, Any]) -> Plan:
    return Plan(told["plan"], told["text"], told["saved"], given, held)


def _listed(changes: Changes) -> Any:
    """`changes` as they can be gone through more than once."""
    if changes is None or isinstance(changes, (str, Change)) or not isinstance(changes, Iterable):
        return changes
    return list(changes)


def _plan(
    table: Table,
    changes: Changes = None,
    *,
    to: Any = None,
    where: Optional[str] = None,
    storage_version: Optional[str] = None,
    rows_per_file: Optional[int] = None,
    on_bad_value: str = "fail",
    preflight: str = "full",
    allow_key_change: bool = False,
    if_exists: str = "skip",
    drop_index: Union[str, Iterable[str]] = (),
    strategy: str = "auto",
    batch_size: Union[None, int, str] = None,
    workers: Optional[int] = None,
    memory: Bytes = None,
    max_rate: Bytes = None,
    by_parallel: Optional[int] = None,
    by_retries: Optional[int] = None,
    by_timeout: Time = None,
    finite: bool = False,
    try_store: bool = False,
    storage_options: Optional[Mapping[str, Any]] = None,
    store_timeout: Time = None,
    progress: Progress = None,
) -> Job[Plan]:
    """Tells what ``migrate`` would do with the same arguments, and what it would cost. Writes nothing.

    Parameters
    ----------
    try_store : bool
        Write an empty object to the object store, twice, and remove it: whether these credentials may, and whether the store
        commits safely. Nothing is tried on a disk.

    Returns
    -------
    Plan
        ``print(plan)`` shows it; in a notebook it shows itself. ``migrate(table, plan=plan)`` carries it out as it was shown.

    Raises
    ------
    RefusedError
        When values do not go through; ``error.findings`` has them, with examples.
    UsageError, NoTableError
        As ``migrate``.

    Examples
    --------
    >>> import relance
    >>> plan = relance.plan(("db", "documents"), [relance.add("lang", "string", default="en")])  # doctest: +SKIP
    >>> plan.strategy  # doctest: +SKIP
    'columns'
    """
    changes = _listed(changes)
    request = _request(changes, where, storage_version, rows_per_file, on_bad_value, preflight, allow_key_change, if_exists,
                       drop_index, strategy)
    settings = _settings(batch_size, workers, memory, max_rate, by_parallel=by_parallel, by_retries=by_retries,
                         by_timeout=by_timeout, finite=finite, try_store=try_store)
    given = functions(changes)
    return _start("plan", table, functools.partial(_planned, given, changes), (storage_options, store_timeout), progress, to=to, given=given,
                  held=changes, request=request, settings=settings)


def start(
    table: Table,
    changes: Changes = None,
    *,
    to: Any = None,
    plan: Union[None, str, Plan] = None,
    where: Optional[str] = None,
    storage_version: Optional[str] = None,
    rows_per_file: Optional[int] = None,
    on_bad_value: str = "fail",
    preflight: str = "full",
    allow_key_change: bool = False,
    if_exists: str = "skip",
    drop_index: Union[str, Iterable[str]] = (),
    strategy: str = "auto",
    hold: Union[bool, str] = False,
    verify: str = "full",
    batch_size: Union[None, int, str] = None,
    workers: Optional[int] = None,
    memory: Bytes = None,
    max_rate: Bytes = None,
    queue: Optional[int] = None,
    control: Union[None, str, "os.PathLike[str]"] = None,
    max_rounds: Optional[int] = None,
    cutover_timeout: Time = None,
    by_parallel: Optional[int] = None,
    by_retries: Optional[int] = None,
    by_timeout: Time = None,
    finite: bool = False,
    storage_options: Optional[Mapping[str, Any]] = None,
    store_timeout: Time = None,
    progress: Progress = None,
) -> Job[Migrated]:
    """Migrates a table: stages, catches up with what others write meanwhile, verifies, and swaps in one commit.

    Whatever dies, whenever, the table reads as before or as after. What was staged is kept: ``resume`` goes on with it,
    ``abort`` drops it. ``start`` takes the same and gives a job.

    Parameters
    ----------
    table
        ``(db, name)``, a lancedb ``Table``, ``(connection, name)``, or the URI of its dataset. Storage options of a
        connection are taken over.
    changes : list of Change or str
        In the order in which they are applied: ``relance.add(...)`` and its like, or the command's texts
        (``"add lang:string=en"``).
    to : optional
        A schema to come to instead: one of an Arrow library, a ``LanceModel`` (the defaults of its fields are what new
        columns hold), a lancedb ``Table``, the name of another table of the database, or a file. Renames are never guessed.
    plan : Plan, optional
        A plan to carry out as it was shown, instead.
    where : str, optional
        SQL over the columns as they are: rows for which it holds not stay behind.
    storage_version, rows_per_file : optional
        Writes every row anew: in this storage version, with so many rows a file.
    on_bad_value : str
        What becomes of values that do not go through: ``"fail"`` refuses (the default), ``"null"``, or ``"quarantine"``,
        which keeps their rows in ``<table>__relance_quarantine`` too.
    preflight : str
        How much of the data the changes are tried on first: ``"full"`` (the default) or ``"sample"``.
    allow_key_change : bool
        Whether columns of the primary key may change. Default: False.
    if_exists : str
        What becomes of an added column that is there with the same type: ``"skip"`` (the default) or ``"error"``.
    drop_index : str or list of str
        Indices to give up.
    strategy : str
        ``"auto"`` (the default) takes the cheapest of ``"metadata"``, ``"columns"`` and ``"rewrite"``.
    hold : bool or str
        True ends before the swap, with everything staged and verified; ``"wait"`` goes on catching up. ``resume`` swaps.
    verify : str
        ``"full"`` (the default) compares every value; what a store confirms by its own checksum is not read back then, unless
        it is ``"full=read"``. ``"quick"`` compares counts, schemas and samples.
    batch_size, workers, memory, max_rate, queue, control, max_rounds, cutover_timeout : optional
        How it is run, as the command's flags; bytes are numbers or texts such as ``"64MiB"``, times are seconds or ``"5m"``.
    by_parallel, by_retries, by_timeout, finite : optional
        How what gives values is called: how many calls at once (1 for a function), how often one that failed is tried again
        (2), after which time one has failed, and whether numbers that are infinite or none are no values.
    storage_options : dict, optional
        Options of the object store, over those of the connection.
    store_timeout : float or str, optional
        How long an object store may be away before the call gives up. Default: five minutes.
    progress : optional
        True shows a bar (tqdm's, if it is installed, and lines on stderr otherwise); or a function that takes events, which
        are dicts with the fields of ``--progress json``; or a tqdm bar.

    Returns
    -------
    Migrated
        ``ended`` is ``"swapped"`` with a ``report``, ``"held"`` with ``held``, or ``"nothing"`` with the ``plan`` that says why.

    Raises
    ------
    UsageError, NoTableError, RefusedError
        Before anything is written. A RefusedError has ``findings``.
    LockedError
        When another migration of the table is staged.
    MismatchError
        When what was staged is not what was expected. Nothing is swapped.
    MigrationInterruptedError
        When it was cancelled, or others write faster than it catches up.
    OutcomeUnknownError, UnfinishedError
        When the swap's reply was lost, and when something after the swap is left.
    KeyboardInterrupt
        At Ctrl-C, once what is staged is safe; its note says how to go on.

    Examples
    --------
    >>> import relance
    >>> done = relance.migrate(("db", "documents"), [relance.add("lang", "string", default="en")])  # doctest: +SKIP
    >>> done.report.version_swapped  # doctest: +SKIP
    2
    """
    changes = _listed(changes)
    request = _request(changes, where, storage_version, rows_per_file, on_bad_value, preflight, allow_key_change, if_exists,
                       drop_index, strategy)
    settings = _settings(batch_size, workers, memory, max_rate, queue, control, verify, hold, max_rounds, cutover_timeout,
                         by_parallel, by_retries, by_timeout, finite)
    given = [*functions(changes), *(plan.functions if isinstance(plan, Plan) else [])]
    saved = plan.saved if isinstance(plan, Plan) else plan
    if saved is not None and (to is not None or request != _request()):
        raise UsageError("a plan says what to do: leave out what else is asked of the table")
    return _start("migrate", table, Migrated, (storage_options, store_timeout), progress, to=to, given=given, held=(changes, plan), request=request,
                  settings=settings, planned=saved)


def start_resume(
    table: Table,
    changes: Changes = None,
    *,
    drop_index: Union[str, Iterable[str]] = (),
    hold: Union[bool, str] = False,
    verify: str = "full",
    batch_size: Union[None, int, str] = None,
    workers: Optional[int] = None,
    memory: Bytes = None,
    max_rate: Bytes = None,
    queue: Optional[int] = None,
    control: Union[None, str, "os.PathLike[str]"] = None,
    max_rounds: Optional[int] = None,
    cutover_timeout: Time = None,
    by_parallel: Optional[int] = None,
    by_retries: Optional[int] = None,
    by_timeout: Time = None,
    finite: bool = False,
    storage_options: Optional[Mapping[str, Any]] = None,
    store_timeout: Time = None,
    progress: Progress = None,
) -> Job[Migrated]:
    """Goes on with the migration that is staged, wherever it stopped, on this machine or another. ``start_resume`` takes the
    same and gives a job.

    Parameters
    ----------
    changes : list of Change or str, optional
        The changes that the migration began with. They need not be repeated, but for those whose values a function gives.

    Raises
    ------
    FailedError
        When nothing is staged.
    RefusedError
        When others are given than those that are staged.
    LockedError
        When it runs.
    RelanceError
        Otherwise as ``migrate``.

    Examples
    --------
    >>> import relance
    >>> relance.resume(("db", "documents")).ended  # doctest: +SKIP
    'swapped'
    """
    changes = _listed(changes)
    request = {"changes": asked(changes), "drop_indices": _names("drop_index", drop_index)}
    settings = _settings(batch_size, workers, memory, max_rate, queue, control, verify, hold, max_rounds, cutover_timeout,
                         by_parallel, by_retries, by_timeout, finite)
    return _start("resume", table, Migrated, (storage_options, store_timeout), progress, given=functions(changes), held=changes,
                  request=request, settings=settings)


def _abort(
    table: Table,
    *,
    storage_options: Optional[Mapping[str, Any]] = None,
    store_timeout: Time = None,
    progress: Progress = None,
) -> Job[Aborted]:
    """Drops the migration that is staged, and every file that it wrote. The table is not touched.

    Raises
    ------
    FailedError
        When nothing is staged.
    LockedError
        When it runs.
    RefusedError
        When its swap has landed: ``resume`` finishes it, ``rollback`` takes it back.

    Examples
    --------
    >>> import relance
    >>> relance.abort(("db", "documents")).files  # doctest: +SKIP
    3
    """
    return _start("abort", table, Aborted, (storage_options, store_timeout), progress)


def _rollback(
    table: Table,
    *,
    discard_writes: bool = False,
    keep_writes: bool = False,
    workers: Optional[int] = None,
    memory: Bytes = None,
    max_rate: Bytes = None,
    storage_options: Optional[Mapping[str, Any]] = None,
    store_timeout: Time = None,
    progress: Progress = None,
) -> Job[RolledBack]:
    """Takes the last swap back, in one commit.

    Parameters
    ----------
    discard_writes : bool
        Discards what others wrote since. Default: False, which refuses when somebody has.
    keep_writes : bool
        Undoes the changes in every row instead, so that what was written since stays. Default: False.

    Raises
    ------
    FailedError
        When there is nothing to go back to.
    RefusedError
        When others have written since, and neither is given.

    Examples
    --------
    >>> import relance
    >>> relance.rollback(("db", "documents")).restored  # doctest: +SKIP
    1
    """
    if discard_writes and keep_writes:
        raise UsageError("discard_writes and keep_writes exclude each other")
    writes = "discard" if discard_writes else "keep" if keep_writes else "refuse"
    settings = _settings(None, workers, memory, max_rate)
    return _start("rollback", table, RolledBack, (storage_options, store_timeout), progress, writes=writes, settings=settings)


def _finalize(
    table: Table,
    *,
    history: bool = False,
    storage_options: Optional[Mapping[str, Any]] = None,
    store_timeout: Time = None,
    progress: Progress = None,
) -> Job[Finalized]:
    """Gives up the rollback point of the last swap, and reclaims what only that version used.

    Parameters
    ----------
    history : bool
        Removes every untagged version before the swap, too. Default: False.

    Raises
    ------
    FailedError
        When there is no rollback point.
    LockedError
        When a migration is staged.

    Examples
    --------
    >>> import relance
    >>> relance.finalize(("db", "documents")).bytes  # doctest: +SKIP
    1048576
    """
    return _start("finalize", table, Finalized, (storage_options, store_timeout), progress, history=history)


def _verify(
    table: Table,
    *,
    workers: Optional[int] = None,
    memory: Bytes = None,
    max_rate: Bytes = None,
    storage_options: Optional[Mapping[str, Any]] = None,
    store_timeout: Time = None,
    progress: Progress = None,
) -> Job[Verified]:
    """Compares every value of the swapped version with its rollback point, transformed again. Writes nothing.

    Raises
    ------
    FailedError
        When there is no rollback point.
    MismatchError
        On any difference, which names the column.

    Examples
    --------
    >>> import relance
    >>> relance.verify(("db", "documents")).rows  # doctest: +SKIP
    1000000
    """
    settings = _settings(None, workers, memory, max_rate)
    return _start("verify", table, Verified, (storage_options, store_timeout), progress, settings=settings)


def _status(
    table: Table, *, storage_options: Optional[Mapping[str, Any]] = None, store_timeout: Time = None
) -> Job[TableStatus]:
    """Tells what is staged of a table, and where it can be rolled back to. Writes nothing.

    Raises
    ------
    NoTableError
        When the table is not there.

    Examples
    --------
    >>> import relance
    >>> relance.status(("db", "documents")).staged  # doctest: +SKIP
    """
    return _start("status", table, TableStatus, (storage_options, store_timeout), None)


def _status_all(
    database: Any, *, storage_options: Optional[Mapping[str, Any]] = None, store_timeout: Time = None
) -> Job[Status]:
    """Tells the same of every table of a database, which is its path or URI, or a connection.

    Examples
    --------
    >>> import relance
    >>> [table.table for table in relance.status_all("db").tables]  # doctest: +SKIP
    ['documents']
    """
    return _start("status", database, Status, (storage_options, store_timeout), None, whole=True)


def _tune(
    table: Table,
    changes: Changes = None,
    *,
    time: Union[float, str, datetime.timedelta] = "60s",
    batch_size: Union[None, int, str] = None,
    workers: Optional[int] = None,
    memory: Bytes = None,
    max_rate: Bytes = None,
    queue: Optional[int] = None,
    verify: str = "full",
    storage_options: Optional[Mapping[str, Any]] = None,
    store_timeout: Time = None,
    progress: Progress = None,
) -> Job[Tuned]:
    """Measures batch sizes, workers and queues on the table's first rows for about ``time``, and says which to use.

    Examples
    --------
    >>> import relance
    >>> relance.tune(("db", "documents"), time="30s").flags  # doctest: +SKIP
    '--batch-size 1MiB --workers 2 --queue 2'
    """
    request = {"changes": asked(changes)}
    settings = _settings(batch_size, workers, memory, max_rate, queue, None, verify)
    return _start("tune", table, Tuned, (storage_options, store_timeout), progress, request=request, settings=settings, time=_text(time))


plan, plan_async = _blocking(_plan), _awaiting(_plan)
migrate, migrate_async = _blocking(start), _awaiting(start)
resume, resume_async = _blocking(start_resume), _awaiting(start_resume)
abort, abort_async = _blocking(_abort), _awaiting(_abort)
rollback, rollback_async = _blocking(_rollback), _awaiting(_rollback)
finalize, finalize_async = _blocking(_finalize), _awaiting(_finalize)
verify, verify_async = _blocking(_verify), _awaiting(_verify)
status, status_async = _blocking(_status), _awaiting(_status)
status_all, status_all_async = _blocking(_status_all), _awaiting(_status_all)
tune, tune_async = _blocking(_tune), _awaiting(_tune)

_TWINS: List[str] = ["plan", "migrate", "resume", "abort", "rollback", "finalize", "verify", "status", "status_all", "tune"]
for _name in _TWINS:
    for _twin in (_name, f"{_name}_async"):
        globals()[_twin].__name__ = globals()[_twin].__qualname__ = _twin
