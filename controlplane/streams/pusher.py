"""Brings every worker to the current version of every kind: looks once a second, and at once when hurried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from controlplane.streams.hub import Hub, behind
from controlplane.streams.session import Session
from jobkit.ports import Revisions

LOOK_SECONDS = 1.0
HURRY_SECONDS = 0.02  # between two looks, however many hurry
STEADY_TRIES = 3


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of resources. `counter` names the database revision that grows in every transaction that changes
    what `read` gives; `read` gives all of it."""

    kind: str
    counter: str
    read: Callable[[], Awaitable[Sequence[Message]]]


class Pusher:
    """Run `run` as a loop. Nothing is kept between looks, so that remaining times are those of the push."""

    def __init__(self, hub: Hub, revisions: Revisions, sources: Sequence[Source]) -> None:
        self._hub = hub
        self._revisions = revisions
        self._sources = sources
        self._hurried = asyncio.Event()
        hub.on_join(self.hurry)

    def hurry(self) -> None:
        """Something may have changed: look now."""
        self._hurried.set()

    async def run(self) -> None:
        """Look for ever. Raises Unavailable while the database is away, and may then be run again."""
        while True:
            self._hurried.clear()
            await self.look()
            await asyncio.sleep(HURRY_SECONDS)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._hurried.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Offer what is new to whom it is new. Without workers nothing is asked."""
        if not self._hub.sessions:
            return
        versions = await self._revisions.read()
        for source in self._sources:
            await self._bring(source, versions.get(source.counter, 0))

    async def _bring(self, source: Source, version: int) -> None:
        """A counter that never moved counts nothing: there is nothing to push."""
        if not version or not self._behind(source.kind, version):
            return
        version, resources = await self._read(source, version)
        for session in self._behind(source.kind, version):
            session.offer(source.kind, version, resources)
            await asyncio.sleep(0)  # a thousand large pushes must not hold up the heartbeats

    async def _read(self, source: Source, version: int) -> tuple[int, list[AnyMessage]]:
        """The resources, and the version that they are at least of. Where changes come faster than reads they may be
        a little newer: the next look then pushes them under their own version. Older they are never."""
        for _ in range(STEADY_TRIES):
            resources = [_packed(message) for message in await source.read()]
            asked, version = version, (await self._revisions.read()).get(source.counter, 0)
            if asked == version:
                break
        return asked, resources

    def _behind(self, kind: str, version: int) -> list[Session]:
        return behind(list(self._hub.sessions.values()), kind, version)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
