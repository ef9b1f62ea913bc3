"""Pub/sub for one process: one connection, however many listeners, restored until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError

from jobkit.adapters.redis.link import DRIVER_ERRORS, RedisLink

_log = logging.getLogger(__name__)

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0


class Subscriber:
    """Calls back with each message of a channel. `ping` seconds of silence are broken by a ping, and as many
    without its answer by a new connection: a partition closes no socket."""

    def __init__(self, link: RedisLink, ping: float = 5.0) -> None:
        self._link = link
        self._ping = ping
        self._listeners: dict[str, dict[object, Callable[[str], None]]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._delay = FIRST_DELAY
        self._closed = False

    def listen(self, channel: str, heard: Callable[[str], None]) -> Callable[[], None]:
        """Call `heard` with each message from about now until the returned function is called. Must be called
        with an event loop running."""
        key = object()
        self._listeners.setdefault(channel, {})[key] = heard
        self._changed.set()
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run(), name="redis-subscriber")

        def stop() -> None:
            listeners = self._listeners.get(channel, {})
            listeners.pop(key, None)
            if not listeners:
                self._listeners.pop(channel, None)
                self._changed.set()

        return stop

    async def close(self) -> None:
        """Stop listening. Safe to repeat."""
        self._closed = True
        self._listeners.clear()
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            pubsub = self._link.pubsub()
            try:
                await pubsub.connect()  # type: ignore[no-untyped-call]  # so in the driver
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._subscribe(pubsub))
                    tasks.create_task(self._read(pubsub))
            except* DRIVER_ERRORS as lost:
                _log.info("subscription lost, again within %.1f s: %s", self._delay, lost.exceptions[0])
            except* Exception:  # the driver's internals: whatever it was, a new connection starts afresh
                _log.exception("subscription failed, again within %.1f s", self._delay)
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads a fleet
            self._delay = min(self._delay * 2, LONGEST_DELAY)

    async def _subscribe(self, pubsub: PubSub) -> None:
        """Keep the server's idea of our channels up to date."""
        subscribed: set[str] = set()
        # Not for ever: the driver swallows a cancellation that meets it while it unsubscribes.
        while not self._closed:
            self._changed.clear()
            wanted = set(self._listeners)
            if wanted - subscribed:
                await pubsub.subscribe(*wanted - subscribed)
            if subscribed - wanted:
                await pubsub.unsubscribe(*subscribed - wanted)
            subscribed = wanted
            await self._changed.wait()

    async def _read(self, pubsub: PubSub) -> None:
        """Pass on messages; raises a driver error when the connection is gone or silent."""
        pinged = False
        while True:
            message = await pubsub.get_message(timeout=self._ping)
            if message is not None:
                pinged = False
                self._delay = FIRST_DELAY
                self._pass_on(message)
            elif pinged:
                raise RedisConnectionError("no answer to a ping")
            else:
                await pubsub.ping()
                pinged = True

    def _pass_on(self, message: dict[str, str]) -> None:
        if message["type"] != "message":
            return
        for heard in list(self._listeners.get(message["channel"], {}).values()):
            try:
                heard(message["data"])
            except Exception:
                _log.exception("a listener of %s failed", message["channel"])
