"""Failures on purpose: the use cases."""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

from jobkit.domain.asked import check_texts
from jobkit.domain.errors import InvalidJob, NotFound, Precondition
from jobkit.domain.fault import Fault, StoredFault, find_fault_faults
from jobkit.domain.tripping import ANONYMOUS
from jobkit.host.channels import NEWS, REVISIONS
from jobkit.host.world import World, new_id

_log = logging.getLogger(__name__)


class GameDayDesk:
    """`enabled` is off in production. What goes on can be seen and stopped all the same."""

    def __init__(self, world: World, enabled: bool) -> None:
        self._world = world
        self._enabled = enabled

    async def inject(
        self, job_type: str, error_code: str, rate: float, ttl: timedelta, *, actor: str, reason: str
    ) -> StoredFault:
        """Raises Precondition where game days are off; InvalidJob; NotFound."""
        if not self._enabled:
            raise Precondition(
                "faults cannot be injected here (GAME_DAY=0, or production)", reason="GAME_DAY_OFF"
            )
        check_texts(actor, reason)
        wrong = list(find_fault_faults(error_code, rate, ttl))
        if wrong:
            raise InvalidJob(wrong)
        fault = Fault(new_id(), job_type, error_code, rate, ttl, actor or ANONYMOUS, reason)
        stored = await self._world.faults.inject(fault)
        _log.warning(
            "fault injected into %s by %s for %s: %g of its attempts fail with %s (%s)",
            job_type,
            fault.actor,
            ttl,
            rate,
            error_code,
            reason,
        )
        await self._hurry()
        return stored

    async def stop(self, fault_id: str, *, actor: str, reason: str) -> StoredFault:
        """Raises InvalidJob, NotFound."""
        check_texts(actor, reason)
        stored = await self._world.faults.stop(_id(fault_id), actor or ANONYMOUS, reason)
        _log.warning("fault in %s stopped by %s (%s)", stored.fault.job_type, actor or ANONYMOUS, reason)
        await self._hurry()
        return stored

    async def list(self, *, active_only: bool, limit: int, before: UUID | None) -> list[StoredFault]:
        """Newest first."""
        return await self._world.faults.list(active_only=active_only, limit=limit, before=before)

    async def _hurry(self) -> None:
        """Workers look every two seconds; their streams hurry them."""
        await self._world.signals.send(REVISIONS, [NEWS])


def _id(text: str) -> UUID:
    """Raises NotFound: what is no id names nothing."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound("fault", text) from None
