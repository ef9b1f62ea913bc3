"""How long this process has seen the database without a gap.

After the database was frozen, or away, every lease looks expired although its worker lives: it only could not renew.
So a lease that ran out says something only to those who saw the database all the while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

SHORTEST_GAP = 1.0  # seconds; a busy loop's hiccup is none


class Sight:
    """`saw` is called when the database has answered, at least every quarter of a `lease`."""

    def __init__(self, lease: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = lease.total_seconds()
        self._gap = max(self._lease / 2, SHORTEST_GAP)
        self._clock = clock
        self._since = self._last = clock()

    def saw(self) -> None:
        now = self._clock()
        if now - self._last > self._gap:
            self._since = now
        self._last = now

    def broke(self) -> None:
        """A write failed. Reading may go on, but who cannot write cannot renew, and so it may be for everybody."""
        self._since = self._clock()

    def clear_in(self) -> timedelta:
        """How long until a whole lease has been seen without a gap; zero: an expired lease is one."""
        now = self._clock()
        if now - self._last > self._gap:
            return timedelta(seconds=self._lease)
        return timedelta(seconds=max(self._since + self._lease - now, 0.0))
