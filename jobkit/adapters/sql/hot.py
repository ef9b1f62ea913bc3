"""Statements of the hot path: written in SQLAlchemy Core as all others, turned into text once."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

POSTGRESQL: Any = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
SQLITE: Any = SQLiteDialect_aiosqlite()

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement as one database reads it, and its parameters in order: name, own value, how the driver wants it."""

    text: str
    parameters: Sequence[tuple[str, Any, Convert | None]]

    def bound(self, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        return self.text, [
            values.get(name, own) if convert is None else convert(values.get(name, own))
            for name, own, convert in self.parameters
        ]


class Hot:
    """A statement of the hot path; every parameter without a value of its own is given with each call."""

    def __init__(self, statement: sa.Executable) -> None:
        self.statement = statement
        self._postgresql: _Text | None = None
        self._sqlite: _Text | None = None
        self._row: Callable[[Sequence[Any]], Any] | None = None

    def postgresql(self, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The text for asyncpg, which converts values by itself, and its arguments in order."""
        text = self._postgresql = self._postgresql or self._text(POSTGRESQL, lambda _: None)
        return text.bound(values)

    def sqlite(self, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The text for SQLite, and its arguments in order."""
        text = self._sqlite = self._sqlite or self._text(
            SQLITE, lambda kind: _impl(kind).bind_processor(SQLITE)
        )
        return text.bound(values)

    def sqlite_row(self, row: Sequence[Any]) -> Any:
        """A row as SQLite gave it, with the types of its columns and their names."""
        read = self._row = self._row or self._reader()
        return read(row)

    def _text(self, dialect: Any, convert: Callable[[Any], Convert | None]) -> _Text:
        assert isinstance(self.statement, sa.ClauseElement)
        compiled: Any = self.statement.compile(dialect=dialect)
        own, binds = compiled.params, compiled.binds
        parameters = [(name, own.get(name), convert(binds[name].type)) for name in compiled.positiontup]
        return _Text(compiled.string, parameters)

    def _reader(self) -> Callable[[Sequence[Any]], Any]:
        assert isinstance(self.statement, sa.Select | sa.UpdateBase)
        columns = list(self.statement.exported_columns)
        converts = [_impl(column.type).result_processor(SQLITE, None) for column in columns]
        named = namedtuple("Row", [str(column.key) for column in columns], rename=True)  # type: ignore[misc]

        def read(row: Sequence[Any]) -> Any:
            return named._make(
                value if convert is None else convert(value)
                for value, convert in zip(row, converts, strict=True)
            )

        return read


class Run(Protocol):
    """Runs statements within a transaction."""

    def rows(self, hot: Hot, values: Mapping[str, Any]) -> Sequence[Any]:
        """What the statement returns."""

    def many(self, hot: Hot, each: Sequence[Mapping[str, Any]]) -> None:
        """The statement with each of the values; at least one."""

    def changed(self, hot: Hot, each: Sequence[Mapping[str, Any]]) -> list[int]:
        """The same: how many rows it changed each time."""


class CoreRun:
    """By SQLAlchemy."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def rows(self, hot: Hot, values: Mapping[str, Any]) -> Sequence[Any]:
        return self._connection.execute(hot.statement, values).all()

    def many(self, hot: Hot, each: Sequence[Mapping[str, Any]]) -> None:
        self._connection.execute(hot.statement, each)

    def changed(self, hot: Hot, each: Sequence[Mapping[str, Any]]) -> list[int]:
        return [self._connection.execute(hot.statement, values).rowcount for values in each]


def _impl(kind: sa.types.TypeEngine[Any]) -> Any:
    """A type as SQLite has it."""
    return kind.dialect_impl(SQLITE)
