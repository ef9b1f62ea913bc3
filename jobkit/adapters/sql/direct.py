"""The hot path's way to PostgreSQL: one statement, sent by asyncpg itself.

SQLAlchemy takes a quarter of a millisecond of the processor for a connection, a transaction and a statement: twenty
times what asyncpg does, and more than a small batch has to spend. So statements of the hot path are written in
SQLAlchemy Core as all others, turned into text once, and sent each as a transaction of its own, on a few connections
that nothing else uses.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import sqlalchemy as sa

from jobkit.adapters.sql.hot import POSTGRESQL, Hot

RECYCLE_SECONDS = 1800.0
CLOSE_SECONDS = 2.0
# What SQLAlchemy's URLs may hold for its own use of asyncpg.
_NOT_FOR_ASYNCPG = ("prepared_statement_cache_size", "prepared_statement_name_func", "async_creator_fn")


class Row(asyncpg.Record):
    """Columns by position, by name, and as attributes, as SQLAlchemy's rows have them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Direct:
    """Up to `size` connections to `url`, made when they are needed; `options` are further ones of `asyncpg.connect`.
    What goes wrong is raised as asyncpg, the system or asyncio say it."""

    def __init__(self, url: sa.URL, options: Mapping[str, Any], size: int) -> None:
        given: dict[str, Any] = POSTGRESQL.create_connect_args(url)[1]
        self._options = {k: v for k, v in given.items() if k not in _NOT_FOR_ASYNCPG} | dict(options)
        self._idle: deque[tuple[asyncpg.Connection[Row], float]] = deque()
        self._room = asyncio.Semaphore(size)
        self._generation = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def fetch(self, hot: Hot, values: Mapping[str, Any]) -> Sequence[Row]:
        """The rows that the statement returns."""
        text, arguments = hot.postgresql(values)
        async with self._room:
            generation = self._generation
            connection, since = await self._connection()
            try:
                rows = await connection.fetch(text, *arguments)
            except BaseException as error:
                if _understood(error) and not connection.is_closed():
                    self._idle.append((connection, since))
                else:  # nobody knows what this connection is in the middle of
                    self.drop()
                    # Awaited: a statement that is given up is cancelled before the caller hears of it, or it might
                    # get its lock and stand after all.
                    await _closed(connection)
                raise
            if generation == self._generation:
                self._idle.append((connection, since))
            else:
                self._shut(connection)
            return rows

    async def _connection(self) -> tuple[asyncpg.Connection[Row], float]:
        while self._idle:
            # The one that was used last: those beyond what is needed grow old.
            connection, since = self._idle.pop()
            if not connection.is_closed() and time.monotonic() - since < RECYCLE_SECONDS:
                return connection, since
            self._shut(connection)
        connection = await asyncpg.connect(**self._options, record_class=Row)
        try:
            # Its own subclass of UUID is one that JSON encoders do not know.
            await connection.set_type_codec(
                "uuid", schema="pg_catalog", encoder=_bytes_of, decoder=_uuid_of, format="binary"
            )
        except BaseException:
            connection.terminate()
            raise
        return connection, time.monotonic()

    def drop(self) -> None:
        """One dead connection usually means that all are: the next call makes a new one."""
        self._generation += 1
        while self._idle:
            self._shut(self._idle.pop()[0])

    def _shut(self, connection: asyncpg.Connection[Row]) -> None:
        """In the background."""
        task = asyncio.create_task(_closed(connection), name="closing a connection")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Safe to repeat."""
        self.drop()
        if self._closing:
            await asyncio.wait(list(self._closing))


def _bytes_of(value: UUID) -> bytes:
    return value.bytes


def _uuid_of(data: bytes) -> UUID:
    return UUID(bytes=bytes(data))


async def _closed(connection: asyncpg.Connection[Row]) -> None:
    """In order: asyncpg has the server cancel what is still under way."""
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ):
        connection.terminate()


def _understood(error: BaseException) -> bool:
    """Whether the server refused a statement and goes on listening."""
    gone = asyncpg.PostgresConnectionError | asyncpg.exceptions.OperatorInterventionError
    return isinstance(error, asyncpg.PostgresError) and not isinstance(error, gone)
