"""SQL that the two databases spell differently: the clock, and lists of values as one bound parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement


class db_now(FunctionElement[int]):
    """Milliseconds since the epoch by the database's clock, at the moment when a row is written: also after
    a wait for its lock."""

    type = sa.BigInteger()
    inherit_cache = True


class db_start(FunctionElement[int]):
    """As `db_now`, but fixed at the start of the statement: the one to compare an indexed column with, since
    no index serves a comparison with a value that changes from row to row."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(db_start, "postgresql")
def _start_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)"


@compiles(db_now, "sqlite")
@compiles(db_start, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


class earlier_of(FunctionElement[int]):
    """The smaller of two numbers, as a function of a row: `LEAST` and SQLite's `MIN` of two."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(earlier_of, "postgresql")
def _least_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"LEAST({compiler.process(element.clauses, **kw)})"


@compiles(earlier_of, "sqlite")
def _least_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"MIN({compiler.process(element.clauses, **kw)})"


class unindexed(FunctionElement[str]):
    """A text column, but not for an index: said of rows that are found by their key. While the statistics know of
    few rows in a state, PostgreSQL would rather read all of them from that state's partial index, and a backlog makes
    them many."""

    type = sa.String()
    inherit_cache = True


@compiles(unindexed, "postgresql")
def _unindexed_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} || '')"


@compiles(unindexed, "sqlite")
def _unindexed_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"+{compiler.process(element.clauses, **kw)}"


class ValueList(sa.types.TypeDecorator[Any]):
    """A list as one bound value: an array on PostgreSQL, JSON on SQLite."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, item: type[sa.types.TypeEngine[Any]]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(self.item()) if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if dialect.name == "postgresql":
            return list(value)
        return orjson.dumps([v.hex if isinstance(v, UUID) else v for v in value]).decode()


UUIDS, TEXTS = ValueList(sa.Uuid), ValueList(sa.String)
INTEGERS, BLOBS = ValueList(sa.Integer), ValueList(sa.LargeBinary)


class _any_value(FunctionElement[Any]):
    # Not Boolean: SQLite has none, SQLAlchemy would append `= 1`, and no index serves `(x IN …) = 1`.
    type = sa.types.NullType()
    inherit_cache = True


def any_uuid(column: ColumnElement[Any], ids: Sequence[UUID] | sa.BindParameter[Any]) -> ColumnElement[bool]:
    """`column = ANY(ids)`: one statement text, however many. A parameter is bound as `type_=UUIDS`."""
    return _any_value(column, ids if isinstance(ids, sa.BindParameter) else sa.literal(ids, type_=UUIDS))


def any_text(
    column: ColumnElement[Any], values: Sequence[str] | sa.BindParameter[Any]
) -> ColumnElement[bool]:
    """The same for strings, bound as `type_=TEXTS`."""
    return _any_value(
        column, values if isinstance(values, sa.BindParameter) else sa.literal(values, type_=TEXTS)
    )


@compiles(_any_value, "postgresql")
def _any_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    column, values = element.clauses
    return f"{compiler.process(column, **kw)} = ANY({compiler.process(values, **kw)})"


@compiles(_any_value, "sqlite")
def _any_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column, values = element.clauses
    listed = compiler.process(values, **kw)
    return f"{compiler.process(column, **kw)} IN (SELECT value FROM json_each({listed}))"  # noqa: S608 - bound


class _any_picked(FunctionElement[Any]):
    type = sa.types.NullType()  # as above
    inherit_cache = True


def any_picked(column: ColumnElement[Any], picked: sa.Select[Any]) -> ColumnElement[bool]:
    """`column` is one of a subquery's rows, which is run once, before anything else. (With IN, PostgreSQL may run
    a locking subquery twice, or read the whole outer table to join it.)"""
    return _any_picked(column, picked.scalar_subquery())


@compiles(_any_picked, "postgresql")
def _picked_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    column, picked = element.clauses
    return f"{compiler.process(column, **kw)} = ANY(ARRAY{compiler.process(picked, **kw)})"


@compiles(_any_picked, "sqlite")
def _picked_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    column, picked = element.clauses
    return f"{compiler.process(column, **kw)} IN {compiler.process(picked, **kw)}"


def each_row(name: str, **columns: type[sa.types.TypeEngine[Any]]) -> sa.TableValuedAlias:
    """A row for each position of as many lists as there are columns, bound as `b_<column>`. PostgreSQL only: there
    one statement with lists costs a fraction of one statement for each row."""
    lists = [sa.bindparam(f"b_{column}", type_=ValueList(kind)) for column, kind in columns.items()]
    named = [sa.column(column, kind) for column, kind in columns.items()]
    return sa.func.unnest(*lists).table_valued(*named).render_derived(name=name)


class nth_like(FunctionElement[Any]):
    """`nth_like(values, keys, key)`: of a list, the one that stands where `key` stands in the list `keys`. PostgreSQL
    only."""

    type = sa.types.NullType()
    inherit_cache = True


@compiles(nth_like, "postgresql")
def _nth_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    values, keys, key = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({values})[array_position({keys}, {key})]"


def each_text(connection: AsyncConnection, values: Sequence[str]) -> sa.TableValuedAlias:
    """A row for each of `values`, in the column `value`: one statement text, however many."""
    listed = sa.literal(list(values), type_=TEXTS)
    if connection.dialect.name == "postgresql":
        return (
            sa.func.unnest(listed)
            .table_valued(sa.column("value", sa.String), name="each_name")
            .render_derived()
        )
    return sa.func.json_each(listed).table_valued(sa.column("value", sa.String), name="each_name")
