"""Runs one case, in a process of the pool."""

import os
import random
import shutil
import tempfile
import time
import traceback

import directed
from command import Failure, Relance
from oracle import GivenUp
from story import Story

# What is told of a case that was not begun.
TOO_LATE = "too late"


def one(job):
    """Runs one case: its name, None or what is wrong, what was run, and columns that were left out."""
    name, options, told = job
    if time.time() > options.ended:
        return name, TOO_LATE, [], []
    path = tempfile.mkdtemp(prefix="relance-fuzz-")
    relance = Relance(options.binary, path)
    relance.steady = options.steady
    left_out = []
    try:
        if told is not None:
            directed.CASES[told](relance, path)
        else:
            story = Story(random.Random(f"{options.seed}/{name}"), relance, path)
            left_out = story.table.left_out
            story.tell()
        wrong = None
    except GivenUp as error:
        wrong, left_out = None, [f"a case ended early: {error}"]
    except Failure as error:
        wrong = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a fault of the fuzzer's own is shown as one
        wrong = "the fuzzer itself failed:\n" + traceback.format_exc()
        if "RustPanic" in wrong:  # Lance's own reader, of what its own writer wrote
            wrong, left_out = None, ["a case ended early: Lance cannot read what it wrote"]
    if wrong and options.keep:
        kept = os.path.join(options.keep, f"seed-{options.seed}-case-{name}")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(path, kept)
    shutil.rmtree(path, ignore_errors=True)
    return name, wrong, relance.book, left_out
