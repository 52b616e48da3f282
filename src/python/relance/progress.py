"""Who is told what a call does."""

from __future__ import annotations

import inspect
import sys
from typing import Any, Callable, Dict, Optional, Union

from .errors import UsageError

#: An event, as a line of ``--progress json`` has it.
Event = Dict[str, Any]

#: What calls take as `progress`.
Progress = Union[None, bool, Callable[[Event], Any], Any]


class Reporter:
    """Takes in events."""

    def event(self, event: Event) -> None:
        """Takes in one."""

    def close(self) -> None:
        """Called once, at the end."""


class _Calls(Reporter):
    def __init__(self, call: Callable[[Event], Any]):
        self.call = call

    def event(self, event: Event) -> None:
        self.call(event)


class _Lines(Reporter):
    """Lines on stderr, where there is no tqdm."""

    def event(self, event: Event) -> None:
        what = event["event"]
        if what == "note":
            text = event["text"]
        elif what == "phase":
            text = f"{event['phase']}: {event['rows_total']:,} rows"
        else:
            text = f"{event['phase']}: {event['rows']:,} of {event['rows_total']:,} rows, {event['rows_per_second']:,} rows/s"
        print(f"{event['table']}: {text}", file=sys.stderr)


class _Bar(Reporter):
    """A bar with tqdm's `total` and `update()`."""

    def __init__(self, bar: Any, owned: bool):
        self.bar, self.owned, self.done = bar, owned, 0

    def event(self, event: Event) -> None:
        if event["event"] == "note":
            return
        rows = 0 if event["event"] == "phase" else event["rows"]
        if event["event"] == "phase":
            self._phase(event)
        self.bar.update(rows - self.done)
        self.done = rows

    def _phase(self, event: Event) -> None:
        reset = getattr(self.bar, "reset", None)
        if callable(reset):
            reset(total=event["rows_total"])
            self.done = 0
        else:
            self.bar.total = event["rows_total"]
        describe = getattr(self.bar, "set_description", None)
        if callable(describe):
            describe(f"{event['table']} {event['phase']}")

    def close(self) -> None:
        if self.owned:
            self.bar.close()


def reporter(progress: Progress) -> Optional[Reporter]:
    """Who is told, for what was given as `progress`."""
    if progress is None or progress is False:
        return None
    if progress is True:
        try:
            from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            return _Lines()
        return _Bar(tqdm(unit=" rows"), owned=True)
    if isinstance(progress, type) and hasattr(progress, "update") and hasattr(progress, "close"):
        return _Bar(progress(unit=" rows"), owned=True)
    if not isinstance(progress, type) and hasattr(progress, "update") and hasattr(progress, "total"):
        return _Bar(progress, owned=False)
    if inspect.iscoroutinefunction(progress):
        raise UsageError("progress takes a plain function: nobody would await this one")
    if callable(progress):
        return _Calls(progress)
    raise UsageError(f"progress takes True, a function of an event, or tqdm, not {progress!r}")
