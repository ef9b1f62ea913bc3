"""One way to the database: transactions with a timeout, retried where that is safe, errors translated.

PostgreSQL through asyncpg; SQLite through aiosqlite with one writer connection, BEGIN IMMEDIATE, WAL and
synchronous=FULL (one fsync a commit is what makes an accepted job survive a power cut). The hot path has ways of its
own to both: `direct` and `direct_sqlite`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import aiosqlite
import asyncpg
import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from jobkit.adapters.sql.direct import Direct
from jobkit.adapters.sql.direct_sqlite import PRAGMAS, DirectSqlite, Elsewhere
from jobkit.adapters.sql.hot import CoreRun, Hot, Run
from jobkit.adapters.sql.terms import db_now
from jobkit.domain.errors import Unavailable, store_unavailable

R = TypeVar("R")
T = TypeVar("T")

# SQLSTATEs that a transaction may simply be run again for: deadlock, serialization failure.
RETRYABLE = frozenset({"40P01", "40001"})
MAX_TRIES = 5
# Classes of SQLSTATE that blame the data: data exception, integrity constraint violation.
BAD_DATA = frozenset({"22", "23"})
# SQLSTATEs by which a database that answers questions refuses writes: classes "insufficient resources" (a full disk)
# and "system error", and a transaction that is read-only (a standby).
REFUSING_CLASSES, READ_ONLY = frozenset({"53", "58"}), "25006"
REFUSED_SECONDS = 5.0
# uvloop's RuntimeError for a write to a transport that was closed a moment ago.
CLOSED_TRANSPORT = "the handler is closed"
# How PostgreSQL is to plan for us. A statement that is prepared while a table is all but empty would be planned to
# read all of it, and keep that plan until somebody analyzes the table: each job of a new installation would cost more
# than the one before. Ours have an index for what they look for.
PLANNING = {"jit": "off", "enable_seqscan": "off"}
# What a connection that broke in the middle of a transaction is met with afterwards.
_BROKEN = (
    sa.exc.PendingRollbackError,
    sa.exc.ResourceClosedError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

_NOW = Hot(sa.select(db_now()))


class BadData(Exception):
    """A statement failed for what it carried, not for the world around it. It stays within this package."""


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
    if family == "sqlite" and parsed.database in (None, "", ":memory:"):
        # Writer and readers are separate connections: they share a file, never a private memory.
        raise ValueError("must name a file: sqlite:///path")
    return parsed.set(drivername=drivers[family])


class Database:
    """Engines and transactions. `timeout` (seconds) bounds a connect, a wait for a connection, a statement. Of up to
    `connections` to PostgreSQL a third serves `rows`."""

    def __init__(self, url: str, *, connections: int = 12, timeout: float = 10.0) -> None:
        self.url = driver_url(url)
        self.timeout = timeout
        self.is_sqlite = self.url.drivername.startswith("sqlite")
        self._refused_at: float | None = None
        self._direct: Direct | None = None
        self._near: DirectSqlite | None = None
        if self.is_sqlite:
            self._near = DirectSqlite(str(self.url.database))
            # There is one writer, and those who wait for the lock of its file are not served in turn.
            self._turn = asyncio.Lock()
            self._writer = self._sqlite_engine(1)
            self._reader = self._sqlite_engine(4)
        else:
            options: dict[str, Any] = {
                "timeout": timeout,
                "command_timeout": timeout,
                "server_settings": {"application_name": "selfheal", **PLANNING},
            }
            self._writer = create_async_engine(
                self.url,
                pool_size=connections - connections // 3,
                max_overflow=0,
                pool_timeout=timeout,
                pool_recycle=1800,
                connect_args=options,
            )
            self._direct = Direct(self.url, options, connections // 3)
        self._watch_connections(self._writer)
        if not self.is_sqlite:
            # One snapshot for all statements of a read, as SQLite gives it too: holds, their revision and the
            # jobs that they apply to belong together.
            self._reader = self._writer.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )

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
        def _connected(connection: Any, _record: Any) -> None:
            connection.run_async(_prepare_sqlite)

        @sa.event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _watch_connections(self, engine: AsyncEngine) -> None:
        """One dead connection usually means that all are: drop the pools, so that the next call reconnects."""

        @sa.event.listens_for(engine.sync_engine, "handle_error")
        def _invalidate(context: sa.engine.ExceptionContext) -> None:
            cause = context.original_exception
            if isinstance(cause, (ConnectionError, OSError, TimeoutError, asyncio.TimeoutError)):
                context.is_disconnect = True
            if context.is_disconnect and self._direct is not None:
                self._direct.drop()

    async def write(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Run `work` in one transaction; run it again after a deadlock or a serialization failure.

        Raises Unavailable when the database is away or does not answer in time; the outcome is then unknown.
        Raises BadData when the database refuses what a statement carries.
        """
        return await self._tried(lambda: self._transaction(work), write=True)

    async def _transaction(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        if not self.is_sqlite:
            return await _in_transaction(self._writer, work)
        async with self._turn:
            return await _in_transaction(self._writer, work)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Run `work`, which only reads. Raises Unavailable."""
        return await self._tried(lambda: _in_transaction(self._reader, work), write=False)

    async def rows(self, hot: Hot, values: Mapping[str, Any], *, write: bool) -> Sequence[Any]:
        """What one statement of the hot path returns, which is a transaction of its own. Raises as `write` and `read`
        do."""
        direct = self._direct
        if direct is not None:
            return await self._tried(lambda: direct.fetch(hot, values), write=write)

        if write:
            return await self.steps(lambda run: run.rows(hot, values))
        return await self._tried(lambda: self._near_read(hot, values), write=False)

    async def steps(self, work: Callable[[Run], R]) -> R:
        """`work` in one transaction on SQLite: at once, or, where that would keep everybody waiting, as `write` does
        it. Raises as `write` does."""
        near = self._near
        assert near is not None

        async def done() -> R:
            async with self._turn:
                with suppress(Elsewhere):
                    return near.write(work)
                return await _in_transaction(self._writer, lambda c: by_core(c, work))

        return await self._tried(done, write=True)

    async def _near_read(self, hot: Hot, values: Mapping[str, Any]) -> Sequence[Any]:
        assert self._near is not None
        with suppress(Elsewhere):
            return self._near.read(hot, values)
        return await _in_transaction(self._reader, lambda c: by_core(c, lambda run: run.rows(hot, values)))

    async def _tried(self, work: Callable[[], Awaitable[R]], *, write: bool) -> R:
        for attempt in range(1, MAX_TRIES + 1):
            try:
                # Bounds what the driver's own timeouts miss: a commit or a rollback on a frozen server.
                async with asyncio.timeout(self.timeout * 2):
                    return await work()
            except (sa.exc.DBAPIError, asyncpg.PostgresError) as error:
                state = _sqlstate(error)
                if state in RETRYABLE and attempt < MAX_TRIES:
                    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter
                    continue
                if state[:2] in BAD_DATA or _blames_data(error):
                    raise BadData(type(getattr(error, "orig", error)).__name__) from error
                if write and (state[:2] in REFUSING_CLASSES or state == READ_ONLY):
                    self._refused_at = time.monotonic()
                raise _away(error) from error
            except (OverflowError, UnicodeError) as error:
                raise BadData(str(error)) from error
            except (OSError, TimeoutError, sa.exc.TimeoutError, *_BROKEN) as error:
                raise _away(error) from error
            except RuntimeError as error:
                if CLOSED_TRANSPORT not in str(error):
                    raise
                raise _away(error) from error
        raise AssertionError("unreachable")

    @property
    def refuses_writes(self) -> bool:
        """Whether it refused one a moment ago, for want of room or because it is a standby. A later write that came
        through proves little: there may be room left in one page."""
        at = self._refused_at
        return at is not None and time.monotonic() - at < REFUSED_SECONDS

    async def now(self) -> int:
        """The database's clock in milliseconds; also the cheapest proof that it answers."""

        ((now,),) = await self.rows(_NOW, {}, write=False)
        return int(now)

    async def close(self) -> None:
        """Safe to repeat."""
        if self._direct is not None:
            await self._direct.close()
        await self._writer.dispose()
        if self._near is not None:
            self._near.close()
            await self._reader.dispose()


async def _prepare_sqlite(connection: aiosqlite.Connection) -> None:
    for attempt in range(1, MAX_TRIES + 1):
        try:
            for pragma in PRAGMAS:
                await connection.execute(pragma)
            break
        except aiosqlite.OperationalError:
            # Another process is just doing the same to a new file; SQLite's own timeout does not cover this.
            if attempt == MAX_TRIES:
                raise
            await asyncio.sleep(0.02 * 2**attempt)


async def _in_transaction(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
    async with engine.begin() as connection:
        return await work(connection)


async def by_core(connection: AsyncConnection, work: Callable[[Run], R]) -> R:
    """`work` on a connection of SQLAlchemy's."""
    return await connection.run_sync(lambda sync: work(CoreRun(sync)))


def _sqlstate(error: Exception) -> str:
    cause = getattr(error, "orig", error)
    return str(getattr(cause, "sqlstate", "") or getattr(cause, "pgcode", "") or "")


def _blames_data(error: Exception) -> bool:
    """Also what the driver refused before the server saw it."""
    if isinstance(error, sa.exc.DBAPIError):
        refused = isinstance(error.orig and error.orig.__cause__, asyncpg.DataError)
        return refused or isinstance(error, (sa.exc.DataError, sa.exc.IntegrityError))
    return isinstance(error, asyncpg.DataError)


def _away(error: Exception) -> Unavailable:
    away = store_unavailable("database")
    away.metadata["cause"] = type(error).__name__
    return away


def upsert(connection: AsyncConnection) -> Any:
    """`insert` with ON CONFLICT, of the connection's dialect; both spell it alike."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def packed(value: object) -> bytes:
    """JSON. Raises BadData where it cannot be: half a surrogate pair, an integer beyond 64 bits."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise BadData(str(error)) from error


async def in_halves(
    batch: Sequence[T],
    run: Callable[[Sequence[T]], Awaitable[list[R]]],
    alone: Callable[[T], Awaitable[R]],
) -> list[R]:
    """`run(batch)`; where that fails for its data the batch is halved until the bad item stands `alone`, so that
    it takes nobody down with it."""
    try:
        return await run(batch)
    except BadData:
        if len(batch) == 1:
            return [await alone(batch[0])]
        middle = len(batch) // 2
        return await in_halves(batch[:middle], run, alone) + await in_halves(batch[middle:], run, alone)
