"""Overdue tokens: rows whose token is not on its way although it should be.

nobody's   no session answers for the row and its time has come: accepted while the broker was away, or waiting
           for longer than the broker's ladder of delays
orphaned   the session that answered stopped beating: its rows from `confirmed_to` on
lost       queues are FIFO, so a row that is due well before those being claimed now has lost its token; so has
           an old one of a type whose queue is empty, also of a held type: without a token it could not even be
           probed, and would be held for ever. Time alone says nothing
rescued    running under a lease that was seen unrenewed through a whole lease
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

from jobkit.domain.errors import Unavailable
from jobkit.domain.job import Token
from jobkit.domain.retry import rung_at_least
from jobkit.host.world import World
from jobkit.ports import Dispatch, Lease
from jobkit.runtime.lifecycle import Loops
from jobkit.runtime.publisher import Publisher
from jobkit.tally import Counts

_log = logging.getLogger(__name__)

BATCH = 500
SILENT = timedelta(seconds=10)
FRONT_FRESH = timedelta(seconds=5)


class Overdue:
    """Publishes overdue tokens again. `finished` gives the counter of a type's ends; `lost_after` and `lease` in
    seconds."""

    def __init__(
        self,
        world: World,
        publisher: Publisher,
        finished: Counts,
        lost_after: float,
        lease: float,
    ) -> None:
        self._world = world
        self._recovery = world.recovery
        self._publisher = publisher
        self._finished = finished
        self._lost_after = round(lost_after * 1000)
        self._lease = lease
        self._expired: dict[Lease, float] = {}
        self._looked_at = 0.0

    async def publish_nobodys(self) -> None:
        """Run it often: this is how jobs flow after the broker was away."""
        session = self._publisher.session
        await self._take_all(lambda: self._recovery.take_overdue(session, BATCH), "overdue")

    async def publish_orphaned(self) -> None:
        session = self._publisher.session
        await self._take_all(lambda: self._recovery.take_orphans(session, SILENT, BATCH), "orphaned")

    async def publish_lost(self) -> None:
        """Run it every few seconds: what it finds has waited for a minute already."""
        if not self._publisher.open:
            return
        oldest = await self._recovery.oldest_waiting()
        now = await self._world.database.now()
        overdue = {name: due for name, due in oldest.items() if due < now - self._lost_after}
        if not overdue:
            return
        fronts = await self._recovery.fronts(FRONT_FRESH)
        types = await self._world.types.all()
        for name, due in overdue.items():
            info = types.get(name)
            if info is None:
                continue
            # Of a held type nothing is claimed but probes, which say nothing about order.
            before = 0 if info.waits else fronts.get(name, 0) - self._lost_after
            if due >= before and await self._world.dispatcher.depth(name) == 0:
                before = now - self._lost_after
            if due < before:
                take = partial(self._recovery.take_lost, self._publisher.session, name, before, BATCH)
                await self._take_all(take, "lost")

    async def rescue(self) -> None:
        """Take back what ran under leases that ran out. After a gap in our own view of the database every lease
        looks expired, so that only what was seen expired through a whole lease without a gap counts."""
        loop = asyncio.get_running_loop()
        try:
            expired = await self._recovery.expired(BATCH)
        except Unavailable:
            self._expired.clear()
            raise
        now = loop.time()
        if now - self._looked_at > self._lease / 2:
            self._expired.clear()
        self._looked_at = now
        self._expired = {lease: self._expired.get(lease, now) for lease in expired}
        ripe = [lease for lease, since in self._expired.items() if now - since >= self._lease]
        if ripe:
            await self._take(partial(self._rescued, ripe), "abandoned")

    async def _rescued(self, leases: Sequence[Lease]) -> list[Token]:
        tokens, ended = await self._recovery.rescue(self._publisher.session, leases)
        for job_type, number in ended.items():
            self._finished.labels(job_type, "cancelled").inc(number)
        return tokens

    async def begin_refill(self, loops: Loops) -> None:
        """Queues that die with their process are empty at its start: fill them from the database, in order. What
        ran when the process died is free again when this returns; the rest follows in the background."""
        pages = self._recovery.waiting_pages(BATCH)
        await self._refill(await anext(pages, []))

        async def rest() -> None:
            async for page in pages:
                await self._refill(page)

        loops.once("refill", rest)

    async def _refill(self, page: Sequence[tuple[Token, int]]) -> None:
        if page:
            delays = [rung_at_least(timedelta(milliseconds=wait)) if wait else 0 for _, wait in page]
            batch = [Dispatch(token, delay) for (token, _), delay in zip(page, delays, strict=True)]
            await self._world.dispatcher.publish(batch)

    async def _take_all(self, take: Callable[[], Awaitable[Sequence[Token]]], kind: str) -> None:
        """Batch by batch, while the broker is there to publish them to."""
        while self._publisher.open and await self._take(take, kind) == BATCH:
            pass

    async def _take(self, take: Callable[[], Awaitable[Sequence[Token]]], kind: str) -> int:
        async with self._publisher.taking():
            tokens = await take()
            self._publisher.expect(token.job_id for token in tokens)
        if tokens:
            _log.info("publishing %d %s tokens", len(tokens), kind)
            await self._publisher.publish([Dispatch(token) for token in tokens])
        return len(tokens)
