"""Views of the fleet within one process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta


class MemoryFleetViews:
    """`ports.FleetViews` within one process."""

    def __init__(self) -> None:
        self._views: dict[str, tuple[float, bytes]] = {}

    async def show(self, replica: str, view: bytes, ttl: timedelta) -> None:
        self._views[replica] = (time.monotonic() + ttl.total_seconds(), view)

    async def views(self) -> Mapping[str, bytes]:
        now = time.monotonic()
        self._views = {name: (until, view) for name, (until, view) in self._views.items() if until > now}
        return {name: view for name, (_, view) in self._views.items()}

    async def leave(self, replica: str) -> None:
        self._views.pop(replica, None)

    async def close(self) -> None:
        self._views.clear()
