"""Breaker policies: the truth is in the database."""

from __future__ import annotations

from typing import Protocol

from jobkit.domain.policy import PolicyOverride, PolicySet, StoredPolicy


class Policies(Protocol):
    """Overrides by name pattern. A revision grows with every change of any of them."""

    async def revision(self) -> int:
        """Cheap: for those who look every two seconds. 0 before the first change."""

    async def current(self) -> PolicySet:
        """All of them."""

    async def list(self) -> list[StoredPolicy]:
        """By pattern."""

    async def get(self, pattern: str) -> StoredPolicy | None:
        """The override of exactly this pattern."""

    async def put(
        self, pattern: str, override: PolicyOverride, *, etag: str, actor: str, reason: str
    ) -> StoredPolicy:
        """Replace it, and hold or let go what its mode decides, in one commit. Raises Aborted when `etag` is not that
        of what is stored ("0" for nothing)."""
