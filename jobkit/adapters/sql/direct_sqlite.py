"""The hot path's way to SQLite: in the event loop's own thread.

A transaction by way of SQLAlchemy and aiosqlite is six errands to a thread and back. Each waits until the interpreter
is free for that thread, for milliseconds while the loop is busy, and again for each row. The statement itself takes a
fraction of one, and a commit as long as the disk takes. So they are run here, unless another process holds the file's
lock or the disk is slow: a loop that waits serves nobody.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from jobkit.adapters.sql.hot import Hot, Run

R = TypeVar("R")

# A commit that takes longer (seconds) waits for the disk: the next transactions go the other way for a while.
SLOW_SECONDS, AWAY_SECONDS = 0.05, 5.0
PRAGMAS = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON")


class _NearRun:
    """See `hot.Run`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, hot: Hot, values: Mapping[str, Any]) -> Sequence[Any]:
        text, arguments = hot.sqlite(values)
        return [hot.sqlite_row(row) for row in self._connection.execute(text, arguments).fetchall()]

    def many(self, hot: Hot, each: Sequence[Mapping[str, Any]]) -> None:
        bound = [hot.sqlite(values) for values in each]
        self._connection.executemany(bound[0][0], [arguments for _, arguments in bound])

    def changed(self, hot: Hot, each: Sequence[Mapping[str, Any]]) -> list[int]:
        return [self._connection.execute(*hot.sqlite(values)).rowcount for values in each]


class Elsewhere(Exception):
    """Not from here, not now: nothing was done."""


class DirectSqlite:
    """A connection of its own to the file at `path`, made when it is needed. It waits for no lock, so whoever writes
    by another connection of this process must not do so at the same time."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._away_until = 0.0

    def read(self, hot: Hot, values: Mapping[str, Any]) -> Sequence[Any]:
        """The rows of one statement. Raises Elsewhere."""
        try:
            return _NearRun(self._connected()).rows(hot, values)
        except sqlite3.Error as error:
            raise Elsewhere from error  # whatever it is, it says so there, too

    def write(self, work: Callable[[Run], R]) -> R:
        """`work` in one transaction. Raises Elsewhere, what SQLAlchemy would, and what `work` raises, with nothing
        done."""
        if self._clock() < self._away_until:
            raise Elsewhere
        with _translated():
            return self._transaction(self._connected(), work)

    def _transaction(self, connection: sqlite3.Connection, work: Callable[[Run], R]) -> R:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise Elsewhere from error  # as above
        try:
            answer = work(_NearRun(connection))
            began = self._clock()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        ended = self._clock()
        if ended - began > SLOW_SECONDS:
            self._away_until = ended + AWAY_SECONDS
        return answer

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = _open(self._path)
            except sqlite3.Error as error:
                raise Elsewhere from error
        return self._connection

    def close(self) -> None:
        """Safe to repeat."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _open(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise sa.exc.DBAPIError.instance(None, None, error, sqlite3.Error) from error
