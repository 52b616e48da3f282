"""The command: ``relance``, and ``python -m relance``."""

import signal
import sys
from typing import NoReturn

from . import _relance


def main() -> NoReturn:
    """Runs the command with the words of this process, and ends with its exit code."""
    # The command hears Ctrl-C itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.flush()
    sys.exit(_relance.command(["relance", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
