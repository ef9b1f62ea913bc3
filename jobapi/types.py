"""Job types as the API knows them: a cache of the catalog, and the types' holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from jobkit.domain.errors import Exhausted
from jobkit.domain.job import Quarantine, QuarantineReason
from jobkit.host.channels import NEWS, TYPES
from jobkit.ports import Presence, Signals, TypeCatalog, TypeInfo
from jobkit.runtime.batcher import Batcher

REFRESH_SECONDS = 1.0
# A worker beats once a second: after this it is gone.
WORKER_SILENCE = timedelta(seconds=10)
MAX_ASKING = 2_000


class Types:
    """Inserts a type on first sight; refreshed every `REFRESH_SECONDS`."""

    def __init__(
        self,
        catalog: TypeCatalog,
        presence: Presence,
        signals: Signals,
        limit: int,
        cooldown: timedelta,
    ) -> None:
        self._catalog = catalog
        self._presence = presence
        self._signals = signals
        self._limit = limit
        self._cooldown = cooldown
        self._known: dict[str, TypeInfo] = {}
        self._served: set[str] = {"*"}
        self._asking: Batcher[str, bool] = Batcher(self._ask, max_items=200)

    async def refresh(self) -> None:
        self._known = await self._catalog.all()
        self._served = await self._presence.served_types(WORKER_SILENCE)

    def served(self, job_type: str) -> bool:
        """Whether a live worker serves the type, as of the last refresh."""
        return job_type in self._served or "*" in self._served

    async def ensure(self, names: Iterable[str]) -> dict[str, int]:
        """Inserts what is new; those that did not fit, with the limit. While there is no room the database is not
        even asked: a flood of invented types must not keep it busy. Raises Exhausted when too many ask at once."""
        unseen = {name for name in names if name not in self._known}
        if not unseen:
            return {}
        if len(self._known) >= self._limit:
            return dict.fromkeys(unseen, self._limit)
        if self._asking.pending >= MAX_ASKING:
            raise Exhausted(
                "too many new job types at once", reason="TOO_MANY_REQUESTS", retry_after=timedelta(seconds=1)
            )
        fits = await asyncio.gather(*(self._asking.add(name) for name in unseen))
        return {name: self._limit for name, fit in zip(unseen, fits, strict=True) if not fit}

    async def _ask(self, names: Sequence[str]) -> Sequence[bool]:
        unfit = set(await self._catalog.ensure(names, self._limit))
        for name in names:
            if name not in unfit:
                self._known.setdefault(name, TypeInfo(name))
        await self._signals.send(TYPES, [NEWS])
        return [name not in unfit for name in names]

    def mark(self, job_type: str) -> int:
        """The hold mark of a job queued now."""
        info = self._known.get(job_type)
        return info.mark if info else 0

    def rejected_for(self, job_type: str, now: int) -> timedelta | None:
        """How long a submit with on_open=REJECT should stay away (`now` in database ms); None: it is welcome."""
        info = self._known.get(job_type)
        if info is None or not info.held:
            return None
        if info.held_until is None:
            return self._cooldown
        left = timedelta(milliseconds=info.held_until - now)
        return left if left > timedelta(0) else None

    def holder(self, job_type: str) -> str:
        """The breaker that holds the type: its own, or that of a dependency."""
        info = self._known.get(job_type)
        return (info.held_breaker if info else "") or job_type

    def quarantine(self, job_type: str, now: datetime) -> Quarantine | None:
        """What a job of the type that is queued `now` is held by, as of the last refresh."""
        info = self._known.get(job_type)
        if info is not None and info.pause is not None:
            paused_until = None
            if info.pause.until is not None:
                paused_until = datetime.fromtimestamp(info.pause.until / 1000, UTC)
            return Quarantine(QuarantineReason.PAUSED, now, "", paused_until)
        if info is None or not info.held:
            return None
        until = None
        if info.held_until is not None:
            until = datetime.fromtimestamp(info.held_until / 1000, UTC)
        return Quarantine(QuarantineReason.BREAKER_OPEN, now, self.holder(job_type), until)


def too_many_types(job_type: str, limit: int) -> Exhausted:
    """There are as many job types as there may be; each has a queue of its own."""
    return Exhausted(
        f"job type '{job_type}' would be one too many: there are {limit} already",
        reason="TOO_MANY_JOB_TYPES",
        retry_after=timedelta(minutes=1),
        metadata={"jobType": job_type, "limit": str(limit)},
    )
