"""Migrates LanceDB tables, however large, to a new schema: streamed, verified, swapped in by one atomic commit.

>>> import relance
>>> changes = [relance.add("category", "string", default="general"), relance.rename("txt", "text")]
>>> print(relance.plan(("data/my_lancedb", "documents"), changes))  # doctest: +SKIP
>>> relance.migrate(("data/my_lancedb", "documents"), changes, progress=True)  # doctest: +SKIP

``relance.resume`` goes on with what was interrupted, ``relance.rollback`` takes it back. Every call has an async twin
(``migrate_async``); ``relance.start`` gives a job.
"""

from . import results
from ._relance import __version__
from .calls import (
    abort,
    abort_async,
    finalize,
    finalize_async,
    migrate,
    migrate_async,
    plan,
    plan_async,
    resume,
    resume_async,
    rollback,
    rollback_async,
    start,
    start_resume,
    status,
    status_all,
    status_all_async,
    status_async,
    tune,
    tune_async,
    verify,
    verify_async,
)
from .changes import Change, add, cast, compute, drop, fill, join, not_null, nullable, rename, replace, set
from .errors import (
    FailedError,
    ForkedError,
    LockedError,
    MigrationInterruptedError,
    MismatchError,
    NoTableError,
    OutcomeUnknownError,
    RefusedError,
    RelanceError,
    UnfinishedError,
    UsageError,
)
from .jobs import Job
from .producers import embedding_function
from .results import Migrated, Plan, Report

__all__ = [
    "Change",
    "FailedError",
    "ForkedError",
    "Job",
    "LockedError",
    "MigrationInterruptedError",
    "Migrated",
    "MismatchError",
    "NoTableError",
    "OutcomeUnknownError",
    "Plan",
    "RefusedError",
    "RelanceError",
    "Report",
    "UnfinishedError",
    "UsageError",
    "__version__",
    "abort",
    "abort_async",
    "add",
    "cast",
    "compute",
    "drop",
    "embedding_function",
    "fill",
    "finalize",
    "finalize_async",
    "join",
    "migrate",
    "migrate_async",
    "not_null",
    "nullable",
    "plan",
    "plan_async",
    "rename",
    "replace",
    "results",
    "resume",
    "resume_async",
    "rollback",
    "rollback_async",
    "start",
    "start_resume",
    "status",
    "status_all",
    "status_all_async",
    "status_async",
    "tune",
    "tune_async",
    "verify",
    "verify_async",
]
