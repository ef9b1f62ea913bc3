"""Database time without asking for it: measured on every beat, carried on by the monotonic clock."""

from __future__ import annotations

import math
import time

DRIFT = 0.001  # seconds a second: how fast a measurement ages


class DatabaseClock:
    """Before the first `adjust` it is the host's clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._error = math.inf
        self._measured_at = 0.0

    @staticmethod
    def monotonic() -> float:
        return time.monotonic()

    def adjust(self, database_ms: int, asked_at: float) -> None:
        """The database answered `database_ms` to a question asked at monotonic `asked_at` (seconds): it read its
        clock about half-way between (Cristian's algorithm, 1989), give or take half the wait. So a quick answer
        stands against slow ones until its age has made it the worse one: on a busy host most answers are slow, and
        a database that was frozen read its clock when it woke."""
        answered_at = time.monotonic()
        error = (answered_at - asked_at) / 2
        if error > self._error + DRIFT * (answered_at - self._measured_at):
            return
        self._offset = database_ms / 1000 - (asked_at + answered_at) / 2
        self._error, self._measured_at = error, answered_at

    def now(self) -> int:
        """Database milliseconds, as near as half a round trip."""
        return round((time.monotonic() + self._offset) * 1000)
