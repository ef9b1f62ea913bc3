"""A bounded ramp after a breaker closed: a dependency that has just come back is not met by the whole backlog."""

from __future__ import annotations

STEP_SECONDS = 1.0


class Ramp:
    """The lane's limit: 1 at first, doubled every second until it is `full`."""

    def __init__(self, full: int) -> None:
        self._full = full
        self._started: float | None = None

    def start(self, now: float) -> None:
        """The breaker has closed at loop time `now` (seconds)."""
        self._started = now

    def limit(self, now: float) -> int:
        """Attempts that may run at once."""
        if self._started is None:
            return self._full
        doublings = int((now - self._started) / STEP_SECONDS)
        limit = 1 << min(doublings, 30)
        if limit >= self._full:
            self._started = None
            return self._full
        return limit
