"""Reading jobs. Holds are read with the query, so that a held job reads as QUARANTINED everywhere alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.holds import holds_at, holds_now, revision_now
from jobkit.adapters.sql.hot import Hot
from jobkit.adapters.sql.rows import HOLD_COLUMNS, hold_of, job_of
from jobkit.adapters.sql.scans import page_scan
from jobkit.adapters.sql.tables import WAITING, job_types, jobs
from jobkit.adapters.sql.terms import UUIDS, any_uuid, db_now
from jobkit.domain.filter import JobFilter, PageToken
from jobkit.domain.job import Job

_GET = sa.select(jobs, db_now().label("now")).where(
    any_uuid(jobs.c.job_id, sa.bindparam("b_ids", type_=UUIDS))
)
# With each job's hold, if its type has a row: one statement sees one moment.
_GET_HELD = Hot(
    sa.select(jobs, db_now().label("now"), *(c for c in HOLD_COLUMNS if c is not job_types.c.job_type))
    .outerjoin(job_types, job_types.c.job_type == jobs.c.job_type)
    .where(any_uuid(jobs.c.job_id, sa.bindparam("b_ids", type_=UUIDS)))
)


class SqlReader:
    """The `JobReader` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, ids: Sequence[UUID]) -> dict[UUID, Job]:
        rows = await self._database.rows(_GET_HELD, {"b_ids": ids}, write=False)
        holds = {row.job_type: hold_of(row) for row in rows if row.hold_number is not None}
        return {row.job_id: job_of(row, holds, row.now) for row in rows}

    async def page(
        self, query: JobFilter, size: int, after: PageToken | None
    ) -> tuple[list[Job], PageToken | None]:
        if query.nothing:
            return [], None
        return await self._database.read(lambda c: _page(c, query, size, after))

    async def count_waiting_of(self, names: Sequence[str], limit: int) -> dict[str, int]:
        def bounded(name: str) -> sa.Select[Any]:
            some = sa.select(sa.literal(1)).where(jobs.c.job_type == name, WAITING).limit(limit).subquery()
            return sa.select(sa.func.count()).select_from(some)

        async def work(connection: AsyncConnection) -> dict[str, int]:
            return {name: int((await connection.execute(bounded(name))).scalar_one()) for name in names}

        return await self._database.read(work)


async def _page(
    connection: AsyncConnection, query: JobFilter, size: int, after: PageToken | None
) -> tuple[list[Job], PageToken | None]:
    revision = after.revision if after else await revision_now(connection)
    holds = await holds_at(connection, revision) if after else await holds_now(connection, None)
    now = int((await connection.execute(sa.select(db_now()))).scalar_one())
    scan = page_scan(connection.dialect.name, query, holds, now, after, size + 1)
    if scan is None:
        return [], None
    chosen = list((await connection.execute(scan)).scalars())
    rows = (await connection.execute(_GET, {"b_ids": chosen[:size]})).all()
    found = sorted((job_of(row, holds, now) for row in rows), key=lambda job: job.job_id, reverse=True)
    more = PageToken(chosen[size - 1], revision) if len(chosen) > size else None
    return found, more
