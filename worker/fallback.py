"""Breakers while the shared store is away: each worker goes by its own, in memory, and says so in its health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from jobkit.domain.breaker import BreakerRecord, Evidence, Window
from jobkit.domain.errors import Unavailable
from jobkit.ports import BreakerStore
from jobkit.runtime.clock import DatabaseClock

_log = logging.getLogger(__name__)

R = TypeVar("R")
RETRY_SECONDS = 1.0


class FallbackStore:
    """The `BreakerStore` port over a shared store and, while that is away, over a private one which starts from
    the records last heard of. It goes back by itself; the shared store's word counts again from then on."""

    def __init__(self, shared: BreakerStore, private: Callable[[Callable[[], int]], BreakerStore]) -> None:
        self._shared = shared
        self._make_private = private
        # Records hold times of the shared store's clock, which the private one therefore carries on.
        self._clock = DatabaseClock()
        self._private: BreakerStore | None = None
        self._known: dict[str, BreakerRecord] = {}
        self._retry_at = 0.0

    @property
    def alone(self) -> bool:
        """Whether this worker goes by its own breakers now."""
        return self._private is not None

    def remember(self, record: BreakerRecord) -> None:
        """The latest that was heard of a breaker."""
        self._known[record.name] = record

    async def _call(self, work: Callable[[BreakerStore], Awaitable[R]]) -> R:
        loop = asyncio.get_running_loop()
        if self._private is None or loop.time() >= self._retry_at:
            try:
                answer = await work(self._shared)
            except Unavailable as error:
                self._retry_at = loop.time() + RETRY_SECONDS
                if self._private is None:
                    _log.warning("shared breakers are away, going by our own: %s", error)
                    self._private = await self._seeded()
            else:
                if self._private is not None:
                    _log.info("shared breakers are back")
                    await self._private.close()
                    self._private = None
                return answer
        return await work(self._private)

    async def _seeded(self) -> BreakerStore:
        private = self._make_private(self._clock.now)
        for name, record in self._known.items():
            await private.swap(name, 0, record)
        return private

    async def now(self) -> int:
        asked = self._clock.monotonic()
        now = await self._call(lambda store: store.now())
        if not self.alone:
            self._clock.adjust(now, asked)
        return now

    async def read(self, names: Sequence[str]) -> dict[str, BreakerRecord]:
        return await self._call(lambda store: store.read(names))

    async def create(self, name: str) -> None:
        await self._call(lambda store: store.create(name))

    async def report(self, name: str, evidence: Evidence, sample: int, window: int) -> Window:
        return await self._call(lambda store: store.report(name, evidence, sample, window))

    async def window(self, name: str, sample: int, window: int) -> Window:
        return await self._call(lambda store: store.window(name, sample, window))

    async def swap(self, name: str, generation: int, record: BreakerRecord) -> bool:
        return await self._call(lambda store: store.swap(name, generation, record))

    async def take_permit(
        self, name: str, generation: int, holder: str, permits: int, lease: timedelta
    ) -> bool:
        return await self._call(lambda s: s.take_permit(name, generation, holder, permits, lease))

    async def return_permit(self, name: str, generation: int, holder: str) -> None:
        await self._call(lambda store: store.return_permit(name, generation, holder))

    async def version(self) -> int:
        return await self._call(lambda store: store.version())

    async def failures(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        return await self._call(lambda store: store.failures(names))

    async def repair(self, names: Sequence[str]) -> None:
        await self._call(lambda store: store.repair(names))

    def changes(self) -> AsyncIterator[str]:
        """Of the shared store; the poll covers the private one."""
        return self._shared.changes()

    async def close(self) -> None:
        if self._private is not None:
            await self._private.close()
