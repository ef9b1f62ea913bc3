"""`selfheal worker`, `python -m worker`."""

from __future__ import annotations

import os
import sys

from jobkit.host.process import read_no_arguments, run_component
from worker.app import COMPONENT
from worker.registry import BadHandlers


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM. 0 after a drain, 1 when a port is taken, 2 for bad settings or handlers."""
    read_no_arguments("worker", "Run a worker until SIGTERM; or `selfheal worker list|get|drain`.", argv)
    sys.path.insert(0, os.getcwd())  # handler modules lie where the worker is started
    try:
        return run_component(COMPONENT, os.environ)
    except BadHandlers as bad:
        for problem in bad.problems:
            print(f"selfheal worker: {problem}", file=sys.stderr)  # noqa: T201 - for the person at the terminal
        return 2


if __name__ == "__main__":
    sys.exit(main())
