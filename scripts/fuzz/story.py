"""One case: a random table, random changes, random interruptions, and what has to be true after each."""

import os
import signal

import lance
import pyarrow as pa

import changes
import tables
import writers
from command import Failure
from oracle import Refused, table_difference

HELD = (0, 5)
DONE = (0,)


class Story:
    def __init__(self, rng, relance, path):
        self.rng, self.relance, self.path = rng, relance, path
        # Small files and deletions everywhere: where many files have names of their own.
        self.wide = rng.random() < 0.02
        self.table = tables.make(rng, path, self.wide)
        relance.note(f"# {self.table.told}: {self.table.rows.schema.to_string(show_field_metadata=False)!r}")

    def tell(self):
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            self.round()
            self.status()
        self.no_orphans()

    def round(self):
        """One migration, from its plan to what becomes of it."""
        rng, on_bad = self.rng, self.rng.random() < 0.15
        self.changes = changes.choose(rng, self.table.rows, on_bad)
        if rng.random() < 0.12 and not self.wide:
            change = changes.to_schema(rng, self.table.rows, self.table.other)
            self.changes, on_bad = ([change], False) if change else (self.changes, on_bad)
        self.all_undone = not on_bad and all(change.undone for change in self.changes)
        self.flags, self.filter = [change.flag() for change in self.changes], None
        self.options(on_bad)
        if not self.changes and not self.filter and not any("per-file" in flag or "rewrite" in flag for flag in self.flags):
            return
        self.left_before, self.version_before = self.relance.left(), self.table.lance().version
        wanted = self.wanted()
        told = rng.random() < 0.3
        if told:
            self.relance.run("plan", *self.flags, codes=(3,) if wanted is None else (0,))
            self.untouched("plan")
        if wanted is None:
            self.relance.run("migrate", *self.flags, codes=(3,))
            self.nothing_left("a refused migration")
            return
        way = rng.choice(["plain", "plain", "held", "held", "held", "killed", "killed", "aborted", "raced"])
        if self.wide or (self.relance.steady and way in ("killed", "raced")):
            way = "held"
        getattr(self, way)(wanted)

    def options(self, on_bad):
        """Flags beside the changes, of those that can do them."""
        rng = self.rng
        stable = self.table.lance().has_stable_row_ids
        simple = all(change.nothing_read for change in self.changes)
        if on_bad:
            self.flags.append("--on-bad-value=null")
        if not stable and (self.wide or rng.random() < 0.25):
            self.flags.append(f"--rows-per-file={rng.choice([2, 3]) if self.wide else rng.choice([1, 7, 50, 1000])}")
            if len(self.table.rows) > 100 and not self.wide and self.flags[-1].endswith("=1"):
                self.flags[-1] = "--rows-per-file=40"
        elif not stable and rng.random() < 0.15:
            self.filter = rng.choice([("id % 3 <> 0", lambda i: i % 3 != 0), ("id < 100", lambda i: i < 100)])
            self.flags.append(f"--where={self.filter[0]}")
        elif self.changes:
            ways = ["auto", "auto", "columns"] + ["rewrite"] * (not stable) + ["metadata"] * (2 * simple)
            way = rng.choice(ways)
            if way == "columns" and (simple or self.changes[0].verb == "to"):
                way = "auto"
            self.flags += [] if way == "auto" and rng.random() < 0.7 else [f"--strategy={way}"]
        if rng.random() < 0.1:
            self.flags.append(f"--batch-size={rng.choice([1, 3, 64])}")
        if rng.random() < 0.1:
            self.flags.append("--verify=quick")

    def wanted(self):
        """What the table has to hold after the migration, or None where it has to be refused."""
        rows = self.table.rows
        if self.filter:
            rows = rows.filter(pa.array([self.filter[1](i) for i in rows["id"].to_pylist()], pa.bool_()))
        try:
            return changes.apply(self.changes, rows)
        except Refused:
            return None

    def loose(self):
        return self.table.loose.union(*(change.loose for change in self.changes), *self.renamed_loose())

    def renamed_loose(self):
        """New names of columns of which relance makes the type."""
        loose = set().union(*(change.loose for change in self.changes))
        return [{change.text.split("=", 1)[1]} for change in self.changes
                if change.verb == "rename" and change.text.split("=", 1)[0] in loose]

    # What has to be true.

    def same(self, wanted, what, loose=(), ordered=None):
        seen = self.table.read()
        wrong = table_difference(wanted, seen, loose, ordered)
        if wrong:
            raise Failure(f"after {what}: {wrong}")
        return seen

    def untouched(self, what):
        self.same(self.table.rows, what, self.table.loose)

    def nothing_left(self, what):
        """Of a migration that is gone nothing is left, and the table is as it was."""
        self.untouched(what)
        left = self.relance.left() - self.left_before
        if left:
            raise Failure(f"after {what} there is still {sorted(left)[:5]}")

    def migrated(self, wanted, what, order=None):
        seen = self.same(wanted, what, self.loose(), order)
        self.swapped_from = self.table.rows
        self.table.rows, self.table.loose = wanted, self.loose()
        self.table.settle(seen)
        if "the staging table" in self.relance.left():
            raise Failure(f"after {what} the staging table is still there")

    def status(self):
        self.relance.run("status", "--json")

    def order(self, wanted):
        """The ids in the order in which the table has them now: a migration keeps it."""
        there = set(wanted["id"].to_pylist())
        return [i for i in self.table.read()["id"].to_pylist() if i in there]

    def no_orphans(self):
        """Every file of ours in the table's folder is named by a version."""
        named = set()
        for version in self.table.lance().versions():
            try:
                fragments = lance.dataset(self.table.uri, version=version["version"]).get_fragments()
            except Exception:  # noqa: BLE001 - a version that was cleaned meanwhile
                continue
            for fragment in fragments:
                named |= {os.path.basename(file.path) for file in fragment.data_files()}
        ours = {os.path.basename(path) for path in self.relance.left() if path.startswith("data/") and path.endswith(".lance")}
        if ours - named:
            raise Failure(f"files that no version names: {sorted(ours - named)[:5]}")

    # The ways that a migration goes.

    def plain(self, wanted):
        order = self.order(wanted)
        self.relance.run("migrate", *self.flags, codes=DONE)
        self.migrated(wanted, "migrate", order)
        self.afterwards(wanted)

    def held(self, wanted):
        self.relance.run("migrate", *self.flags, "--hold", codes=HELD)
        self.untouched("hold")
        if self.rng.random() < 0.3:
            self.status()
        only = [writers.scatter] if self.wide else None
        for _ in range(1 if self.wide else self.rng.choice([0, 1, 1, 2, 4])):
            writers.write(self.rng, self.table, self.relance, only)
        writers.checked(self.table)
        if self.rng.random() < 0.2 and not self.wide:
            self.relance.kill(self.rng.random() * 0.15, "resume")
        self.finished()

    def finished(self):
        """Goes on to the end, whatever was done meanwhile."""
        wanted = self.wanted()
        if wanted is None:
            self.relance.run("resume", codes=(3,))
            self.untouched("a refused resume")
            self.relance.run("abort")
            self.nothing_left("abort")
            return
        if self.landed(wanted):
            self.relance.run("resume", codes=None)
            self.migrated(wanted, "resume")
        else:
            order = self.order(wanted)
            code, _, told = self.relance.run("resume", codes=(*DONE, 1))
            if code == 1:
                return self.never_begun(told)
            self.migrated(wanted, "resume", order)
        self.afterwards(wanted)

    def never_begun(self, told):
        """It died before there was a journal: what there is of it goes, and the next one is not hindered."""
        if "no migration of" not in told:
            raise Failure(f"resume ended with 1: {told}")
        if self.rng.random() < 0.5:
            self.relance.run("abort", codes=(0, 1))
            return self.nothing_left("abort")
        self.relance.run("migrate", *self.flags)
        self.migrated(self.wanted(), "migrate after a death")

    def aborted(self, wanted):
        self.relance.run("migrate", *self.flags, "--hold", codes=HELD)
        for _ in range(self.rng.choice([0, 1, 2])):
            writers.write(self.rng, self.table, self.relance)
        writers.checked(self.table)
        self.relance.run("abort")
        self.nothing_left("abort")

    def raced(self, wanted):
        """Rows are deleted while it runs, before the swap or after it."""
        process = self.relance.start("migrate", *self.flags)
        for _ in range(self.rng.choice([1, 2, 3])):
            writers.write(self.rng, self.table, self.relance, [writers.delete, writers.scatter])
        self.relance.note("the migration above")
        code = self.relance.ended("migrate", *self.relance.awaited(process), (*DONE, 5))[0]
        if code == 5:
            self.relance.run("resume", codes=DONE)
        wanted = self.wanted()
        self.migrated(wanted, "migrate beside deletions")

    def killed(self, wanted):
        """Killed at random moments, then gone on with or dropped."""
        rng = self.rng
        how = signal.SIGKILL if rng.random() < 0.8 else signal.SIGINT
        verb, args = "migrate", self.flags
        for _ in range(rng.choice([1, 1, 2, 3])):
            code = self.relance.kill(0.02 + rng.random() * 0.2, verb, *args, how=how)
            if code is not None and code not in (0, 1, 5, 8):
                raise Failure(f"{verb} ended with {code}")
            self.status()
            if self.landed(wanted) or "the staging table" not in self.relance.left():
                break
            verb, args = "resume", []
        staged = "the staging table" in self.relance.left()
        if not self.landed(wanted):
            if staged and rng.random() < 0.6:
                return self.finished()
            self.relance.run("abort", codes=(0, 1))
            return self.nothing_left("abort")
        if staged:
            self.relance.run(rng.choice(["resume", "abort"]), codes=None)
            if "the staging table" in self.relance.left():
                self.relance.run("resume", codes=DONE)
        as_before = not table_difference(self.table.rows, wanted, self.loose())
        self.migrated(wanted, "a death")
        if not as_before:  # Else nobody can tell whether it landed.
            self.afterwards(wanted)

    def landed(self, wanted):
        """Whether the table is the new one, rather than the old one; it is never anything else."""
        seen = self.table.read()
        if not table_difference(wanted, seen, self.loose()):
            return True
        wrong = table_difference(self.table.rows, seen, self.table.loose)
        if wrong:
            raise Failure(f"the table is neither the old one nor the new one: {wrong}")
        return False

    # What becomes of it.

    def afterwards(self, wanted):
        rng = self.rng
        if self.table.lance().version == self.version_before:
            return  # There was nothing to do.
        if rng.random() < 0.5:
            self.relance.run("verify")
        next_ = rng.choice(["nothing", "nothing", "rollback", "rollback", "keep", "discard", "finalize", "history", "clean"])
        if next_ == "rollback":
            self.relance.run("rollback")
            self.back("rollback")
        elif next_ in ("keep", "discard"):
            self.rollback_after_writes(next_)
        elif next_ in ("finalize", "history"):
            self.relance.run("finalize", *(["--history"] if next_ == "history" else []))
            self.untouched("finalize")
            if rng.random() < 0.3:
                self.relance.run("finalize", codes=None)
        elif next_ == "clean":
            writers.write(rng, self.table, self.relance, [writers.clean])
            self.untouched("a cleanup")
            self.relance.run("verify")

    def back(self, what):
        """The table is what it was before the migration."""
        self.table.rows, self.table.loose = self.swapped_from, set()
        self.untouched(what)

    def rollback_after_writes(self, how):
        """Rows that came after the swap are given up, or carried back."""
        swapped, self.table.rows = self.table.rows, self.swapped_from
        older = self.table.fresh(self.rng, self.rng.randint(1, 9))
        self.table.rows = swapped
        try:
            newer = changes.apply(self.changes, older)
        except Refused:
            return
        if self.filter:
            return
        if newer.schema != swapped.schema:  # In names of items.
            newer = newer.cast(swapped.schema)
        self.table.rows = pa.concat_tables([swapped, newer]).combine_chunks()
        writers.appended(self.table, newer)
        self.relance.note("# a writer appends rows of the new shape")
        writers.checked(self.table)
        code = self.relance.run("rollback", codes=None)[0]
        if code == 0:
            raise Failure("rollback gave up what others wrote, without being told to")
        self.untouched("a refused rollback")
        code, _, told = self.relance.run("rollback", f"--{how}-writes", codes=(0,) if how == "discard" else (0, 3))
        if how == "discard":
            self.back("rollback --discard-writes")
        elif code == 0:
            self.table.rows = pa.concat_tables([self.swapped_from, older]).combine_chunks()
            self.untouched("rollback --keep-writes")
        elif self.all_undone:
            raise Failure(f"rollback --keep-writes was refused, though every change can be taken back: {told}")
        else:
            self.untouched("a refused rollback --keep-writes")
