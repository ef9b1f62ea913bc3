"""Breakers while the shared store is away: each worker goes by its own, in memory, and says so in its health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from jobkit.domain.attempts import Position, Raw
from jobkit.domain.breaker import BreakerRecord, Evidence, Outcome, Window
from jobkit.domain.errors import Unavailable
from jobkit.domain.moving import taken_along
from jobkit.ports import BreakerStore
from jobkit.runtime.clock import DatabaseClock

_log = logging.getLogger(__name__)

R = TypeVar("R")
RETRY_SECONDS = 1.0
SAMPLE = 50
# Longer than any window: a look that must not let evidence of the others lapse.
EVER_MS = 365 * 86_400_000


class FallbackStore:
    """The `BreakerStore` port over a shared store and, while that is away, over a private one which starts from
    the records last heard of. It goes back by itself, and takes along what moved meanwhile: the later move stands. So
    a breaker that opened on this worker's own evidence stays open, instead of closing and opening again. But where
    others did the work well while `me` was alone, the fleet is not to pay for it: then this worker alone stays out,
    as long as its own breaker would have been open."""

    def __init__(
        self,
        shared: BreakerStore,
        private: Callable[[Callable[[], int]], BreakerStore],
        me: str = "",
    ) -> None:
        self._shared = shared
        self._make_private = private
        self._me = me
        self._left_at = 0
        self._exiles: dict[str, BreakerRecord] = {}
        self._taken: list[BreakerRecord] = []
        # Records hold times of the shared store's clock, which the private one therefore carries on.
        self._clock = DatabaseClock()
        self._private: BreakerStore | None = None
        self._known: dict[str, BreakerRecord] = {}
        self._retry_at = 0.0
        self._returning = False

    @property
    def alone(self) -> bool:
        """Whether this worker goes by its own breakers now."""
        return self._private is not None

    def take_exiles(self) -> dict[str, BreakerRecord]:
        """Breakers that were open here alone, once: this worker is to leave their jobs to others."""
        exiles, self._exiles = self._exiles, {}
        return exiles

    def take_taken(self) -> list[BreakerRecord]:
        """What this worker came to on its own and the fleet took over, once: the ledger is to hear of it."""
        taken, self._taken = self._taken, []
        return taken

    def remember(self, record: BreakerRecord) -> None:
        """The latest that was heard of a breaker."""
        self._known[record.name] = record

    async def _call(self, work: Callable[[BreakerStore], Awaitable[R]]) -> R:
        private = await self._return(self._private) if self._private is not None else None
        if private is None:
            try:
                return await work(self._shared)
            except Unavailable as error:
                private = self._private or await self._leave(error)
        return await work(private)

    async def _leave(self, error: Unavailable) -> BreakerStore:
        private = self._make_private(self._clock.now)
        for name, record in self._known.items():
            await private.swap(name, 0, record)
        if self._private is None:  # else another call was faster
            _log.warning("shared breakers are away, going by our own: %s", error)
            self._private = private
            self._left_at = self._clock.now()
            self._retry_at = asyncio.get_running_loop().time() + RETRY_SECONDS
        return self._private

    async def _return(self, private: BreakerStore) -> BreakerStore | None:
        """Now and then one call looks whether the shared store is back; the others do not wait for it."""
        loop = asyncio.get_running_loop()
        if self._returning or loop.time() < self._retry_at:
            return private
        self._returning = True
        try:
            await self._take_along(private)
        except Unavailable:
            self._retry_at = loop.time() + RETRY_SECONDS
            return private
        finally:
            self._returning = False
        _log.info("shared breakers are back")
        self._private = None
        await private.close()
        return None

    async def _take_along(self, private: BreakerStore) -> None:
        """What moved here later than there. Somebody else's later move stands."""
        ours, theirs = await private.read(list(self._known)), await self._shared.read(list(self._known))
        await self._shared.version()  # an empty read asks nothing
        for name, record in ours.items():
            fleet = theirs.get(name) or BreakerRecord(name)
            if record.generation > fleet.generation:
                if record.state.holds and await self._leave_to_others(record, fleet):
                    self._exiles[name] = record
                    continue
                ours_now = taken_along(record, fleet)
                if await self._shared.swap(name, fleet.generation, ours_now):
                    self._taken.append(ours_now)

    async def _leave_to_others(self, record: BreakerRecord, fleet: BreakerRecord) -> bool:
        """Whether the fleet went on well without us, so that ours was a trouble of our own."""
        if fleet.state.holds or not record.transitions or record.transitions[-1].scope != self._me:
            return False
        window = await self._shared.window(record.name, SAMPLE, EVER_MS)
        others = {s.worker for s in window.seen if not s.code and s.at > self._left_at} - {self._me}
        if not others:
            return False
        lease = timedelta(milliseconds=max((record.open_until or 0) - window.now, 0) + 60_000)
        limit = (len(others) + 1) // 2
        return await self._shared.eject(record.name, fleet.generation, self._me, limit, lease)

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

    async def swap(
        self, name: str, generation: int, record: BreakerRecord, probe: Outcome | None = None
    ) -> bool:
        return await self._call(lambda store: store.swap(name, generation, record, probe))

    async def take_permit(
        self, name: str, generation: int, holder: str, permits: int, lease: timedelta
    ) -> bool:
        return await self._call(lambda s: s.take_permit(name, generation, holder, permits, lease))

    async def return_permit(self, name: str, generation: int, holder: str) -> None:
        await self._call(lambda store: store.return_permit(name, generation, holder))

    async def eject(self, name: str, generation: int, worker: str, limit: int, lease: timedelta) -> bool:
        return await self._call(lambda s: s.eject(name, generation, worker, limit, lease))

    async def readmit(self, name: str, worker: str, trial: Outcome | None = None) -> None:
        await self._call(lambda store: store.readmit(name, worker, trial))

    async def version(self) -> int:
        return await self._call(lambda store: store.version())

    async def failures(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        return await self._call(lambda store: store.failures(names))

    async def repair(self, names: Sequence[str]) -> None:
        await self._call(lambda store: store.repair(names))

    async def log(self, name: str, limit: int) -> list[Raw]:
        return await self._call(lambda store: store.log(name, limit))

    async def forget_log(self, name: str, upto: Position) -> None:
        await self._call(lambda store: store.forget_log(name, upto))

    def changes(self) -> AsyncIterator[str]:
        """Of the shared store; the poll covers the private one."""
        return self._shared.changes()

    async def close(self) -> None:
        if self._private is not None:
            await self._private.close()
