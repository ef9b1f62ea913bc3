"""What a heartbeat tells of this process."""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter
from pathlib import Path

from worker.slots import Slots

_STATM = Path("/proc/self/statm")


class Figures:
    """Counts attempts from heartbeat to heartbeat."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._processed: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def ended(self, job_type: str, outcome: str) -> None:
        """An attempt ended; holds, crashes and drains are none."""
        if outcome in ("succeeded", "failed"):
            self._processed[job_type] += 1
        if outcome == "failed":
            self._failed[job_type] += 1

    @property
    def slots_used(self) -> int:
        return self._slots.total

    def take(self) -> list[tuple[str, int, int, int]]:
        """By type: running now, and processed and failed since the last call."""
        running = self._slots.by_type
        processed, self._processed = self._processed, Counter()
        failed, self._failed = self._failed, Counter()
        names = sorted({*running, *processed})
        return [(name, running.get(name, 0), processed[name], failed[name]) for name in names]


def resident_memory() -> int:
    """Bytes; where the system does not tell, the most that it ever was."""
    try:
        pages = int(_STATM.read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
