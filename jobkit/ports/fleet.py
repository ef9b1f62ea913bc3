"""What one control plane replica sees of the fleet, for the others to see."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol


class FleetViews(Protocol):
    """One view a replica, replaced as a whole and gone by itself when nobody renews it. Losing them costs the figures
    of workers on other replicas, never who lives: that is in the database."""

    async def show(self, replica: str, view: bytes, ttl: timedelta) -> None:
        """Replace the replica's view; it is gone after `ttl`."""

    async def views(self) -> Mapping[str, bytes]:
        """All views that are not gone, by replica."""

    async def leave(self, replica: str) -> None:
        """Take the replica's view away. Safe to repeat."""

    async def close(self) -> None:
        """Safe to repeat."""
