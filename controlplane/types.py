"""What operators can ask of job types and do to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobkit.domain.asked import check_texts
from jobkit.domain.errors import FieldViolation, InvalidJob, NotFound
from jobkit.host.channels import NEWS, REVISIONS, TYPES
from jobkit.host.world import World
from jobkit.ports import TypeInfo

_log = logging.getLogger(__name__)

MAX_CONCURRENCY = 1_000_000
WORKER_SILENCE = timedelta(seconds=10)
WAITING = ("PENDING", "QUEUED", "RETRYING", "HELD")


@dataclass(frozen=True, slots=True)
class TypeView:
    """A job type as an operator sees it."""

    info: TypeInfo
    waiting: int = 0
    running: int = 0
    held: int = 0
    served: bool = False


class TypeDesk:
    """The use cases. A type exists from its first submit or handler."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def list(self) -> list[TypeView]:
        """All types, by name."""
        known = await self._world.types.all()
        counts = await self._world.recovery.count_waiting()
        served = await self._world.presence.served_types(WORKER_SILENCE)
        return [_view(known[name], counts, served) for name in sorted(known)]

    async def get(self, job_type: str) -> TypeView:
        """Raises NotFound."""
        views = [view for view in await self.list() if view.info.job_type == job_type]
        if not views:
            raise NotFound("type", job_type)
        return views[0]

    async def pause(self, job_type: str, actor: str, reason: str, until: datetime | None) -> TypeView:
        """Raises NotFound; InvalidJob when `until` has passed."""
        check_texts(actor, reason)
        end = None if until is None else round(until.timestamp() * 1000)
        who = actor or "anonymous"
        await self._world.type_steering.pause(job_type, who, reason, end)
        _log.warning("job type %s: paused by %s (%s)", job_type, who, reason)
        return await self._told(job_type)

    async def resume(self, job_type: str, actor: str, reason: str) -> TypeView:
        """Raises NotFound."""
        check_texts(actor, reason)
        who = actor or "anonymous"
        await self._world.type_steering.resume(job_type, who, reason)
        _log.warning("job type %s: resumed by %s (%s)", job_type, who, reason)
        return await self._told(job_type)

    async def limit(self, job_type: str, concurrency: int | None, actor: str, reason: str) -> TypeView:
        """Raises NotFound, InvalidJob."""
        check_texts(actor, reason)
        if concurrency is not None and not 1 <= concurrency <= MAX_CONCURRENCY:
            message = f"must be from 1 to {MAX_CONCURRENCY}; pause the type to run none"
            raise InvalidJob([FieldViolation("concurrency", message)])
        who = actor or "anonymous"
        await self._world.type_steering.limit(job_type, concurrency, who, reason)
        _log.warning("job type %s: limited to %s by %s (%s)", job_type, concurrency or "nothing", who, reason)
        return await self._told(job_type)

    async def _told(self, job_type: str) -> TypeView:
        """Workers read the types every two seconds; this hurries them."""
        for channel in (TYPES, REVISIONS):
            await self._world.signals.send(channel, [NEWS])
        return await self.get(job_type)


def _view(info: TypeInfo, counts: Mapping[tuple[str, str], int], served: set[str]) -> TypeView:
    name = info.job_type
    return TypeView(
        info,
        waiting=sum(counts.get((name, state), 0) for state in WAITING),
        running=counts.get((name, "RUNNING"), 0),
        held=counts.get((name, "HELD"), 0),
        served=name in served or "*" in served,
    )
