"""Retention: old rows leave in small batches, types that nobody uses leave with their queue."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from uuid import UUID

from jobkit.host.world import World
from jobkit.ports import Ages

_log = logging.getLogger(__name__)

BATCH = 500
PAUSE_SECONDS = 0.05
IDLE_TYPE = timedelta(days=1)
NO_LIMIT = 1_000_000
START = UUID(int=0)


class Retention:
    """Run `purge` and `drop_idle_types` now and then; both may run in several replicas."""

    def __init__(self, world: World, ages: Ages, idle_type: timedelta = IDLE_TYPE) -> None:
        self._world = world
        self._ages = ages
        self._idle_type = idle_type
        self._idle_ms = round(idle_type.total_seconds() * 1000)

    async def purge(self) -> None:
        """Everything that is too old, a bounded batch at a time with a pause between: the hot path goes first."""
        removed = 0
        after: UUID | None = START
        while after is not None:
            step = await self._world.retention.purge(after, self._ages, BATCH)
            removed += step.removed
            after = step.after
            await asyncio.sleep(PAUSE_SECONDS)
        removed += await self._purge_ledger()
        removed += await self._purge_records()
        removed += await self._purge_attempts()
        if removed:
            _log.info("removed %d rows that had their time", removed)

    async def _purge_ledger(self) -> int:
        removed = 0
        after: int | None = 0
        while after is not None:
            step = await self._world.retention.purge_ledger(after, self._ages, BATCH)
            removed += step.removed
            after = step.after
            await asyncio.sleep(PAUSE_SECONDS)
        return removed

    async def _purge_records(self) -> int:
        removed = 0
        while True:
            step = await self._world.retention.purge_records(self._ages, BATCH)
            removed += step
            if step < BATCH:
                return removed
            await asyncio.sleep(PAUSE_SECONDS)

    async def _purge_attempts(self) -> int:
        removed = 0
        while True:
            step = await self._world.attempts.purge(self._ages.finished_ms, BATCH)
            removed += step
            if step < BATCH:
                return removed
            await asyncio.sleep(PAUSE_SECONDS)

    async def drop_idle_types(self) -> None:
        """First the queue, then the row: what fails half-way is found again. A type that comes back in between is
        inserted again on sight, and its queue declared again on first use."""
        idle = await self._world.retention.idle_types(self._idle_ms)
        served = await self._world.presence.served_types(self._idle_type) if idle else set()
        for name in idle if "*" not in served else ():
            if name in served or not await self._world.dispatcher.drop(name):
                continue
            if await self._world.retention.drop_type(name):
                _log.info("dropped job type %s: no job and no worker for %s", name, self._idle_type)
        unlisted = await self._world.retention.unlisted_types()
        if unlisted:
            await self._world.types.ensure(unlisted, NO_LIMIT)
