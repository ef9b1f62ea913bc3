"""Signals within one process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from uuid import UUID

_log = logging.getLogger(__name__)

Heard = Callable[[Sequence[UUID]], None]


class EmbeddedSignals:
    """`ports.Signals` within one process. Listeners are called from the event loop, never from inside `send`,
    so a sender holds no locks of its own against them."""

    def __init__(self) -> None:
        self._listeners: dict[str, dict[object, Heard]] = {}
        self._closed = False

    async def send(self, channel: str, ids: Sequence[UUID]) -> None:
        if self._closed or not ids:
            return
        loop, message = asyncio.get_running_loop(), tuple(ids)
        for key in self._listeners.get(channel, {}):
            loop.call_soon(self._deliver, channel, key, message)

    def listen(self, channel: str, heard: Heard) -> Callable[[], None]:
        key = object()
        self._listeners.setdefault(channel, {})[key] = heard

        def stop() -> None:
            listeners = self._listeners.get(channel, {})
            listeners.pop(key, None)
            if not listeners:
                self._listeners.pop(channel, None)

        return stop

    async def close(self) -> None:
        self._closed = True
        self._listeners.clear()

    def _deliver(self, channel: str, key: object, ids: Sequence[UUID]) -> None:
        heard = self._listeners.get(channel, {}).get(key)
        if heard is None:
            return  # it stopped listening in the meantime
        try:
            heard(ids)
        except Exception:
            _log.exception("a listener of %s failed", channel)
