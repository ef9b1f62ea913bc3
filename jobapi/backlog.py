"""Backpressure at the door: a type whose backlog is full takes no more for now."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from jobkit.domain.errors import Exhausted
from jobkit.ports import JobReader

REFRESH_SECONDS = 1.0
RETRY_AFTER = timedelta(seconds=5)


class Backlog:
    """Counts waiting jobs by type, up to the bound and no further: the count costs a scan of at most `limit` index
    entries a second for each type that is being submitted to. Between counts it adds what this process lets in, so
    that it may overshoot by what other replicas accept in a second. A `limit` of 0 is off."""

    def __init__(self, reader: JobReader, limit: int) -> None:
        self._reader = reader
        self._limit = limit
        self._waiting: dict[str, int] = {}
        # Let in and not yet in the database: no count sees them.
        self._coming: Counter[str] = Counter()
        self._active: set[str] = set()

    async def refresh(self) -> None:
        """Count the types that were submitted to since the last time; run it every `REFRESH_SECONDS`."""
        if not self._limit:
            return
        full = {name for name, waiting in self._waiting.items() if waiting >= self._limit}
        names = sorted(self._active | full)
        self._active.clear()
        try:
            self._waiting = await self._reader.count_waiting_of(names, self._limit) if names else {}
        except BaseException:
            self._active.update(names)
            raise

    def let_in(self, job_type: str) -> None:
        """One job more is coming; tell its end with `came`. Raises Exhausted while the type's backlog is full."""
        if not self._limit:
            return
        if self._waiting.get(job_type, 0) + self._coming[job_type] >= self._limit:
            raise Exhausted(
                f"{self._limit} jobs of type '{job_type}' are waiting already",
                reason="BACKLOG_FULL",
                retry_after=RETRY_AFTER,
                metadata={"jobType": job_type, "limit": str(self._limit)},
            )
        self._coming[job_type] += 1

    def came(self, job_type: str, ended: int, accepted: int) -> None:
        """What became of so many that were let in: that many of them wait now."""
        if not self._limit:
            return
        self._coming[job_type] -= ended
        if not self._coming[job_type]:
            del self._coming[job_type]
        self._active.add(job_type)
        if accepted:
            self._waiting[job_type] = self._waiting.get(job_type, 0) + accepted
