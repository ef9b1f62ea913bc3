"""One job type's way from the broker to this process.

A lane has a channel of its own, because a consume on a missing queue closes the whole channel. What belongs to
that channel is a `_Session`; when the channel is gone so is the session, and its deliveries are no longer live.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ConnectionInternalError
from pamqp.commands import Basic

from jobkit.adapters.rabbitmq import codec, names, topology, wire
from jobkit.adapters.rabbitmq.frames import Arrived
from jobkit.adapters.rabbitmq.header import Properties
from jobkit.adapters.rabbitmq.link import Link, broker_errors, shut
from jobkit.adapters.rabbitmq.publisher import Publisher, quarantined
from jobkit.adapters.rabbitmq.tags import Unsettled
from jobkit.domain.errors import Unavailable, store_unavailable
from jobkit.domain.job import Token
from jobkit.ports import Delivery

log = logging.getLogger(__name__)


class RabbitDelivery:
    """A message in hand."""

    __slots__ = ("arrived", "session", "settled", "tag", "token")

    def __init__(self, session: _Session, arrived: Arrived, token: Token | None) -> None:
        self.session = session
        self.arrived = arrived
        self.tag = arrived.tag
        self.token = token
        self.settled = False

    @property
    def redelivered(self) -> bool:
        return self.arrived.redelivered

    @property
    def live(self) -> bool:
        return not self.session.channel.is_closed


class _Session:
    """What lives as long as one channel."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self.consumer = ""
        self.prefetch = 0
        self.in_hand = 0
        # The broker counts the prefetch per consumer, and a changed prefetch is a new consumer. What comes in
        # excess while an older consumer's deliveries are still in hand waits here, seen by nobody.
        self.held: deque[RabbitDelivery] = deque()
        self.settles = wire.settles(channel)
        self.unsettled = Unsettled()
        # Acknowledged, and not written yet.
        self.acks: list[int] = []
        # What settles is written in the order in which its tags were joined. The connection's queue of writes does
        # not keep it where it is full: whoever comes as room is made goes before those who wait for it, and one
        # frame for many would settle what the frames before it were to.
        self.writing = asyncio.Lock()

    def knows(self, consumer: str) -> bool:
        """The library forgets a consumer that the broker cancels, which it does when the queue is deleted."""
        consumers: dict[str, Any] = getattr(self.channel, "consumers", {})
        return consumer in consumers and not self.channel.is_closed

    @property
    def consuming(self) -> bool:
        return bool(self.consumer) and self.knows(self.consumer)

    @property
    def why_closed(self) -> str:
        """What the broker said when it closed the channel; "" if it did not."""
        closing = self.channel.closing
        if not closing.done() or closing.cancelled():
            return ""
        return str(closing.exception() or "")


class RabbitLane:
    """See `ports.Lane`. `timeout` in seconds bounds each call to the broker, but not the wait for a `turn`: lanes
    share turns of opening and consuming, since a thousand that ask at once wait too long for each other's answers."""

    def __init__(
        self,
        job_type: str,
        receive: Callable[[Delivery], None],
        *,
        link: Link,
        publisher: Publisher,
        timeout: float,
        turn: asyncio.Semaphore,
    ) -> None:
        self._job_type = job_type
        self._queue = names.main_queue(job_type)
        self._receive = receive
        self._link = link
        self._publisher = publisher
        self._timeout = timeout
        self._session: _Session | None = None
        self._acking: set[asyncio.Task[None]] = set()
        self._busy = asyncio.Lock()
        self._turn = turn

    @property
    def job_type(self) -> str:
        return self._job_type

    @property
    def consuming(self) -> bool:
        return self._session is not None and self._session.consuming and self._link.up

    async def open(self) -> None:
        """Open the channel and declare the queue."""
        async with self._busy, self._turn:
            await self._opened()

    async def consume(self, prefetch: int) -> None:
        if prefetch < 1:
            raise ValueError("a prefetch of 0 would be unlimited")
        async with self._busy, self._turn:
            session = await self._opened()
            if session.consuming and session.prefetch == prefetch:
                return
            async with self._use(session):
                channel = session.channel
                if session.consumer and not session.consuming:  # the broker cancelled it with its queue
                    await topology.declare(channel, topology.main(self._job_type), self._timeout)
                await self._cancel(session)
                await channel.basic_qos(prefetch_count=prefetch, timeout=self._timeout)
                session.prefetch = prefetch
                ok = await channel.basic_consume(self._queue, self._consumer(session), timeout=self._timeout)
                session.consumer = ok.consumer_tag or ""
            self._hand_over(session)

    async def pause(self) -> None:
        async with self._busy:
            session = self._session
            if session is None or session.channel.is_closed:
                return
            with self._link.calls():
                await self._cancel(session)
            held = list(session.held)
            session.held.clear()
            await self._return(session, held)

    async def take(self) -> Delivery | None:
        async with self._busy:
            session = await self._opened()
            async with self._use(session):
                message = await session.channel.basic_get(self._queue, timeout=self._timeout)
            if not isinstance(message.delivery, Basic.GetOk):
                return None
            session.in_hand += 1
            return self._delivery(session, _arrived(message))

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        session = self._session
        ours = self._ours(deliveries)
        if session is None or not ours:
            return
        if not session.acks:
            # What else is done with in this turn of the loop goes in the same write.
            asyncio.get_running_loop().call_soon(self._begin_acks, session)
        session.acks += [delivery.tag for delivery in ours]
        self._let_go(session, ours)

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        # A quorum queue hands out what was returned before all else, in the order of its return: tokens of one
        # call keep their order, and those of an earlier call come first.
        session = self._session
        ours = self._ours(deliveries)
        if session is not None and ours:
            await self._return(session, ours)
            self._let_go(session, ours)

    async def quarantine(self, delivery: Delivery) -> None:
        if not isinstance(delivery, RabbitDelivery) or not delivery.live:
            return  # the broker delivers it again
        arrived = delivery.arrived
        properties = arrived.properties
        message = quarantined(arrived.body, properties.headers, properties.content_type, self._queue)
        (confirmed,) = await self._publisher.publish([message], [[topology.INTAKE]])
        if not confirmed:
            raise store_unavailable("broker")
        await self.ack([delivery])

    async def close(self) -> None:
        async with self._busy:
            session, self._session = self._session, None
            if session is None or session.channel.is_closed:
                return
            try:
                await self._write_acks(session)
                with self._link.calls():
                    await shut(session.channel, self._timeout)
            except Unavailable as error:
                log.info("lane %s did not close in order: %r", self._job_type, error.__cause__)

    async def _opened(self) -> _Session:
        session = self._session
        if session is None or session.channel.is_closed or not self._link.up:
            if session is not None and self._link.up:
                log.warning("lane %s: its channel was closed: %s", self._job_type, session.why_closed)
            channel = await self._link.channel()
            with self._link.calls():
                await topology.declare(channel, topology.main(self._job_type), self._timeout)
            session = self._session = _Session(channel)
            self._link.take_deliveries(channel, lambda arrived: self._arrive(session, arrived))
        return session

    @asynccontextmanager
    async def _use(self, session: _Session) -> AsyncIterator[None]:
        """Around calls that need the queue itself to answer. When it does not and the broker does, the connection
        stays: it is every lane's."""
        try:
            with broker_errors():
                yield
        except Unavailable as error:
            cause = error.__cause__
            if isinstance(cause, ConnectionInternalError):
                await self._publisher.doubt(topology.main(self._job_type))
            elif isinstance(cause, TimeoutError):
                self._session = None
                if await self._link.answers():
                    await self._publisher.doubt(topology.main(self._job_type))
                    with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
                        await shut(session.channel, self._timeout)
            raise

    async def _cancel(self, session: _Session) -> None:
        if session.consuming:
            await session.channel.basic_cancel(session.consumer, timeout=self._timeout)
        session.consumer = ""

    def _consumer(self, session: _Session) -> Callable[[DeliveredMessage], Any]:
        async def deliver(message: DeliveredMessage) -> None:
            """Only what the link did not take out of the library's hands."""
            self._arrive(session, _arrived(message))

        return deliver

    def _arrive(self, session: _Session, arrived: Arrived) -> None:
        if session.knows(arrived.consumer):
            session.held.append(self._delivery(session, arrived))
            self._hand_over(session)

    def _delivery(self, session: _Session, arrived: Arrived) -> RabbitDelivery:
        session.unsettled.came(arrived.tag)
        properties = arrived.properties
        token = codec.decode(arrived.body, properties.headers, properties.content_type, self._job_type)
        return RabbitDelivery(session, arrived, token)

    def _hand_over(self, session: _Session) -> None:
        while session.held and session.in_hand < session.prefetch:
            session.in_hand += 1
            try:
                self._receive(session.held.popleft())
            except Exception:
                log.exception("the receiver of %s failed", self._job_type)

    def _ours(self, deliveries: Sequence[Delivery]) -> list[RabbitDelivery]:
        """Those of the channel of now that nobody settled: settling a tag twice would close it."""
        return [
            d
            for d in deliveries
            if isinstance(d, RabbitDelivery) and d.session is self._session and not d.settled
        ]

    def _let_go(self, session: _Session, deliveries: Sequence[RabbitDelivery]) -> None:
        for delivery in deliveries:
            delivery.settled = True
        session.in_hand -= len(deliveries)
        self._hand_over(session)

    def _begin_acks(self, session: _Session) -> None:
        task = asyncio.create_task(self._acknowledge(session))
        self._acking.add(task)
        task.add_done_callback(self._acking.discard)

    async def _acknowledge(self, session: _Session) -> None:
        try:
            await self._write_acks(session)
        except Unavailable as error:
            log.info("tokens of %s come again: %r", self._job_type, error.__cause__)

    async def _write_acks(self, session: _Session) -> None:
        async with self._settling(session):
            tags, session.acks = session.acks, []
            if tags and not session.channel.is_closed:
                await session.settles.acknowledge(session.unsettled.acknowledge(tags))

    async def _return(self, session: _Session, deliveries: list[RabbitDelivery]) -> None:
        if not deliveries:
            return
        tags = sorted(delivery.tag for delivery in deliveries)
        for delivery in deliveries:
            delivery.settled = True
        async with self._settling(session):
            if not session.channel.is_closed:
                await session.settles.give_back(tags)
                session.unsettled.given_back(tags)

    @asynccontextmanager
    async def _settling(self, session: _Session) -> AsyncIterator[None]:
        """One after the other."""
        with self._link.calls():
            async with asyncio.timeout(self._timeout), session.writing:
                yield


def _arrived(message: DeliveredMessage) -> Arrived:
    """What the library has read."""
    said = message.header.properties
    properties = Properties(message.header.body_size or 0, said.content_type, said.headers or {})
    consumer = getattr(message.delivery, "consumer_tag", None) or ""
    return Arrived(consumer, message.delivery_tag or 0, bool(message.redelivered), properties, message.body)
