"""Signals between processes by Redis pub/sub."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from jobkit.adapters.redis import key
from jobkit.adapters.redis.link import SECOND, RedisLink
from jobkit.adapters.redis.subscriber import Subscriber
from jobkit.domain.errors import Unavailable

_log = logging.getLogger(__name__)


class RedisSignals:
    """`ports.Signals`. After a failed send it sends nothing for a second, so that a batch is not held up again
    and again by a Redis that is away."""

    def __init__(
        self, url: str, namespace: str, timeout: timedelta = SECOND, connect_timeout: timedelta = SECOND
    ) -> None:
        self._namespace = namespace
        self._link = RedisLink(url, timeout, connect_timeout)
        self._subscriber = Subscriber(self._link)
        self._away_until = 0.0
        self._closed = False

    async def send(self, channel: str, ids: Sequence[UUID]) -> None:
        if self._closed or not ids or time.monotonic() < self._away_until:
            return
        message = " ".join(item.hex for item in ids)
        try:
            await self._link.run([("PUBLISH", key.signal(self._namespace, channel), message)])
        except Unavailable as away:
            self._away_until = time.monotonic() + away.retry_after.total_seconds()

    def listen(self, channel: str, heard: Callable[[Sequence[UUID]], None]) -> Callable[[], None]:
        def receive(message: str) -> None:
            try:
                ids = tuple(UUID(hex=item) for item in message.split(" "))
            except ValueError:
                _log.warning("dropped a signal on %s that is none", channel)
                return
            heard(ids)

        return self._subscriber.listen(key.signal(self._namespace, channel), receive)

    async def close(self) -> None:
        self._closed = True
        await self._subscriber.close()
        await self._link.close()
