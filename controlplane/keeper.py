"""Keeps the breaker store and the ledger in step: transitions that the ledger lacks are recorded, breakers that a
wiped store has forgotten are rebuilt, operators' copies are repaired."""

from __future__ import annotations

from jobkit.domain.breaker import BreakerRecord
from jobkit.host.world import World


class Keeper:
    """Run `keep` once a second."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def keep(self) -> None:
        names = await self._world.types.breakers()
        told = await self._world.ledger.latest()
        stored = await self._world.breakers.read(names)
        for name in names:
            record, ledger = stored.get(name), told.get(name)
            if record is not None and record.generation > (ledger.generation if ledger else 0):
                await self._world.ledger.record(record)
            elif ledger is not None and (record is None or record.generation < ledger.generation):
                await self._rebuild(name, record, ledger)
        await self._world.breakers.repair(names)

    async def _rebuild(self, name: str, record: BreakerRecord | None, ledger: BreakerRecord) -> None:
        await self._world.breakers.swap(name, record.generation if record else 0, ledger)
