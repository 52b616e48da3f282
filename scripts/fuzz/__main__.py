"""Random migrations by `relance`, checked by PyArrow and LanceDB's client, which are not ours.

usage: scripts/differential [--cases N] [--seed S] [--seconds LIMIT] [--keep DIR] [--case N] [--directed]

  --cases N      how many random cases (300)
  --seed S       each case depends on the seed and its own number only (0)
  --seconds N    begins no further case after so many seconds
  --keep DIR     keeps the tables of the cases that fail there
  --case N       only this one, and prints what was run
  --steady       no kills and no races: what happens depends on the seed alone
  --directed     the cases that once went wrong, each with its right value, instead of random ones
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter

import directed
from cases import TOO_LATE, one


def jobs(options):
    if options.directed:
        return [(name, options, name) for name in directed.CASES]
    numbers = range(options.cases) if options.case is None else [options.case]
    return [(number, options, None) for number in numbers]


def show(name, wrong, book, options):
    print(f"FAILED case {name}: {wrong}")
    for line in book:
        print(f"    {line[:2000]}")
    again = "--directed" if options.directed else f"--seed {options.seed} --case {name}"
    print(f"  again: scripts/differential {again}\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--keep")
    parser.add_argument("--case", type=int)
    parser.add_argument("--steady", action="store_true")
    parser.add_argument("--directed", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.ended = time.time() + options.seconds
    began, passed, failed, left_out = time.monotonic(), 0, 0, Counter()
    # Fresh processes: Lance's threads do not survive a fork. Each lives for some cases only, so that nothing piles up.
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=100) as pool:
        for name, wrong, book, out in pool.imap_unordered(one, jobs(options)):
            left_out.update(out)
            if wrong == TOO_LATE:
                continue
            if wrong:
                failed += 1
                show(name, wrong, book, options)
            else:
                passed += 1
                if options.case is not None:
                    print("\n".join(book))
    if left_out:
        print(f"left out, since Lance itself does not give back what it was given: {sum(left_out.values())} columns and cases")
        if options.case is not None:
            print("\n".join(left_out))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
