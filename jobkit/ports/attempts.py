"""The attempt log where it stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jobkit.domain.attempts import Gap, Logged, Position, Raw
from jobkit.domain.breaker import BreakerRecord


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Jobs that were submitted within one second, which began at `at` (ms)."""

    at: int
    jobs: int


class AttemptLog(Protocol):
    """Batches of entries by breaker, each once however many processes bring it. Times are the breaker store's ms."""

    async def put(self, breaker: str, entries: Sequence[Raw]) -> Position:
        """Keep these, in order, unless a batch that begins with the same entry is kept already; returns up to where
        the kept one goes."""

    async def weigh(self, breaker: str, start: int, end: int) -> int:
        """How many entries and attempts `read` would give, at most: cheap."""

    async def read(self, breaker: str, start: int, end: int) -> list[Logged]:
        """The entries from `start` to `end` inclusive, in order."""

    async def gaps(self, breaker: str, start: int, end: int) -> list[Gap]:
        """Times that reach into the range and of which the breaker store dropped entries before they were taken."""

    async def oldest(self, breaker: str) -> int | None:
        """When the log of this breaker begins; None while it is empty."""

    async def standing(self, breaker: str, at: int) -> BreakerRecord | None:
        """The fleet's breaker at a time, as the ledger tells it; None before its first transition."""

    async def arrivals(self, breaker: str, start: int, end: int, limit: int) -> list[Arrivals]:
        """Jobs behind the breaker that were submitted from `start` up to `end`, of the first `limit` jobs."""

    async def purge(self, older_than_ms: int, limit: int) -> int:
        """Remove up to `limit` batches whose last entry is older than so many ms; returns how many."""
