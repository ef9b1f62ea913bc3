"""Dispatch over RabbitMQ: one quorum queue per job type, and a ladder of delay queues."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from weakref import WeakSet

from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from jobkit.adapters.rabbitmq import names, topology
from jobkit.adapters.rabbitmq.codec import encode, text
from jobkit.adapters.rabbitmq.lane import RabbitLane
from jobkit.adapters.rabbitmq.link import Link, shut
from jobkit.adapters.rabbitmq.publisher import Publisher
from jobkit.ports import Delivery, Dispatch, Undecodable

# Lanes that open, or begin to consume, at a time.
TURNS = 64


class RabbitDispatcher:
    """See `ports.Dispatcher`. `name` is what operators see in the broker's list of connections.

    Publishing and consuming have a connection each: a broker short of memory stops reading from those who
    publish, and acknowledgements must still get through.
    """

    volatile = False

    def __init__(
        self,
        url: str,
        *,
        name: str = "selfheal",
        connect_timeout: timedelta = timedelta(seconds=5),
        confirm_timeout: timedelta = timedelta(seconds=10),
    ) -> None:
        timeout = connect_timeout.total_seconds()
        self._timeout = confirm_timeout.total_seconds()
        self._out = Link(url, f"{name} publish", timeout=timeout, greet=self._greet)
        self._in = Link(url, f"{name} consume", timeout=timeout)
        self._publisher = Publisher(self._out, confirm_timeout=self._timeout)
        self._lanes: WeakSet[RabbitLane] = WeakSet()
        self._turn = asyncio.Semaphore(TURNS)

    @property
    def available(self) -> bool:
        return self._out.up and not self._out.blocked

    @property
    def delivering(self) -> bool:
        return self._in.up

    async def start(self) -> None:
        starts = await asyncio.gather(self._out.start(), self._in.start(), return_exceptions=True)
        for error in starts:
            if error is not None:
                raise error

    async def publish(self, batch: Sequence[Dispatch]) -> list[bool]:
        if not batch:
            return []
        if not self.available:
            return [False] * len(batch)
        messages = [encode(dispatch) for dispatch in batch]
        return await self._publisher.publish(messages, _needs(batch))

    async def open_lane(self, job_type: str, receive: Callable[[Delivery], None]) -> RabbitLane:
        await self._in.wait()
        lane = RabbitLane(
            job_type,
            receive,
            link=self._in,
            publisher=self._publisher,
            timeout=self._timeout,
            turn=self._turn,
        )
        await lane.open()
        self._lanes.add(lane)
        return lane

    async def depth(self, job_type: str) -> int:
        channel = await self._in.channel()
        with self._in.calls():
            try:
                queue = names.main_queue(job_type)
                ok = await channel.queue_declare(queue, passive=True, timeout=self._timeout)
            except ChannelNotFoundEntity:
                return 0  # and the broker has closed the channel
            await shut(channel, self._timeout)
            return ok.message_count or 0

    async def drop(self, job_type: str) -> bool:
        channel = await self._in.channel()
        with self._in.calls():
            try:
                queue = names.main_queue(job_type)
                ok = await channel.queue_declare(queue, passive=True, timeout=self._timeout)
                if ok.consumer_count:
                    return False
                await channel.queue_delete(queue, if_empty=False, if_unused=False, timeout=self._timeout)
            except ChannelNotFoundEntity:
                return True  # there is none, and the broker has closed the channel
            finally:
                await shut(channel, self._timeout)
            return True

    async def drain_intake(self, limit: int, keep: Callable[[Sequence[Undecodable]], Awaitable[None]]) -> int:
        channel = await self._in.channel()
        # Closing the channel puts back what was not acknowledged.
        try:
            with self._in.calls():
                found, last = await self._read_intake(channel, limit)
            if found:
                await keep(found)
                with self._in.calls():
                    async with asyncio.timeout(self._timeout):
                        await channel.basic_ack(last, multiple=True)
        finally:
            with self._in.calls():
                await shut(channel, self._timeout)
        return len(found)

    async def _read_intake(self, channel: AbstractChannel, limit: int) -> tuple[list[Undecodable], int]:
        found: list[Undecodable] = []
        last = 0
        while len(found) < limit:
            message = await channel.basic_get(names.QUARANTINE, timeout=self._timeout)
            if not isinstance(message.delivery, Basic.GetOk):
                break
            headers = message.header.properties.headers or {}
            kept = {key: text(value) for key, value in headers.items() if key != names.DELIVERY_COUNT}
            found.append((message.body, kept))
            last = message.delivery_tag or 0
        return found, last

    async def close(self) -> None:
        for lane in list(self._lanes):
            await lane.close()
        await self._in.close()
        await self._out.close()

    async def _greet(self, channel: AbstractChannel) -> None:
        await topology.declare(channel, topology.EXCHANGE, self._timeout)
        await topology.declare(channel, topology.INTAKE, self._timeout)


def _needs(batch: Sequence[Dispatch]) -> list[list[topology.Piece]]:
    """What each token needs declared: its type's queue, and its rung when it is delayed."""
    mains: dict[str, topology.Piece] = {}
    rungs: dict[int, topology.Piece] = {}
    needs = []
    for dispatch in batch:
        job_type, delay = dispatch.token.job_type, dispatch.delay
        if job_type not in mains:
            mains[job_type] = topology.main(job_type)
        needed = [mains[job_type]]
        if delay:
            needed.append(rungs.setdefault(delay, topology.rung(delay)))
        needs.append(needed)
    return needs
