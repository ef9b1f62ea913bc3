"""What makes up the whole product in one process, found by entry point."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from jobkit.host.process import Component

# The control plane first: it frees what the process before was running. The worker last: it starts the flow.
ORDER = ("controlplane", "jobapi", "worker")


def find_parts() -> list[Component[Any]]:
    """The components in the order in which they start."""
    found = {point.name: point for point in entry_points(group="selfheal.parts")}
    return [found[name].load() for name in ORDER]
