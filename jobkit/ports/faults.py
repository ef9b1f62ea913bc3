"""Injected faults: the truth is in the database."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from jobkit.domain.fault import Fault, StoredFault


class Faults(Protocol):
    """Faults stay as the record of who did what; they end by database time."""

    async def revision(self) -> int:
        """Cheap: for those who look every two seconds. Grows whenever one is injected or stopped; 0 before the
        first. That one's time is over is no change."""

    async def active(self) -> list[Fault]:
        """Those that go on, oldest first, with the time that each has left."""

    async def inject(self, fault: Fault) -> StoredFault:
        """Let it begin now and last `remaining`; one of the same type and code that goes on is stopped. Raises
        NotFound for a job type that does not exist."""

    async def stop(self, fault_id: UUID, actor: str, reason: str) -> StoredFault:
        """End it now; one that is over stays as it is. Raises NotFound."""

    async def list(self, *, active_only: bool, limit: int, before: UUID | None) -> list[StoredFault]:
        """Newest first; only those older than `before`, where it is given."""
