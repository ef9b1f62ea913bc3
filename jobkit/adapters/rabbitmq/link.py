"""A connection to the broker that comes back by itself, and the one way that its errors leave the adapter.

aio-pika's robust connections have known holes (consumers that are not restored), so this one restores only
itself: whoever holds a channel sees it closed and opens another.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import AbstractChannel
from aiormq.exceptions import InvalidFrameError
from yarl import URL

from jobkit.adapters.rabbitmq.frames import DeliveringConnection, Receive
from jobkit.domain.errors import Unavailable, store_unavailable

log = logging.getLogger(__name__)

HEARTBEAT = (
    10  # seconds, unless the URL says `?heartbeat=`; aiormq gives a silent peer up after three of them
)
CLOSE_TIMEOUT = 5.0
PING_TIMEOUT = 2.0
# A delivery is three frames. The library's 10 wakes the consumer for every third delivery, which costs a quarter
# of the throughput and leaves acknowledgements nothing to be joined with.
FRAME_BUFFER = 1000
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


@contextmanager
def broker_errors() -> Iterator[None]:
    """Raise Unavailable in place of the driver's errors.

    aiormq ends pending calls of a closing channel with CancelledError. It is the caller's own only if somebody
    has asked this task to cancel; any other would end the task without a word.
    """
    try:
        yield
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        raise store_unavailable("broker") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise store_unavailable("broker") from error


async def shut(channel: AbstractChannel, timeout: float) -> None:
    """Close a channel within `timeout` seconds; what was not acknowledged on it goes back to its queue, in
    order. The error is what calls still waiting on the channel see, instead of a CancelledError."""
    async with asyncio.timeout(timeout):
        await channel.close(ConnectionError("channel closed"))


class Link:
    """One named connection. `greet` runs on every new one, before anybody else may use it."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        timeout: float,
        greet: Callable[[AbstractChannel], Awaitable[None]] | None = None,
    ) -> None:
        wanted = URL(url)
        self._url = wanted.update_query({"heartbeat": HEARTBEAT, **wanted.query})
        self._name = name
        self._timeout = timeout
        self._greet = greet
        self._connection: DeliveringConnection | None = None
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether there is a usable connection, as far as this side knows."""
        return self._up.is_set()

    @property
    def blocked(self) -> bool:
        """Whether the broker has told us not to publish for now: a memory or disk alarm. It says so when we
        publish, and reads nothing more from this connection until the alarm is over."""
        transport = self._connection.transport if self._connection is not None else None
        if transport is None:
            return False
        # The library tells it only by making `ready` wait, so we look whether it would.
        ready = transport.connection.ready()
        try:
            ready.send(None)
        except StopIteration:
            return False
        ready.close()
        return True

    async def wait(self) -> None:
        """Until there is a connection, for up to `timeout` seconds; then Unavailable, as at once where nobody
        connects."""
        if self._keeper is None:
            raise store_unavailable("broker")
        with broker_errors():
            async with asyncio.timeout(self._timeout):
                await self._up.wait()

    async def start(self) -> None:
        """Begin to connect and return once connected. After `timeout` seconds it raises Unavailable and goes on
        trying, until `close`."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"broker link {self._name}")
        await self.wait()

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """A new channel; Unavailable while there is no connection."""
        connection = self._connection
        if connection is None or not self.up:
            raise store_unavailable("broker")
        with self.calls():
            return await self._channel(connection, confirms)

    def take_deliveries(self, channel: AbstractChannel, receive: Receive) -> None:
        """Have what consumers of a channel of this connection get go to `receive`, past the library."""
        reader = self._connection.deliveries if self._connection is not None else None
        if reader is not None:
            reader.take(channel.number, receive)

    async def _channel(self, connection: aio_pika.abc.AbstractConnection, confirms: bool) -> AbstractChannel:
        transport = connection.transport
        if transport is None:
            raise store_unavailable("broker")
        async with asyncio.timeout(self._timeout):
            await transport.ready()  # waits while the broker blocks publishers
            return await transport.connection.channel(
                publisher_confirms=confirms,
                frame_buffer_size=FRAME_BUFFER,
                timeout=self._timeout,
                on_return_raises=False,
            )

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Around calls to the broker: raises Unavailable in place of the driver's errors, and gives the
        connection up when the broker did not answer in time (heartbeats would need half a minute)."""
        connection = self._connection
        try:
            with broker_errors():
                yield
        except Unavailable as error:
            if isinstance(error.__cause__, TimeoutError) and connection is self._connection:
                log.warning("broker link %s: no answer in time, connecting anew", self._name)
                self.drop()
            raise

    async def answers(self) -> bool:
        """Whether the broker still talks to this connection, which is given up when it does not. Where one call
        stays without an answer and others do not, it is the thing asked about that is broken, and a new connection
        would not help."""
        connection = self._connection
        if connection is None or not self.up:
            return False
        try:
            with broker_errors():
                async with asyncio.timeout(PING_TIMEOUT):
                    await shut(await self._channel(connection, False), PING_TIMEOUT)
        except Unavailable:
            if connection is self._connection:
                log.warning("broker link %s: no answer in time, connecting anew", self._name)
                self.drop()
            return False
        return True

    def drop(self) -> None:
        """Give up a connection that does not answer; a new one is made at once."""
        connection = self._connection
        if connection is not None:
            self._lose(connection)
            closing = asyncio.create_task(self._shut(connection), name=f"closing broker link {self._name}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Safe to repeat, and before a start."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self.drop()
        if self._closing:
            await asyncio.wait(list(self._closing))

    async def _keep(self) -> None:
        pause, told = FIRST_PAUSE, ""
        while True:
            try:
                with broker_errors():
                    await self._connect()
            except Unavailable as error:
                why = self._why(error.__cause__)
                log.log(
                    logging.DEBUG if why == told else logging.WARNING, "broker link %s: %s", self._name, why
                )
                told = why
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads, hides nothing
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause, told = FIRST_PAUSE, ""
            await self._down.wait()
            log.warning("broker link %s lost", self._name)

    def _why(self, cause: BaseException | None) -> str:
        """What to tell whoever set RABBITMQ_URL. The library keeps the broker's own words to itself."""
        said = str(cause) or type(cause).__name__
        closed = "Connection.OpenOk" in said and "Connection.Close" in said
        if isinstance(cause, InvalidFrameError) and closed:
            vhost = self._url.path[1:]
            said = f"{self._url.host} refused virtual host {vhost!r}: there is none, or not for this user"
        return said

    async def _connect(self) -> None:
        properties = {"connection_name": self._name}
        async with asyncio.timeout(self._timeout):
            connection = await aio_pika.connect(
                self._url,
                client_properties=properties,  # type: ignore[arg-type]
                connection_class=DeliveringConnection,
            )
        try:
            if self._greet is not None:
                channel = await self._channel(connection, False)
                await self._greet(channel)
                await shut(channel, self._timeout)
        except BaseException:
            await self._shut(connection)
            raise
        connection.close_callbacks.add(lambda *_: self._lose(connection))
        if connection.transport is None or connection.transport.connection.is_closed:
            raise ConnectionError("closed before it could be used")  # and nobody would have told us
        self._connection = connection
        self._down.clear()
        self._up.set()

    def _lose(self, connection: aio_pika.abc.AbstractConnection) -> None:
        if connection is self._connection:
            self._connection = None
            self._up.clear()
            self._down.set()

    async def _shut(self, connection: aio_pika.abc.AbstractConnection) -> None:
        # A peer that reads no more could hold the closing handshake for ever.
        with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await connection.close()
