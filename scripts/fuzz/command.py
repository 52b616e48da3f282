"""Runs the `relance` command and keeps what was run; whatever can only be a failure is one here."""

import os
import shlex
import signal
import subprocess
import time

from oracle import GivenUp

SECONDS_MAX = 120
# Lance's writer cuts some nested arrays at a wrong place, panics at some lists of fixed size, and has no null
# structs in its oldest storage version, whoever calls it.
LANCE = ["null_bit_buffer size too small", "compute_stat should only be called once",
         "2.0 does not encode struct validity"]


class Failure(Exception):
    """Something that is not as it has to be."""


class Relance:
    """The command for one table, and a book of what was done to it."""

    def __init__(self, binary, database, table="t"):
        self.binary, self.database, self.table, self.book = binary, database, table, []
        # Whether moments that differ from run to run are left out.
        self.steady = False

    def note(self, text):
        self.book.append(text)

    def run(self, verb, *args, codes=(0,)):
        """The exit code and the output of one command that ends by itself, which must be one of `codes`, if any are given."""
        return self.ended(verb, *self.awaited(self.start(verb, *args)), codes)

    def awaited(self, process):
        try:
            out, err = process.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure(f"it did not end within {SECONDS_MAX} s") from None
        return process.returncode, out, err

    def start(self, verb, *args):
        command = [self.binary, verb, self.database, self.table, "--progress", "none", *args]
        self.note(f"relance {verb} $DB {self.table} {shlex.join(args)}".strip())
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")

    def ended(self, verb, code, out, err, codes):
        self.book[-1] += f"    # exit {code}"
        told = "\n".join((out + err).strip().splitlines()[-6:])
        if code < 0 or code == 101 or "panicked at" in err:
            raise Failure(f"{verb} ended with {code}:\n{told}")
        if code == 3 and "no value of any row changes" in err:
            raise GivenUp("`columns` for what adds and drops in one go")
        for known in LANCE:
            if known in err and code == 1:
                raise GivenUp(known)
        if codes and code not in codes:
            raise Failure(f"{verb} ended with {code}, not {' or '.join(map(str, codes))}:\n{told}")
        return code, out, err

    def kill(self, seconds, verb, *args, how=signal.SIGKILL):
        """Starts a command and kills it after `seconds`; the exit code if it was faster, or None."""
        process = self.start(verb, *args)
        time.sleep(seconds)
        process.send_signal(how)
        code, out, err = self.awaited(process)
        if code == -how:
            self.book[-1] += f"    # killed after {seconds:.3f} s"
            return None
        return self.ended(verb, code, out, err, ())[0]

    def left(self):
        """What only a staged migration may have: files with its mark, its tag, its staging table."""
        there = set()
        root = f"{self.database}/{self.table}.lance"
        for folder, _, names in os.walk(root):
            there |= {os.path.relpath(f"{folder}/{name}", root) for name in names if "-relance-" in name}
        tags = f"{root}/_refs/tags"
        there |= {f"tag {name}" for name in (os.listdir(tags) if os.path.isdir(tags) else []) if name.startswith("relance-")}
        if os.path.exists(f"{self.database}/{self.table}__relance_staging.lance"):
            there.add("the staging table")
        return there
