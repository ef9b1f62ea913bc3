"""Deliveries read in bulk: what one read of the socket brings is handed over at once.

aiormq reads frame by frame. A delivery is three of them, each with awaits, a queue and a task's turn, which costs as
much as claiming the job does. Here whole deliveries are taken out of the stream of bytes before the library reads
it, and go to whoever asked for those of their channel; all else goes on, and the library works as ever.
Both ends are public: aiormq takes a transport factory, asyncio.StreamReader is fed with bytes.

AMQP 0-9-1, 2.3.5 and 4.2: a frame is its type, channel and length, a payload, and an end mark. A delivery is a method
frame, a content header, and as many body frames as it takes; on its channel nothing comes between them.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import aio_pika
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from jobkit.adapters.rabbitmq.header import Properties, read_header
from jobkit.domain.lean import lean

log = logging.getLogger(__name__)

_FRAME = struct.Struct(">BHI")
_METHOD, _HEADER, _BODY = 1, 2, 3
_TYPES = frozenset((_METHOD, _HEADER, _BODY, 8))
_OVERHEAD = _FRAME.size + 1
_END = 206
_DELIVER = struct.pack(">HH", 60, 60)
_TAG = struct.Struct(">Q?")
# aiormq gives a connection up on which it has read nothing for long, and a broker that is busy delivering sends no
# heartbeats.
_HEARTBEAT = struct.pack(">BHIB", 8, 0, 0, _END)
_ALIVE_SECONDS = 1.0
_READ_AHEAD = 1 << 20  # bytes that may wait for the library; what is delivered is bounded by the prefetch


@lean
@dataclass(frozen=True, slots=True)
class Arrived:
    """A delivery."""

    consumer: str
    tag: int
    redelivered: bool
    properties: Properties
    body: bytes


Receive = Callable[[Arrived], None]
"""Called by the reader of the socket: must return at once."""


@dataclass(slots=True)
class _Partial:
    """A delivery whose frames are still coming."""

    consumer: str
    tag: int
    redelivered: bool
    properties: Properties | None = None
    parts: list[bytes] = field(default_factory=list)
    left: int = 0


class DeliveryReader(asyncio.StreamReader):
    """Feeds itself with all but the deliveries of the channels that were asked for."""

    def __init__(self) -> None:
        super().__init__(limit=_READ_AHEAD, loop=asyncio.get_running_loop())
        self._receivers: dict[int, Receive] = {}
        self._partial: dict[int, _Partial] = {}
        self._rest = b""
        self._amqp = True
        self._fed_at = 0.0

    def take(self, channel: int, receive: Receive) -> None:
        """From now on, deliveries on the channel go to `receive`, until another one takes the number."""
        self._receivers[channel] = receive
        self._partial.pop(channel, None)

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """What the socket brought."""
        if not self._amqp:
            super().feed_data(data)
            return
        data = self._rest + bytes(data)
        passed: list[bytes] = []
        kept = at = 0
        while len(data) - at >= _OVERHEAD:
            kind, channel, size = _FRAME.unpack_from(data, at)
            end = at + _OVERHEAD + size
            if kind not in _TYPES or (end <= len(data) and data[end - 1] != _END):
                self._amqp = False  # the library says what is wrong with it
                at = len(data)
                break
            if end > len(data):
                break
            if self._takes(kind, channel, data, at + _FRAME.size, end - 1):
                passed.append(data[kept:at])
                kept = end
            at = end
        passed.append(data[kept:at])
        self._rest = data[at:]
        self._pass_on(b"".join(passed))

    def _pass_on(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if not data and now - self._fed_at > _ALIVE_SECONDS:
            data = _HEARTBEAT
        if data:
            self._fed_at = now
            super().feed_data(data)

    def feed_eof(self) -> None:
        """The socket has ended."""
        if self._rest:
            super().feed_data(self._rest)
            self._rest = b""
        super().feed_eof()

    def _takes(self, kind: int, channel: int, data: bytes, begin: int, end: int) -> bool:
        """Whether the frame is part of a delivery that somebody wants; its payload lies from `begin` to `end`."""
        if kind == _METHOD:
            if channel not in self._receivers or data[begin : begin + 4] != _DELIVER:
                return False
            length = data[begin + 4]
            after = begin + 5 + length
            tag, redelivered = _TAG.unpack_from(data, after)
            self._partial[channel] = _Partial(data[begin + 5 : after].decode(), tag, redelivered)
            return True
        partial = self._partial.get(channel)
        if partial is None:
            return False
        if kind == _HEADER:
            partial.properties = read_header(data[begin:end])
            partial.left = partial.properties.body_size
        elif kind == _BODY:
            partial.parts.append(data[begin:end])
            partial.left -= end - begin
        else:
            return False
        if partial.left <= 0:
            self._complete(channel)
        return True

    def _complete(self, channel: int) -> None:
        partial = self._partial.pop(channel)
        assert partial.properties is not None
        body = partial.parts[0] if len(partial.parts) == 1 else b"".join(partial.parts)
        arrived = Arrived(partial.consumer, partial.tag, partial.redelivered, partial.properties, body)
        try:
            self._receivers[channel](arrived)
        except Exception:
            log.exception("a consumer failed")


class _Factory(TransportFactory):
    """As aiormq's own, TLS included, with a reader of ours."""

    def __init__(self) -> None:
        self.reader: DeliveryReader | None = None

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = options.pop("ssl_context_provider", None)
        ssl = await provider.get_context() if url.scheme == "amqps" and provider is not None else None
        loop = asyncio.get_running_loop()
        reader = DeliveryReader()
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, host=url.host or "", port=url.port or 0, ssl=ssl, **options
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.reader = reader
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class DeliveringConnection(aio_pika.Connection):
    """A connection whose deliveries can be read in bulk."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._factory = _Factory()
        self.kwargs["transport_factory"] = self._factory

    @property
    def deliveries(self) -> DeliveryReader | None:
        """None before it is connected."""
        return self._factory.reader
