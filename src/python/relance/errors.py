"""What can go wrong: one class for each kind of error."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Type

from .results import Finding


class RelanceError(Exception):
    """The base of all errors.

    Attributes
    ----------
    kind : str
        The word for it in ``relance --json``.
    exit_code : int
        What the command exits with.
    message : str
        What it says, with its causes.
    findings : list of Finding
        Values that do not go through, with a few examples of each; empty where it is not about values.
    version : int or None
        The version that was swapped in, where one was.
    """

    kind = "failed"

    def __init__(self, message: str, details: Optional[Dict[str, Any]] = None):
        super().__init__(message)
        details = details or {}
        self.message = message
        self.exit_code: int = details.get("exit", 1)
        self.findings: List[Finding] = [Finding(one) for one in details.get("findings", [])]
        self.version: Optional[int] = details.get("version")

    def __reduce__(self) -> Any:
        details = {"exit": self.exit_code, "findings": [one.to_dict() for one in self.findings], "version": self.version}
        return type(self), (self.message, details)


class FailedError(RelanceError):
    """Anything else went wrong. The live table is as it was."""


class UsageError(RelanceError, ValueError):
    """The request is malformed: correct it. Nothing was written."""

    kind = "usage"

    def __init__(self, message: str, details: Optional[Dict[str, Any]] = None):
        super().__init__(message, details or {"exit": 2})


class NoTableError(RelanceError, LookupError):
    """No table has the name that was given."""

    kind = "no-table"


class RefusedError(RelanceError):
    """The table does not allow it as it is. Nothing was written."""

    kind = "refused"


class MismatchError(RelanceError):
    """What was staged is not what was expected. Nothing was swapped."""

    kind = "mismatch"


class MigrationInterruptedError(RelanceError):
    """Stopped before the swap, with everything kept: ``resume`` goes on, ``abort`` drops it."""

    kind = "interrupted"


class LockedError(RelanceError):
    """Another migration of this table is staged or running."""

    kind = "locked"


class OutcomeUnknownError(RelanceError):
    """The reply to the swap was lost: it may or may not have landed. Nothing was deleted."""

    kind = "outcome-unknown"


class UnfinishedError(RelanceError):
    """Swapped in as ``version``, whole; something that comes after is left for ``resume``."""

    kind = "unfinished"


class ForkedError(RelanceError, RuntimeError):
    """relance was used before this process was forked off: its threads are not in the new one. Start processes with
    ``multiprocessing.get_context("spawn")``."""


_KINDS: Dict[str, Type[RelanceError]] = {
    one.kind: one
    for one in (FailedError, UsageError, NoTableError, RefusedError, MismatchError, MigrationInterruptedError,
                LockedError, OutcomeUnknownError, UnfinishedError)
}


def error_of(told: Dict[str, Any]) -> RelanceError:
    """The exception for an error as ``--json`` tells it."""
    kind = _KINDS.get(told.get("kind", "failed"), FailedError)
    return kind(told.get("message", ""), told)
