"""`selfheal jobapi`, `python -m jobapi`."""

from __future__ import annotations

import os
import sys

from jobapi.app import COMPONENT
from jobkit.host.process import read_no_arguments, run_component


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM. 0 after a drain, 1 when a port is taken, 2 for bad settings."""
    read_no_arguments("jobapi", "Run the job API until SIGTERM.", argv)
    return run_component(COMPONENT, os.environ)


if __name__ == "__main__":
    sys.exit(main())
