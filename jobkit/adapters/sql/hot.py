"""Statements of the hot path: written in SQLAlchemy Core as all others, turned into text once."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

POSTGRESQL: Any = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
SQLITE: Any = SQLiteDialect_aiosqlite()

Convert = Callable[[Any], Any]


class Hot:
    """A statement of the hot path; every parameter without a value of its own is given with each call."""

    def __init__(self, statement: sa.Executable) -> None:
        self.statement = statement
        self._postgresql: tuple[str, tuple[tuple[str, Any], ...]] | None = None
        self._sqlite: tuple[str, tuple[tuple[str, Any, Convert | None], ...]] | None = None
        self._row: Callable[[Sequence[Any]], Any] | None = None

    def postgresql(self, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The text for asyncpg, and its arguments in order."""
        if self._postgresql is None:
            compiled = self._compile(POSTGRESQL)
            parameters = compiled.params
            self._postgresql = (
                compiled.string,
                tuple((name, parameters.get(name)) for name in compiled.positiontup),
            )
        text, given = self._postgresql
        return text, [values.get(name, own) for name, own in given]

    def sqlite(self, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The text for SQLite, and its arguments in order."""
        if self._sqlite is None:
            compiled = self._compile(SQLITE)
            parameters = compiled.params
            self._sqlite = (
                compiled.string,
                tuple(
                    (name, parameters.get(name), _impl(compiled.binds[name].type).bind_processor(SQLITE))
                    for name in compiled.positiontup
                ),
            )
        text, given = self._sqlite
        return text, [
            values.get(name, own) if convert is None else convert(values.get(name, own))
            for name, own, convert in given
        ]

    def sqlite_row(self, row: Sequence[Any]) -> Any:
        """A row as SQLite gave it, with the types of its columns and their names."""
        if self._row is None:
            self._row = self._reader()
        return self._row(row)

    def _compile(self, dialect: Any) -> Any:
        assert isinstance(self.statement, sa.ClauseElement)
        return self.statement.compile(dialect=dialect)

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


def _impl(kind: sa.types.TypeEngine[Any]) -> Any:
    """A type as SQLite has it."""
    return kind.dialect_impl(SQLITE)
