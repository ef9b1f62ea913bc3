"""Views of the fleet, in Redis: one key a replica, written once a second whatever the number of workers."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from datetime import timedelta

from jobkit.adapters.redis import key
from jobkit.adapters.redis.link import SECOND, RedisLink

FAST = 1  # zlib's level: the views are long and repeat themselves


class RedisFleetViews:
    """`ports.FleetViews`. The link speaks text, so a view is base64 of its compressed bytes."""

    def __init__(
        self, url: str, namespace: str, timeout: timedelta = SECOND, connect_timeout: timedelta = SECOND
    ) -> None:
        self._namespace = namespace
        self._link = RedisLink(url, timeout, connect_timeout)

    async def show(self, replica: str, view: bytes, ttl: timedelta) -> None:
        text = base64.b64encode(zlib.compress(view, FAST)).decode()
        milliseconds = round(ttl / timedelta(milliseconds=1))
        now = await self._now()
        names = key.fleet(self._namespace)
        await self._link.run(
            [
                ("SET", key.fleet_view(self._namespace, replica), text, "PX", milliseconds),
                ("ZADD", names, now + milliseconds, replica),
                ("ZREMRANGEBYSCORE", names, "-inf", now),
            ]
        )

    async def views(self) -> Mapping[str, bytes]:
        (names,) = await self._link.run([("ZRANGE", key.fleet(self._namespace), 0, -1)])
        if not isinstance(names, list) or not names:
            return {}
        found = await self._link.run([("GET", key.fleet_view(self._namespace, name)) for name in names])
        views = {name: _unpacked(text) for name, text in zip(names, found, strict=True)}
        return {name: view for name, view in views.items() if view is not None}

    async def leave(self, replica: str) -> None:
        await self._link.run(
            [
                ("DEL", key.fleet_view(self._namespace, replica)),
                ("ZREM", key.fleet(self._namespace), replica),
            ]
        )

    async def close(self) -> None:
        await self._link.close()

    async def _now(self) -> int:
        """The server's milliseconds."""
        ((seconds, microseconds),) = await self._link.run([("TIME",)])
        return int(seconds) * 1000 + int(microseconds) // 1000


def _unpacked(text: object) -> bytes | None:
    """None for a view that is gone, or is none."""
    if not isinstance(text, str):
        return None
    try:
        return zlib.decompress(base64.b64decode(text, validate=True))
    except (ValueError, zlib.error):
        return None
