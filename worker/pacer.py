"""Spreads a lane's starts evenly: a rate that is met in bursts is met by refusals."""

from __future__ import annotations

import math

# Starts that were not used in time may be made up for, for so long: a loop is never punctual.
SLACK_SECONDS = 0.03


class Pacer:
    """A schedule of starts (the generic cell rate algorithm of ITU-T I.371, as a virtual schedule)."""

    def __init__(self) -> None:
        self._rate: float | None = None
        self._next = 0.0

    @property
    def rate(self) -> float | None:
        return self._rate

    def set(self, rate: float | None, now: float) -> None:
        """`rate` starts a second from now on; None: as they come."""
        if rate == self._rate:
            return
        if rate and self._rate:
            # The wait for the next start shrinks or grows with the interval.
            self._next = now + (self._next - now) * self._rate / rate
        else:
            self._next = now
        self._rate = rate

    def wait(self, now: float) -> float:
        """Seconds until a start is allowed; 0: now."""
        if self._rate is None:
            return 0.0
        if self._rate <= 0:
            return math.inf
        return max(self._next - now, 0.0)

    def started(self, now: float) -> None:
        if self._rate:
            self._next = max(self._next, now - SLACK_SECONDS) + 1 / self._rate
