"""What operators can ask of breakers and do to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from jobkit.domain.asked import check_texts
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import FieldViolation, InvalidJob, NotFound, Unavailable
from jobkit.domain.tripping import close_by_hand, open_by_hand, reset
from jobkit.host.world import World

_log = logging.getLogger(__name__)

SWAP_TRIES = 5
RETRY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class BreakerView:
    """A breaker as an operator sees it: its record, failures by code in the window, and how many jobs it holds."""

    record: BreakerRecord
    failures: dict[str, int] = field(default_factory=dict)
    held_jobs: int = 0


class BreakerDesk:
    """The use cases. A breaker exists as soon as its job type does, or a handler that declares the dependency."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def list(self) -> list[BreakerView]:
        """All breakers, by name."""
        names = await self.names()
        return [*await self._views(names, await self._world.breakers.read(names))]

    async def names(self) -> Sequence[str]:
        """Of all breakers, sorted."""
        return await self._world.types.breakers()

    async def dress(
        self, names: Sequence[str], records: Mapping[str, BreakerRecord]
    ) -> Sequence[BreakerView]:
        """The views of records that come from elsewhere; without failures while the store of these is away."""
        try:
            return await self._views(names, records)
        except Unavailable:
            held = await self._waiting()
            return [BreakerView(records.get(n, BreakerRecord(n)), {}, held.get(n, 0)) for n in names]

    async def _views(
        self, names: Sequence[str], records: Mapping[str, BreakerRecord]
    ) -> Sequence[BreakerView]:
        failures = await self._world.breakers.failures(names)
        held = any(record.state.holds for record in records.values())
        waiting = await self._waiting() if held else {}
        return [
            BreakerView(records.get(name, BreakerRecord(name)), failures.get(name, {}), waiting.get(name, 0))
            for name in names
        ]

    async def get(self, name: str) -> BreakerView:
        """Raises NotFound."""
        await self.know(name)
        record = (await self._world.breakers.read([name])).get(name, BreakerRecord(name))
        failures = (await self._world.breakers.failures([name])).get(name, {})
        held = (await self._waiting()).get(name, 0) if record.state.holds else 0
        return BreakerView(record, failures, held)

    async def reset(self, name: str, actor: str, reason: str) -> BreakerView:
        return await self._move(name, actor, reason, lambda r, now: reset(r, now, actor, reason))

    async def open(self, name: str, actor: str, reason: str, until: datetime | None) -> BreakerView:
        def decide(record: BreakerRecord, now: int) -> BreakerRecord:
            return open_by_hand(record, now, _until(until, now), actor, reason)

        return await self._move(name, actor, reason, decide)

    async def close(self, name: str, actor: str, reason: str, until: datetime | None) -> BreakerView:
        def decide(record: BreakerRecord, now: int) -> BreakerRecord:
            return close_by_hand(record, now, _until(until, now), actor, reason)

        return await self._move(name, actor, reason, decide)

    async def _move(
        self, name: str, actor: str, reason: str, decide: Callable[[BreakerRecord, int], BreakerRecord]
    ) -> BreakerView:
        check_texts(actor, reason)
        await self.know(name)
        for _ in range(SWAP_TRIES):
            record = (await self._world.breakers.read([name])).get(name, BreakerRecord(name))
            moved = decide(record, await self._world.breakers.now())
            if await self._world.breakers.swap(name, record.generation, moved):
                _log.warning(
                    "breaker %s: %s -> %s by %s (%s)",
                    name,
                    record.state,
                    moved.state,
                    actor or "anonymous",
                    reason,
                )
                await self._world.ledger.record(moved)
                return await self.get(name)
        raise Unavailable(
            f"breaker '{name}' is moving", reason="BREAKER_MOVING", retry_after=RETRY, metadata={"name": name}
        )

    async def know(self, name: str) -> None:
        """Raises NotFound."""
        if name not in await self._world.types.breakers():
            raise NotFound("breaker", name)

    async def _waiting(self) -> dict[str, int]:
        """Held jobs by breaker: a type held by a dependency counts there."""
        counts = await self._world.recovery.count_waiting()
        types = await self._world.types.all()
        waiting: dict[str, int] = {}
        for (job_type, state), number in counts.items():
            if state == "HELD" and job_type in types:
                holder = types[job_type].held_breaker or job_type
                waiting[holder] = waiting.get(holder, 0) + number
        return waiting


def _until(until: datetime | None, now: int) -> int | None:
    """In store milliseconds. Raises InvalidJob when it is over already."""
    if until is None:
        return None
    millis = round(until.timestamp() * 1000)
    if millis <= now:
        raise InvalidJob([FieldViolation("until", "must lie in the future")])
    return millis
