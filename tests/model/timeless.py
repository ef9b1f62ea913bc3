"""Time that passes by itself: hours in seconds, one clock for the loop, the database and ids.

The real SQL adapter runs on SQLite, whose driver works in threads: while a statement is under way time stands still,
and as soon as everybody only waits for a timer it leaps there.
"""

from __future__ import annotations

import asyncio
import selectors
import sqlite3
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa

from jobkit.adapters.sql.direct_sqlite import DirectSqlite
from jobkit.adapters.sql.engine import Database
from jobkit.runtime.clock import DatabaseClock
from tests.templates import migrated

R = TypeVar("R")
EPOCH_MS = 1_800_000_000_000
DAY_MS = 86_400_000
JULIAN_EPOCH = 2440587.5
THREAD_SECONDS = 10.0  # no statement takes so long
TICK = 1e-6


def without_fsync(database: Database) -> None:
    """Models crash processes, not computers: nothing is lost without the fsyncs but time."""
    sa.event.listen(database._writer.sync_engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF"))


class _Leaping(selectors.DefaultSelector):
    """Waits for nothing but threads."""

    seconds = 0.0
    statements = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self.statements or timeout is None:
            return super().select(THREAD_SECONDS)
        # A timer that looks at the clock must not find that a rounding error is left to wait for.
        self.seconds += timeout + TICK
        return super().select(0)


class TimelessLoop(asyncio.SelectorEventLoop):
    """An event loop in which a sleep takes no time."""

    def __init__(self) -> None:
        self.leaping = _Leaping()
        super().__init__(self.leaping)

    def time(self) -> float:
        return self.leaping.seconds

    @property
    def millis(self) -> int:
        """Since the epoch."""
        return EPOCH_MS + round(self.leaping.seconds * 1000)


class TimelessClock(DatabaseClock):
    """The database's clock, of which nobody's idea is wrong."""

    def __init__(self, loop: TimelessLoop) -> None:
        self._loop = loop

    def adjust(self, database_ms: int, asked_at: float) -> None:
        assert database_ms <= self.now()

    def now(self) -> int:
        return self._loop.millis


class Ids:
    """UUIDv7 in order, by the loop's clock."""

    def __init__(self, loop: TimelessLoop) -> None:
        self._loop = loop
        self._numbers = count(1)

    def __call__(self) -> UUID:
        return UUID(int=self._loop.millis << 80 | 7 << 76 | 2 << 62 | next(self._numbers))


class _Near(DirectSqlite):
    """The hot path's own connection."""

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], None]) -> None:
        super().__init__(str(path))
        self._prepare = prepare

    def _connected(self) -> sqlite3.Connection:
        known, connection = self._connection, super()._connected()
        if known is None:
            self._prepare(connection)
        return connection


class TimelessDatabase(Database):
    """SQLite that goes by the loop's clock, one statement at a time, so that every run of an example is the same."""

    def __init__(self, path: Path, loop: TimelessLoop) -> None:
        path.write_bytes(migrated())
        super().__init__(f"sqlite:///{path}")
        self._loop = loop
        self._one_by_one = asyncio.Lock()
        without_fsync(self)
        for engine in (self._writer, self._reader):
            sa.event.listen(engine.sync_engine, "connect", self._replace_clock)
        self._near = _Near(path, self._prepare_near)

    def _replace_clock(self, connection: Any, _record: Any) -> None:
        connection.run_async(lambda raw: raw.create_function("julianday", 1, self._julianday))

    def _prepare_near(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous=OFF")
        connection.create_function("julianday", 1, self._julianday)

    def _julianday(self, _when: str) -> float:
        return self._loop.millis / DAY_MS + JULIAN_EPOCH

    async def _tried(self, work: Callable[[], Awaitable[R]], *, write: bool) -> R:
        async with self._one_by_one:
            self._loop.leaping.statements += 1
            try:
                return await super()._tried(work, write=write)
            finally:
                self._loop.leaping.statements -= 1
