"""Database time without asking for it: measured on every beat, carried on by the monotonic clock."""

from __future__ import annotations

import time

SLOW_ANSWER = 1.0  # seconds


class DatabaseClock:
    """Before the first `adjust` it is the host's clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._measured = False

    @staticmethod
    def monotonic() -> float:
        return time.monotonic()

    def adjust(self, database_ms: int, asked_at: float) -> None:
        """The database answered `database_ms` to a question asked at monotonic `asked_at` (seconds): it read its
        clock about half-way between (Cristian's algorithm, 1989). An answer that was long in coming says little: a
        database that was frozen read its clock when it woke."""
        answered_at = time.monotonic()
        if self._measured and answered_at - asked_at > SLOW_ANSWER:
            return
        self._offset = database_ms / 1000 - (asked_at + answered_at) / 2
        self._measured = True

    def now(self) -> int:
        """Database milliseconds, as near as half a round trip."""
        return round((time.monotonic() + self._offset) * 1000)
