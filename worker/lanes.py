"""All lanes of a process: one for every job type that it serves, opened as types appear."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta

from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import Unavailable
from jobkit.ports import Presence, TypeCatalog
from jobkit.runtime.lifecycle import Loops
from worker.lane import LaneParts, TypeLane
from worker.registry import Registry

_log = logging.getLogger(__name__)

LEARN_SECONDS = 2.0
# Others forget within minutes what a type needs, unless it is said again.
NEEDS_SECONDS = 300.0
# Who has not beaten for so long is not counted when a limit has to be divided without the store.
SILENCE = timedelta(seconds=10)


class Lanes:
    """Keeps a lane running for every type of the catalog that has a handler here."""

    def __init__(
        self,
        registry: Registry,
        catalog: TypeCatalog,
        presence: Presence,
        parts: LaneParts,
        max_types: int,
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._presence = presence
        self._parts = parts
        self._max_types = max_types
        self._lanes: dict[str, TypeLane] = {}
        self._loops = Loops()
        self._draining = False
        self._needs_told_at = float("-inf")

    def start(self) -> None:
        self._loops.every(LEARN_SECONDS, "lanes-learn", self.learn)

    @property
    def draining(self) -> bool:
        """Whether no more work is taken."""
        return self._draining

    @property
    def serves(self) -> list[str]:
        """What to tell the fleet: job types, and "*" for all; nothing once it drains."""
        if self._draining:
            return []
        return [*self._registry.job_types, *(["*"] if self._registry.fallback else [])]

    @property
    def unconsumed(self) -> list[str]:
        """Types whose consumer the broker does not have, although we want one."""
        return sorted(name for name, lane in self._lanes.items() if not lane.consuming)

    @property
    def in_hand(self) -> Mapping[str, int]:
        return {name: lane.in_hand for name, lane in self._lanes.items()}

    @property
    def without_token(self) -> int:
        """Runs whose token is no longer in hand."""
        return sum(lane.without_token for lane in self._lanes.values())

    async def learn(self) -> None:
        """Read the catalog and open lanes for types that are new. Ours are announced, also after they were dropped
        because we could not be seen for a day."""
        known = await self._catalog.all()
        limits = self._parts.limits
        # Before their lanes are open: a paused type must not start with a burst.
        limits.learn(known, await self._presence.serving(SILENCE) if limits.limited else {})
        if any(name not in known for name in self._registry.job_types):
            await self._catalog.ensure(self._registry.job_types, self._max_types)
            known = await self._catalog.all()
        await self._tell_needs()
        fresh = [name for name in known if name not in self._lanes and self._registry.find(name) is not None]
        if fresh:
            # Not before its breakers are known: a held type must not start with a burst.
            await self._parts.breakers.refresh_gates(fresh)
        for name in fresh:
            # Looked at again: another look may have been faster meanwhile.
            if name not in self._lanes and not self._draining:
                lane = self._lanes[name] = TypeLane(name, self._parts)
                self._loops.spawn(f"lane-{name}", lane.run)

    async def _tell_needs(self) -> None:
        """Say what our types depend on, so that they are held with it."""
        now = asyncio.get_running_loop().time()
        if now - self._needs_told_at >= NEEDS_SECONDS:
            needs = {name: self._registry.needs(name) for name in self._registry.job_types}
            await self._catalog.need({name: needed for name, needed in needs.items() if needed})
            self._needs_told_at = now

    def expect(self, names: Iterable[str]) -> None:
        """These types exist: look now, if one is ours that has no lane yet."""
        if any(name not in self._lanes and self._registry.find(name) is not None for name in names):
            self.hurry()

    def hurry(self) -> None:
        """A type may be new: look now."""
        self._loops.once("lanes-hurry", self._learn_quietly)

    async def _learn_quietly(self) -> None:
        try:
            await self.learn()
        except Unavailable as error:
            _log.debug("new types wait for the database: %s", error)

    def on_breaker(self, name: str, record: BreakerRecord) -> None:
        """A breaker moved: the type's, or that of a dependency."""
        for lane in self._lanes.values() if record.is_dependency else [self._lanes.get(name)]:
            if lane is not None and lane.stands_behind(name):
                lane.on_breaker()

    def wake(self, job_type: str) -> None:
        lane = self._lanes.get(job_type)
        if lane is not None:
            lane.wake()

    def wake_all(self) -> None:
        """What kept every lane from starting is over."""
        for lane in self._lanes.values():
            lane.wake()

    async def drain(self) -> None:
        """Stop consuming everywhere; what was not started goes back."""
        self._draining = True
        await asyncio.gather(*(lane.drain() for lane in self._lanes.values()), return_exceptions=True)

    async def finish(self) -> None:
        """After `drain`: wait for what runs, then close channels and loops."""
        await asyncio.gather(*(lane.finish() for lane in self._lanes.values()), return_exceptions=True)
        await self._loops.stop()
