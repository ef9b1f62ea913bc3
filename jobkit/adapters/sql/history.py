"""The ledger as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.counting import PURGED, read_all
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.entries import entry_of, incident_of
from jobkit.adapters.sql.holds import revision_now
from jobkit.adapters.sql.ledger import records_now
from jobkit.adapters.sql.tables import breaker_transitions, incidents
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import OutOfRange
from jobkit.domain.ledger import Entry, Incident, Stretch
from jobkit.ports.revisions import LEDGER

_moves = breaker_transitions.c


class SqlHistory:
    """The `History` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self) -> int:
        return await self._database.read(revision_now)

    async def snapshot(self, names: Sequence[str]) -> tuple[int, dict[str, BreakerRecord]]:
        async def work(connection: AsyncConnection) -> tuple[int, dict[str, BreakerRecord]]:
            return await revision_now(connection), await records_now(connection, names)

        return await self._database.read(work)

    async def after(self, revision: int, breaker: str | None, limit: int) -> Stretch:
        wanted = sa.select(breaker_transitions).where(_moves.revision > revision)
        if breaker is not None:
            wanted = wanted.where(_moves.breaker == breaker)

        async def work(connection: AsyncConnection) -> Stretch:
            head, purged = await read_all(connection, [LEDGER, PURGED])
            _check(revision, head, purged)
            rows = await connection.execute(wanted.order_by(_moves.revision).limit(limit))
            entries = tuple(entry_of(row) for row in rows)
            return Stretch(entries, entries[-1].revision if len(entries) == limit else head)

        return await self._database.read(work)

    async def page(self, breaker: str | None, size: int, before: int | None) -> list[Entry]:
        wanted = _newest_first(breaker_transitions, _moves.revision, breaker, size, before)
        return [entry_of(row) for row in await self._rows(wanted)]

    async def incidents(
        self, breaker: str | None, *, open_only: bool, size: int, before: int | None
    ) -> list[Incident]:
        wanted = _newest_first(incidents, incidents.c.incident_id, breaker, size, before)
        if open_only:
            # They are few and have an index: in the order of another one all the rest would be read.
            few = (incidents.c.incident_id + 0).desc()
            wanted = wanted.where(incidents.c.closed_at.is_(None)).order_by(None).order_by(few)
        return [incident_of(row) for row in await self._rows(wanted)]

    async def incident(self, incident_id: int, limit: int) -> tuple[Incident, list[Entry]] | None:
        async def work(connection: AsyncConnection) -> tuple[Incident, list[Entry]] | None:
            one = sa.select(incidents).where(incidents.c.incident_id == incident_id)
            row = (await connection.execute(one)).one_or_none()
            if row is None:
                return None
            moves = sa.select(breaker_transitions).where(
                _moves.breaker == row.breaker, _moves.scope == "", _moves.revision >= incident_id
            )
            if row.close_revision is not None:
                moves = moves.where(_moves.revision <= row.close_revision)
            found = await connection.execute(moves.order_by(_moves.revision).limit(limit))
            return incident_of(row), [entry_of(each) for each in found]

        return await self._database.read(work)

    async def _rows(self, statement: sa.Select[Any]) -> list[Any]:
        async def work(connection: AsyncConnection) -> list[Any]:
            return list(await connection.execute(statement))

        return await self._database.read(work)


def _newest_first(
    table: sa.Table, key: sa.Column[Any], breaker: str | None, size: int, before: int | None
) -> sa.Select[Any]:
    wanted = sa.select(table).order_by(key.desc()).limit(size)
    if breaker is not None:
        wanted = wanted.where(table.c.breaker == breaker)
    return wanted if before is None else wanted.where(key < before)


def _check(revision: int, head: int, purged: int) -> None:
    if revision < purged:
        raise OutOfRange(
            f"what follows revision {revision} has left the ledger",
            reason="REVISION_TOO_OLD",
            metadata={"oldest": str(purged)},
        )
    if revision > head:
        raise OutOfRange(
            f"the ledger has not come to revision {revision}",
            reason="REVISION_AHEAD",
            metadata={"newest": str(head)},
        )
