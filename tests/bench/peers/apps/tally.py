"""What a task of any contender does besides nothing: it notes that it ran. A note is three float64, all Unix seconds:
when the job was to be submitted, when the task began, when it ended. Each process keeps its own file in the folder
that BENCH_TALLY names; a slot is taken in one step of the interpreter, so threads share it without a lock."""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import time
from pathlib import Path

FLOATS = 3
CAPACITY = 10_000_000  # notes a process; the file is sparse


class Tally:
    """Opened with the first note: what forks afterwards begins a file of its own."""

    def __init__(self) -> None:
        self._opening = threading.Lock()
        self._slots: memoryview[float] | None = None
        os.register_at_fork(after_in_child=self._forget)

    def note(self, sent: float, began: float) -> None:
        """A job that was sent then began at `began` and has ended now."""
        slots = self._slots or self._open()
        at = next(self._numbers) * FLOATS
        slots[at] = sent
        slots[at + 1] = began
        slots[at + 2] = time.time()  # last: a reader takes it for the end of the note

    def _forget(self) -> None:
        self._opening = threading.Lock()
        self._slots = None

    def _open(self) -> memoryview[float]:
        with self._opening:
            if self._slots is None:
                path = Path(os.environ["BENCH_TALLY"]) / f"{os.getpid()}.f64"
                with path.open("w+b") as file:
                    file.truncate(CAPACITY * FLOATS * 8)
                    slots = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
                self._numbers = itertools.count()
                self._slots = slots
            return self._slots
