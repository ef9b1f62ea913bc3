"""Backpressure at the door: a type whose backlog is full takes no more for now."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from jobkit.domain.errors import Exhausted
from jobkit.ports import JobReader

REFRESH_SECONDS = 1.0
RETRY_AFTER = timedelta(seconds=5)


class Backlog:
    """Counts waiting jobs by type, up to the bound and no further: the count costs a scan of at most `limit` index
    entries a second for each type that is being submitted to. Between counts it adds what this process accepted,
    so that it may overshoot by what other replicas accept in a second. A `limit` of 0 is off."""

    def __init__(self, reader: JobReader, limit: int) -> None:
        self._reader = reader
        self._limit = limit
        self._waiting: dict[str, int] = {}
        self._active: set[str] = set()

    async def refresh(self) -> None:
        """Count the types that were submitted to since the last time; run it every `REFRESH_SECONDS`."""
        if not self._limit:
            return
        active, self._active = self._active, set()
        full = {name for name, waiting in self._waiting.items() if waiting >= self._limit}
        names = sorted(active | full)
        self._waiting = await self._reader.count_waiting_of(names, self._limit) if names else {}

    def check(self, job_type: str) -> None:
        """Raises Exhausted while the type's backlog is full."""
        if self._limit and self._waiting.get(job_type, 0) >= self._limit:
            raise Exhausted(
                f"{self._limit} jobs of type '{job_type}' are waiting already",
                reason="BACKLOG_FULL",
                retry_after=RETRY_AFTER,
                metadata={"jobType": job_type, "limit": str(self._limit)},
            )

    def accepted(self, job_types: Collection[str]) -> None:
        """These were accepted: one each."""
        if self._limit:
            for name in job_types:
                self._active.add(name)
                self._waiting[name] = self._waiting.get(name, 0) + 1
