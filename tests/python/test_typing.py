"""Type checkers see what calls take and give."""

import subprocess
import sys

import pytest

pytest.importorskip("mypy")

PROGRAM = """
import asyncio
import relance
from relance.results import Finding, TableStatus

changes: list[relance.Change | str] = [relance.add("lang", "string", default="en"), "drop text"]
plan: relance.Plan = relance.plan(("db", "documents"), changes)
done: relance.Migrated = relance.migrate("db/documents.lance", plan=plan, progress=True)
report: relance.Report | None = done.report
job: relance.Job[relance.Migrated] = relance.start(("db", "documents"), relance.drop("a"), progress=print)
again: relance.Migrated = job.wait(timeout=5.0)
try:
    relance.resume(("db", "documents"))
except relance.RefusedError as error:
    findings: list[Finding] = error.findings

async def life() -> relance.Migrated:
    await job
    task = asyncio.create_task(relance.plan_async(("db", "documents"), changes))
    shown: relance.Plan = await task
    return await relance.migrate_async(("db", "documents"), plan=shown)

asyncio.run(life())
asyncio.run(relance.rollback_async(("db", "documents")))
"""

MISTAKES = [
    'relance.migrate("db/documents.lance", strateg="auto")',
    'relance.migrate("db/documents.lance", 7)',
    'relance.plan("db/documents.lance", "drop a").repport',
    'relance.add("a", "string", nullable="no")',
]


def check(tmp_path, text: str) -> subprocess.CompletedProcess:
    (tmp_path / "program.py").write_text(text)
    words = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--config-file=", "program.py"]
    return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)


def test_a_program_passes(tmp_path):
    done = check(tmp_path, PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mistakes_are_found(tmp_path):
    done = check(tmp_path, "\n".join(["import relance", *MISTAKES]))
    lines = {line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line}
    assert lines == {str(n) for n in range(2, 2 + len(MISTAKES))}, done.stdout
