"""Many frames in one write: the one place that reaches into aiormq.

aiormq writes each publish and each acknowledgement by itself and keeps a future for each, which costs more than
the broker does. Here a batch is one write on an ordinary aiormq channel, under the channel's own lock and its own
count of delivery tags, so that its other methods keep working. `reachable` checks at run time that the library
is one whose insides we know; where it is not, its public methods are used, slower and with the same result.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Sequence
from enum import Enum
from functools import cache
from importlib.metadata import version
from typing import Any, Protocol

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import AbstractChannel, ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import DeliveryError
from pamqp import commands, frame
from pamqp.body import ContentBody

from jobkit.adapters.rabbitmq.codec import Outgoing
from jobkit.adapters.rabbitmq.header import marshal_header
from jobkit.adapters.rabbitmq.tags import Tag

log = logging.getLogger(__name__)

_NEEDED = (
    "confirmations", "delivery_tag", "lock", "message_id_delivery_tag", "write_queue", "create_future",
    "max_content_size", "number", "_on_confirm_frame",
)  # fmt: skip

# AMQP 0-9-1: frame type 1, channel, 13 bytes of class, method, delivery tag and flags, end mark 206.
_SETTLE = struct.Struct(">BHIHHQBB")
_BASIC, _ACK, _NACK, _REQUEUE = 60, 80, 120, 0b10


class Answer(Enum):
    """What the broker said about one message."""

    CONFIRMED = 1
    REFUSED = 2  # a nack
    UNROUTABLE = 3  # returned: no queue wanted it
    UNKNOWN = 4  # no answer


@cache
def _known_library() -> bool:
    return version("aiormq").partition(".")[0] == "7"


def reachable(channel: AbstractChannel) -> bool:
    """Whether this is a channel whose insides `wire` knows."""
    return (
        _known_library() and isinstance(channel, Channel) and all(hasattr(channel, name) for name in _NEEDED)
    )


class Settles(Protocol):
    """Settles deliveries of one channel."""

    async def acknowledge(self, tags: Sequence[Tag]) -> None:
        """All of them, in one write where possible."""

    async def give_back(self, tags: Sequence[int]) -> None:
        """Return each to its queue, in order."""


def settles(channel: AbstractChannel) -> Settles:
    """The fast ones where possible."""
    if reachable(channel):
        assert isinstance(channel, Channel)
        return _Joined(channel)
    return _Single(channel)


class _Joined:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def acknowledge(self, tags: Sequence[Tag]) -> None:
        await self._write([self._frame(_ACK, tag.number, int(tag.multiple)) for tag in tags])

    async def give_back(self, tags: Sequence[int]) -> None:
        await self._write([self._frame(_NACK, tag, _REQUEUE) for tag in tags])

    def _frame(self, method: int, tag: int, flags: int) -> bytes:
        return _SETTLE.pack(1, self._channel.number, 13, _BASIC, method, tag, flags, 206)

    async def _write(self, frames: Sequence[bytes]) -> None:
        await self._channel.write_queue.put(ChannelFrame(payload=b"".join(frames), should_close=False))


class _Single:
    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel

    async def acknowledge(self, tags: Sequence[Tag]) -> None:
        for tag in tags:
            await self._channel.basic_ack(tag.number, multiple=tag.multiple, wait=False)

    async def give_back(self, tags: Sequence[int]) -> None:
        for tag in tags:
            await self._channel.basic_nack(tag, requeue=True, wait=False)


class BulkPublisher(Protocol):
    """Publishes on one channel in confirm mode."""

    async def publish(self, messages: Sequence[Outgoing], timeout: float) -> list[Answer]:
        """One answer each, in order; UNKNOWN for those not answered within `timeout` seconds or before the
        channel closed."""


def bulk_publisher(channel: AbstractChannel) -> BulkPublisher:
    """The fast one where possible."""
    if reachable(channel):
        assert isinstance(channel, Channel)
        return _OneWrite(channel)
    return _OneByOne(channel)


class _Batch:
    """Consecutive delivery tags and what is known about them. It stands in for the futures that aiormq keeps
    by tag, and gets what they would get when a message is returned."""

    def __init__(self, channel: Channel, first: int, ids: Sequence[str]) -> None:
        self.first, self.last = first, first + len(ids) - 1
        self.answers: list[Answer | None] = [None] * len(ids)
        self.ids = ids
        self.open = len(ids)
        # From the channel, so that its closing ends the wait.
        self.future: asyncio.Future[None] = channel.create_future()
        self._tags = channel.message_id_delivery_tag
        self._returned: set[int] = set()

    def set_result(self, message: DeliveredMessage) -> None:
        """aiormq: a message came back as unroutable. Its acknowledgement still follows."""
        tag = self._tags.get(message.header.properties.message_id or "")
        if tag is not None:
            self._returned.add(tag)

    def settle(self, low: int, high: int, answer: Answer) -> None:
        """The broker answered for the tags from `low` to `high`."""
        for tag in range(max(low, self.first), min(high, self.last) + 1):
            index = tag - self.first
            if self.answers[index] is None:
                self.answers[index] = Answer.UNROUTABLE if tag in self._returned else answer
                self.open -= 1
        if self.open == 0 and not self.future.done():
            self.future.set_result(None)

    def known(self) -> list[Answer]:
        return [answer or Answer.UNKNOWN for answer in self.answers]


class _OneWrite:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._batches: deque[_Batch] = deque()
        # aiormq walks all its pending confirmations for every multiple ack; a batch is a range of tags.
        channel._on_confirm_frame = self._on_confirm  # type: ignore[assignment]

    async def publish(self, messages: Sequence[Outgoing], timeout: float) -> list[Answer]:
        batch: _Batch | None = None
        try:
            async with asyncio.timeout(timeout):
                batch = await self._write(messages)
                await batch.future
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not ours: so a closing channel ends its futures.
        except CONNECTION_EXCEPTIONS:
            pass  # the channel is gone
        return batch.known() if batch else [Answer.UNKNOWN] * len(messages)

    async def _write(self, messages: Sequence[Outgoing]) -> _Batch:
        channel = self._channel
        async with channel.lock:
            first = channel.delivery_tag + 1
            # The tag makes the id unique on the channel, however often a job is queued.
            ids = [f"{message.label}.{first + index}" for index, message in enumerate(messages)]
            payload = marshal(channel.number, channel.max_content_size, messages, ids)
            batch = _Batch(channel, first, ids)
            self._expect(batch)
            try:
                await channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
            except BaseException:
                self._forget(batch)  # nothing was sent: the tags are free again
                batch.future.cancel()
                raise
            channel.delivery_tag = batch.last
        return batch

    def _expect(self, batch: _Batch) -> None:
        channel = self._channel
        for tag, message_id in enumerate(batch.ids, batch.first):
            channel.message_id_delivery_tag[message_id] = tag
            channel.confirmations[tag] = batch  # type: ignore[assignment]
        self._batches.append(batch)
        batch.future.add_done_callback(lambda _: self._forget(batch))

    def _forget(self, batch: _Batch) -> None:
        if batch not in self._batches:
            return
        channel = self._channel
        for tag, message_id in enumerate(batch.ids, batch.first):
            channel.message_id_delivery_tag.pop(message_id, None)
            channel.confirmations.pop(tag, None)
        self._batches.remove(batch)

    async def _on_confirm(self, confirm: commands.Basic.Ack | commands.Basic.Nack) -> None:
        tag = confirm.delivery_tag or 0
        answer = Answer.CONFIRMED if isinstance(confirm, commands.Basic.Ack) else Answer.REFUSED
        low = 0 if confirm.multiple else tag
        for batch in list(self._batches):
            if batch.first <= tag and batch.last >= low:
                batch.settle(low, tag, answer)


class _OneByOne:
    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel

    async def publish(self, messages: Sequence[Outgoing], timeout: float) -> list[Answer]:
        waits = [self._publish(message, timeout) for message in messages]
        results = await asyncio.gather(*waits, return_exceptions=True)
        return [_answer_of(result) for result in results]

    async def _publish(self, message: Outgoing, timeout: float) -> object:
        return await self._channel.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=properties(message),
            mandatory=True,
            timeout=timeout,
        )


def _answer_of(result: object) -> Answer:
    match result:
        case commands.Basic.Ack():
            return Answer.CONFIRMED
        case DeliveredMessage():
            return Answer.UNROUTABLE
        case DeliveryError():
            return Answer.REFUSED
        case _:
            return Answer.UNKNOWN


def properties(message: Outgoing) -> commands.Basic.Properties:
    """The message's AMQP properties: persistent, with its headers."""
    headers: Any = dict(message.headers)
    return commands.Basic.Properties(content_type=message.content_type, headers=headers, delivery_mode=2)


def marshal(number: int, body_limit: int, messages: Sequence[Outgoing], ids: Sequence[str]) -> bytes:
    """The frames of all messages for channel `number`, as one string of bytes."""
    parts: list[bytes] = []
    methods: dict[tuple[str, str], bytes] = {}
    for message, message_id in zip(messages, ids, strict=True):
        route = (message.exchange, message.routing_key)
        method = methods.get(route)
        if method is None:
            publish = commands.Basic.Publish(exchange=route[0], routing_key=route[1], mandatory=True)
            method = methods[route] = frame.marshal(publish, number)
        parts += (method, marshal_header(number, message, message_id))
        for start in range(0, len(message.body), body_limit):
            parts.append(frame.marshal(ContentBody(message.body[start : start + body_limit]), number))
    return b"".join(parts)
