"""One way to the database: transactions with a timeout, retried where that is safe, errors translated.

PostgreSQL through asyncpg; SQLite through aiosqlite with one writer connection, BEGIN IMMEDIATE, WAL and
synchronous=FULL (one fsync a commit is what makes an accepted job survive a power cut).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

from jobkit.domain.errors import Unavailable, store_unavailable

R = TypeVar("R")

# SQLSTATEs that a transaction may simply be run again for: deadlock, serialization failure.
RETRYABLE = frozenset({"40P01", "40001"})
MAX_TRIES = 5


class db_now(FunctionElement[int]):
    """Milliseconds since the epoch by the database's clock."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(db_now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


class any_uuid(FunctionElement[bool]):
    """`column = ANY(ids)`: one statement text, whatever the number of ids."""

    type = sa.Boolean()
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], ids: Sequence[UUID]) -> None:
        listed = sa.literal(_Ids(tuple(ids)), type_=_UuidList())
        super().__init__(column, listed)


class _Ids(tuple[UUID, ...]):
    __slots__ = ()

    def __new__(cls, ids: tuple[UUID, ...]) -> _Ids:
        return super().__new__(cls, ids)


class _UuidList(sa.types.TypeDecorator[Any]):
    """A list of ids as one bound value: uuid[] on PostgreSQL, a JSON array of hex on SQLite."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(sa.Uuid()) if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if dialect.name == "postgresql":
            return list(value)
        return "[" + ",".join(f'"{i.hex}"' for i in value) + "]"


@compiles(any_uuid, "postgresql")
def _any_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    column, ids = element.clauses
    return f"{compiler.process(column, **kw)} = ANY({compiler.process(ids, **kw)})"


@compiles(any_uuid, "sqlite")
def _any_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column, ids = element.clauses
    listed = compiler.process(ids, **kw)
    return f"{compiler.process(column, **kw)} IN (SELECT value FROM json_each({listed}))"  # noqa: S608 - bound


def driver_url(url: str) -> sa.URL:
    """`postgresql://…` or `sqlite:///path`, with the driver that we use. Raises ValueError for anything else."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ValueError("must look like postgresql://user@host/database or sqlite:///path") from error
    drivers = {
        "postgresql": "postgresql+asyncpg",
        "postgres": "postgresql+asyncpg",
        "sqlite": "sqlite+aiosqlite",
    }
    family = parsed.drivername.split("+")[0]
    if family not in drivers:
        raise ValueError(f"must be postgresql:// or sqlite:///, not {family}://")
    return parsed.set(drivername=drivers[family])


class Database:
    """Engines and transactions. `timeout` (seconds) bounds a connect, a wait for a connection, a statement."""

    def __init__(self, url: str, *, pool_size: int = 8, timeout: float = 10.0) -> None:
        self.url = driver_url(url)
        self.timeout = timeout
        self.is_sqlite = self.url.drivername.startswith("sqlite")
        if self.is_sqlite:
            self._writer = self._sqlite_engine(1)
            self._reader = self._sqlite_engine(4)
        else:
            self._writer = self._reader = create_async_engine(
                self.url,
                pool_size=pool_size,
                max_overflow=0,
                pool_timeout=timeout,
                pool_recycle=1800,
                connect_args={
                    "timeout": timeout,
                    "command_timeout": timeout,
                    "server_settings": {"application_name": "selfheal", "jit": "off"},
                },
            )
        self._watch_connections(self._writer)

    def _sqlite_engine(self, size: int) -> AsyncEngine:
        engine = create_async_engine(
            self.url,
            poolclass=sa.pool.AsyncAdaptedQueuePool,
            pool_size=size,
            max_overflow=0,
            pool_timeout=self.timeout,
            connect_args={"timeout": self.timeout, "isolation_level": None},
        )
        begin = "BEGIN IMMEDIATE" if size == 1 else "BEGIN"

        @sa.event.listens_for(engine.sync_engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @sa.event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _watch_connections(self, engine: AsyncEngine) -> None:
        """One dead connection usually means that all are: drop the pool, so that the next call reconnects."""

        @sa.event.listens_for(engine.sync_engine, "handle_error")
        def _invalidate(context: sa.engine.ExceptionContext) -> None:
            cause = context.original_exception
            if isinstance(cause, (ConnectionError, OSError, TimeoutError, asyncio.TimeoutError)):
                context.is_disconnect = True

    @asynccontextmanager
    async def _session(self, *, write: bool) -> AsyncIterator[AsyncConnection]:
        engine = self._writer if write else self._reader
        async with engine.begin() as connection:
            yield connection

    async def write(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Run `work` in one transaction; run it again after a deadlock or a serialization failure.

        Raises Unavailable when the database is away or does not answer in time; the outcome is then unknown.
        """
        return await self._run(work, write=True)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Run `work`, which only reads. Raises Unavailable."""
        return await self._run(work, write=False)

    async def _run(self, work: Callable[[AsyncConnection], Awaitable[R]], *, write: bool) -> R:
        for attempt in range(1, MAX_TRIES + 1):
            try:
                # Bounds what the driver's own timeouts miss: a commit or a rollback on a frozen server.
                async with asyncio.timeout(self.timeout * 2), self._session(write=write) as connection:
                    return await work(connection)
            except sa.exc.DBAPIError as error:
                if _sqlstate(error) in RETRYABLE and attempt < MAX_TRIES:
                    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter
                    continue
                if isinstance(error, (sa.exc.DataError, sa.exc.IntegrityError)):
                    raise
                raise _away(error) from error
            except (OSError, TimeoutError, sa.exc.TimeoutError, sa.exc.InvalidRequestError) as error:
                raise _away(error) from error
            except Exception as error:
                if type(error).__module__.startswith("asyncpg"):
                    raise _away(error) from error
                raise
        raise AssertionError("unreachable")

    async def now(self) -> int:
        """The database's clock in milliseconds; also the cheapest proof that it answers."""

        async def ask(connection: AsyncConnection) -> int:
            return int((await connection.execute(sa.select(db_now()))).scalar_one())

        return await self.read(ask)

    async def close(self) -> None:
        """Safe to repeat."""
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()


def _sqlstate(error: sa.exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", "") or getattr(error.orig, "pgcode", "") or "")


def _away(error: Exception) -> Unavailable:
    away = store_unavailable("database")
    away.metadata["cause"] = type(error).__name__
    return away


def upsert(connection: AsyncConnection) -> Any:
    """`insert` with ON CONFLICT, of the connection's dialect; both spell it alike."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def is_bad_data(error: Exception) -> bool:
    """Whether a statement failed for what it carried rather than for the world around it."""
    return isinstance(error, (sa.exc.DataError, sa.exc.IntegrityError))
