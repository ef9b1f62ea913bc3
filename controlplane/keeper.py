"""Keeps the breaker store and the ledger in step: transitions that the ledger lacks are recorded, breakers that a
wiped store has forgotten are rebuilt, operators' copies are repaired."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jobkit.domain.breaker import BreakerRecord
from jobkit.host.world import World


class Keeper:
    """Run `keep` once a second. `seen` is told how all breakers stand: they are read here anyway."""

    def __init__(
        self, world: World, seen: Callable[[Mapping[str, BreakerRecord]], None] = lambda standing: None
    ) -> None:
        self._world = world
        self._seen = seen

    async def keep(self) -> None:
        names = await self._world.types.breakers()
        heads = await self._world.ledger.heads(names)
        stored = await self._world.breakers.read(names)
        behind: dict[str, int] = {}
        for name in names:
            record, head = stored.get(name), heads.get(name, 0)
            generation = record.generation if record else 0
            if record is not None and generation > head:
                await self._world.ledger.record(record)
            elif generation < head:
                behind[name] = generation
        rebuilt = await self._rebuild(behind) if behind else {}
        self._seen({name: BreakerRecord(name) for name in names} | stored | rebuilt)
        await self._world.breakers.repair(names)

    async def _rebuild(self, behind: Mapping[str, int]) -> dict[str, BreakerRecord]:
        """Only what differs is read in full, and that is nothing as a rule."""
        latest = await self._world.ledger.latest(sorted(behind))
        for name, record in latest.items():
            await self._world.breakers.swap(name, behind[name], record)
        return latest
