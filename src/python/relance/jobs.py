"""A call of the engine while it runs, and how Python waits for it."""

from __future__ import annotations

import asyncio
import atexit
import json
import operator
import os
import sys
import time
from typing import Any, Callable, Dict, Generator, Generic, List, Optional, TypeVar

from . import _relance
from .changes import _engine
from .errors import ForkedError, error_of
from .progress import Event, Progress, Reporter, reporter

R = TypeVar("R")

#: Seconds between two looks at signals and events.
_LOOK_SECONDS = 0.1

#: Seconds that the interpreter's end waits for jobs to stop where they can be resumed.
_END_SECONDS = 10.0

#: Jobs whose end nobody has seen yet.
_running: "List[Job[Any]]" = []
_was_used = False
_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = _is_forked or _was_used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Job(Generic[R]):
    """A call that runs in the background: what ``relance.start`` gives.

    It goes on whether or not anybody holds it. Await it, or ``wait`` for it.

    Examples
    --------
    >>> import relance
    >>> job = relance.start(("db", "documents"), [relance.add("lang", "string", default="en")])  # doctest: +SKIP
    >>> job.status()  # doctest: +SKIP
    'running'
    >>> job.wait().report.version_swapped  # doctest: +SKIP
    2
    """

    def __init__(self, asked: Dict[str, Any], schema: Any, progress: Progress, make: Callable[[Dict[str, Any]], R]):
        global _was_used
        if _is_forked:
            raise ForkedError("relance was used before this process was forked off; start it with the spawn method instead")
        self._reporter: Optional[Reporter] = reporter(progress)
        _was_used = True
        self._make, self._cancelled = make, False
        self._last: Optional[Event] = None
        self._call = _engine(lambda: _relance.Call(json.dumps(asked, default=operator.index), schema))
        _running[:] = [job for job in _running if job._call.outcome() is None]
        _running.append(self)

    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``cancelled``. Does not wait."""
        outcome = self._call.outcome()
        if outcome is None:
            return "running"
        error = json.loads(outcome).get("error")
        if error is None:
            return "finished"
        return "cancelled" if self._cancelled and error["kind"] == "interrupted" else "failed"

    @property
    def progress(self) -> Optional[Event]:
        """The last event of progress, as a dict with the fields of ``--progress json``; None before the first."""
        self._tell()
        return self._last

    def cancel(self) -> None:
        """Asks it to stop at the next safe place. What is staged is kept: ``relance.resume`` goes on, ``relance.abort`` drops it."""
        self._cancelled = True
        self._call.cancel()

    def wait(self, timeout: Optional[float] = None) -> R:
        """Waits for the end, ``timeout`` seconds at most, and gives the result.

        Raises
        ------
        TimeoutError
            When it still runs then. It goes on.
        RelanceError
            When it failed.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                ended = self._call.wait(_left(end))
                self._tell()
            except BaseException as stop:
                self._stopped_by(stop)
                raise
            if ended:
                return self._result()
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"the job still runs after {timeout} seconds")

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        pause = 0.001
        try:
            while not self._call.wait(0.0):
                self._tell()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LOOK_SECONDS)
        except BaseException as stop:
            # Whoever cancels the task waits until what is staged is safe.
            self.cancel()
            while not self._call.wait(0.0):
                await asyncio.sleep(_LOOK_SECONDS / 10)
            self._close()
            _note(stop, self._how_to_go_on())
            raise
        return self._result()

    def _stopped_by(self, stop: BaseException) -> None:
        """Stops the job, for `stop`. Another interruption meanwhile ends the waiting."""
        self.cancel()
        while not self._call.wait(_LOOK_SECONDS):
            pass
        self._close()
        _note(stop, self._how_to_go_on())

    def _how_to_go_on(self) -> str:
        outcome: Dict[str, Any] = json.loads(self._call.outcome() or "{}")
        if "error" not in outcome:
            return "relance: it had finished by then"
        return f"relance: {outcome['error']['message']}"

    def _tell(self) -> None:
        events: List[Event] = [json.loads(event) for event in self._call.events()]
        for event in events:
            if event["event"] == "progress":
                self._last = event
            if self._reporter is not None:
                self._reporter.event(event)

    def _close(self) -> None:
        if self._reporter is not None:
            self._reporter.close()

    def _result(self) -> R:
        try:
            self._tell()
        finally:
            self._close()
            self._reporter = None
        outcome: Dict[str, Any] = json.loads(self._call.outcome())
        if "error" in outcome and set(outcome) == {"error"}:
            raise error_of(outcome["error"])
        return self._make(outcome)


def _left(end: Optional[float]) -> float:
    return _LOOK_SECONDS if end is None else max(0.0, min(_LOOK_SECONDS, end - time.monotonic()))


def _note(stop: BaseException, note: str) -> None:
    if sys.version_info >= (3, 11):
        stop.add_note(note)
    elif not isinstance(stop, asyncio.CancelledError):
        stop.args = (*stop.args, note)


@atexit.register
def _end() -> None:
    """Stops what still runs where it can be resumed, as Ctrl-C does."""
    jobs = [job for job in _running if job._call.outcome() is None]
    for job in jobs:
        job.cancel()
    end = time.monotonic() + _END_SECONDS
    for job in jobs:
        job._call.wait(max(0.0, end - time.monotonic()))
