"""The whole fleet's streams: ours, and those that the other replicas show."""

from __future__ import annotations

import logging
from datetime import timedelta

from controlplane.streams.hub import Hub
from controlplane.streams.view import StreamView, pack, unpack
from jobkit.domain.errors import Unavailable
from jobkit.ports import FleetViews

_log = logging.getLogger(__name__)

SHOW_SECONDS = 1.0
TTL = timedelta(seconds=5)


class Fleet:
    """`show` is run once a second: one write a replica, whatever the number of its workers."""

    def __init__(self, hub: Hub, views: FleetViews) -> None:
        self._hub = hub
        self._views = views
        self._shown = False

    async def show(self) -> None:
        """Let the other replicas see our streams. With none nothing is written."""
        ours = self._hub.views()
        if ours:
            await self._views.show(self._hub.replica, pack(ours), TTL)
        elif self._shown:
            await self._views.leave(self._hub.replica)
        self._shown = bool(ours)

    async def hide(self) -> None:
        """Good-bye: our workers are the other replicas' now."""
        try:
            await self._views.leave(self._hub.replica)
        except Unavailable as error:
            _log.debug("our view of the fleet ends by itself: %s", error)

    async def streams(self) -> dict[str, StreamView]:
        """By worker. Of a worker on two replicas, which can be for as long as a half-open stream is not noticed, the
        newer stream counts. Without the store of views only ours are known."""
        try:
            shown = await self._views.views()
        except Unavailable as error:
            _log.debug("the other replicas' workers are not seen: %s", error)
            shown = {}
        streams: dict[str, StreamView] = {}
        others = [unpack(data) for replica, data in shown.items() if replica != self._hub.replica]
        for view in (one for views in (*others, self._hub.views()) for one in views):
            known = streams.get(view.identity.worker_id)
            if known is None or view.connected_at >= known.connected_at:
                streams[view.identity.worker_id] = view
        return streams
