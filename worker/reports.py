"""Breaker moves of this worker on their way to the control plane: in order, each again until it has a receipt.
Bounded, for the worker's own write into the ledger is what guarantees them; the stream is only faster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from jobkit.domain.breaker import BreakerRecord

MAX_WAITING = 1_000


class Reports:
    """`woken` is called when there is something to send. Over the bound the oldest are forgotten: a later record of
    the same breaker tells its latest moves too."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self._waiting: deque[tuple[int, BreakerRecord]] = deque(maxlen=most)
        self._sequence = 0
        self.woken: Callable[[], None] = lambda: None

    def moved(self, record: BreakerRecord) -> None:
        self._sequence += 1
        self._waiting.append((self._sequence, record))
        self.woken()

    def after(self, sequence: int) -> tuple[int, BreakerRecord] | None:
        """The first that waits behind `sequence`."""
        return next((report for report in self._waiting if report[0] > sequence), None)

    def received(self, sequence: int) -> None:
        """All up to `sequence` are recorded."""
        while self._waiting and self._waiting[0][0] <= sequence:
            self._waiting.popleft()

    @property
    def waiting(self) -> int:
        return len(self._waiting)
