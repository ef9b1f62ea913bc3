"""Numbers that processes share, each a row of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import upsert
from jobkit.adapters.sql.tables import counters

PURGED = "ledger_purged"  # the newest revision that has left the ledger
TALLIED = "ledger_tallied"  # the revision up to which transitions are counted for the metrics


async def take(connection: AsyncConnection, name: str, number: int) -> int:
    """Raise by `number` and return the new value. In commit order: the row is locked until the transaction ends."""
    return await _change(connection, name, number, counters.c.value + number)


async def raise_to(connection: AsyncConnection, name: str, value: int) -> int:
    """Raise to `value` unless it is higher already."""
    return await _change(
        connection, name, value, sa.case((counters.c.value < value, value), else_=counters.c.value)
    )


async def read_all(connection: AsyncConnection, names: Sequence[str]) -> list[int]:
    """As they are, 0 for those that are not there."""
    statement = sa.select(counters.c.name, counters.c.value).where(counters.c.name.in_(names))
    found = {row.name: int(row.value) for row in await connection.execute(statement)}
    return [found.get(name, 0) for name in names]


async def _change(connection: AsyncConnection, name: str, first: int, after: Any) -> int:
    insert: Any = upsert(connection)(counters).values(name=name, value=first)
    statement = insert.on_conflict_do_update(
        index_elements=[counters.c.name], set_={"value": after}
    ).returning(counters.c.value)
    return int((await connection.execute(statement)).scalar_one())
