"""A call of the engine while it runs, and how Python waits for it."""

from __future__ import annotations

import asyncio
import atexit
import json
import operator
import os
import sys
import threading
import time
from typing import Any, Callable, Dict, Generator, Generic, List, Optional, TypeVar

from . import _relance
from .changes import _engine
from .errors import ForkedError, error_of
from .producers import Functions
from .progress import Event, Progress, Reporter, reporter

R = TypeVar("R")

#: Seconds between two looks at signals and events.
_LOOK_SECONDS = 0.1

#: Seconds that the interpreter's end waits for jobs to stop where they can be resumed.
_END_SECONDS = 10.0

#: Jobs whose end nobody has seen yet, and who may change the list.
_running: "List[Job[Any]]" = []
_running_lock = threading.Lock()

#: How often this process was forked off since relance was used first.
_forks = 0
_was_used = False


def _after_fork() -> None:
    global _forks, _running_lock
    _forks += _was_used
    _running.clear()
    # Another thread may have held it.
    _running_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Job(Generic[R]):
    """A call that runs in the background: what ``relance.start`` gives.

    It goes on whether or not anybody holds it. Await it, or ``wait`` for it. Events reach whoever was given as ``progress``
    in the thread or the loop that waits.

    Examples
    --------
    >>> import relance
    >>> job = relance.start(("db", "documents"), [relance.add("lang", "string", default="en")])  # doctest: +SKIP
    >>> job.status()  # doctest: +SKIP
    'running'
    >>> job.wait().report.version_swapped  # doctest: +SKIP
    2
    """

    def __init__(
        self,
        asked: Dict[str, Any],
        schema: Any,
        progress: Progress,
        make: Callable[[Dict[str, Any]], R],
        functions: Functions,
        held: Any = None,
    ):
        global _was_used
        _expect_not_forked(0)
        self._reporter: Optional[Reporter] = reporter(progress)
        self._make, self._cancelled, self._forks = make, False, _forks
        # What goes with these, such as a file of what is joined, has to stay.
        self._held = held
        self._name = f"{asked['command']} of {asked['table'] or asked['database']}"
        self._events: List[Event] = []
        self._last: Optional[Event] = None
        # Whoever is told may ask for the progress.
        self._lock = threading.RLock()
        _was_used = True
        self._call = _engine(lambda: _relance.Call(json.dumps(asked, default=operator.index), schema, list(functions)))
        with _running_lock:
            _running[:] = [job for job in _running if job._call.outcome() is None]
            _running.append(self)

    def __repr__(self) -> str:
        return f"<relance.Job: {self._name}, {self.status()}>"

    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``cancelled``. Does not wait."""
        _expect_not_forked(self._forks)
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
        with self._lock:
            self._take_events()
            return self._last

    def cancel(self) -> None:
        """Asks it to stop at the next safe place. What is staged is kept: ``relance.resume`` goes on, ``relance.abort`` drops it."""
        _expect_not_forked(self._forks)
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
        _expect_not_forked(self._forks)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                ended = self._call.wait(_left(end))
                self._tell()
            except BaseException as stop:
                # Another interruption while it stops ends the waiting.
                self.cancel()
                while not self._call.wait(_LOOK_SECONDS):
                    pass
                self._explain(stop)
                raise
            if ended:
                return self._result()
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"the job still runs after {timeout} seconds")

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        _expect_not_forked(self._forks)
        pause = 0.001
        try:
            while not self._call.wait(0.0):
                self._tell()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LOOK_SECONDS)
            self._tell()
        except GeneratorExit:
            # Nothing can be awaited any more.
            self.cancel()
            raise
        except BaseException as stop:
            # Whoever cancels the task waits until what is staged is safe.
            self.cancel()
            while not self._call.wait(0.0):
                try:
                    await asyncio.sleep(_LOOK_SECONDS / 10)
                except asyncio.CancelledError:
                    continue
            self._explain(stop)
            raise
        return self._result()

    def _explain(self, stop: BaseException) -> None:
        """Notes at `stop`, which stopped the waiting, how the job ended."""
        self._close()
        outcome: Dict[str, Any] = json.loads(self._call.outcome() or "{}")
        error = outcome.get("error")
        _note(stop, f"relance: {error['message']}" if error else "relance: it had finished by then")

    def _take_events(self) -> None:
        for text in self._call.events():
            event: Event = json.loads(text)
            self._events.append(event)
            if event["event"] == "progress":
                self._last = event

    def _tell(self) -> None:
        with self._lock:
            self._take_events()
            while self._events:
                event = self._events.pop(0)
                if self._reporter is not None:
                    self._reporter.event(event)

    def _close(self) -> None:
        """Nobody is told any more."""
        with self._lock:
            told, self._reporter = self._reporter, None
            if told is not None:
                told.close()

    def _result(self) -> R:
        self._close()
        self._held = None
        with _running_lock:
            _running[:] = [job for job in _running if job is not self]
        outcome: Dict[str, Any] = json.loads(self._call.outcome())
        if set(outcome) == {"error"}:
            raise error_of(outcome["error"])
        return self._make(outcome)


def _expect_not_forked(forks: int) -> None:
    if _forks != forks:
        raise ForkedError("relance was used before this process was forked off; start it with the spawn method instead")


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
    with _running_lock:
        jobs = [job for job in _running if job._call.outcome() is None]
    for job in jobs:
        job.cancel()
    end = time.monotonic() + _END_SECONDS
    for job in jobs:
        job._call.wait(max(0.0, end - time.monotonic()))
    # A function that comes back to an interpreter that has ended takes the process down.
    while _relance.calls_under_way() and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS / 10)
