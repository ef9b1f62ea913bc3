"""Numbers given out in commit order, under the lock of their row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, upsert
from jobkit.adapters.sql.tables import counters


async def bump(connection: AsyncConnection, name: str) -> None:
    """In the transaction that changes what `name` counts; others that do so wait until it ends."""
    insert: Any = upsert(connection)(counters).values(name=name, value=1)
    await connection.execute(
        insert.on_conflict_do_update(index_elements=[counters.c.name], set_={"value": counters.c.value + 1})
    )


class SqlRevisions:
    """The `Revisions` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Mapping[str, int]:
        async def work(connection: AsyncConnection) -> dict[str, int]:
            return {row.name: row.value for row in await connection.execute(sa.select(counters))}

        return await self._database.read(work)
