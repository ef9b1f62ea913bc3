"""Injected faults in the database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.presence import millis_of
from jobkit.adapters.sql.revisions import bump
from jobkit.adapters.sql.rows import clean
from jobkit.adapters.sql.tables import counters, faults, job_types
from jobkit.adapters.sql.terms import db_now, db_start
from jobkit.domain.errors import NotFound
from jobkit.domain.fault import REPLACED, Fault, StoredFault
from jobkit.ports.revisions import FAULTS


class SqlFaults:
    """The `Faults` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def revision(self) -> int:
        statement = sa.select(counters.c.value).where(counters.c.name == FAULTS)

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement)).scalar() or 0

        return await self._database.read(work)

    async def active(self) -> list[Fault]:
        async def work(connection: AsyncConnection) -> list[Fault]:
            rows = await connection.execute(_select().where(_goes_on()).order_by(faults.c.fault_id))
            return [_fault(row) for row in rows]

        return await self._database.read(work)

    async def inject(self, fault: Fault) -> StoredFault:
        values = {
            "fault_id": fault.fault_id,
            "job_type": fault.job_type,
            "error_code": fault.error_code,
            "rate": fault.rate,
            "ttl_ms": millis_of(fault.remaining),
            "actor": clean(fault.actor),
            "reason": clean(fault.reason),
            "injected_at": db_now(),
            "ends_at": db_now() + millis_of(fault.remaining),
            "stopped_by": "",
            "stop_reason": "",
        }
        same = sa.and_(faults.c.job_type == fault.job_type, faults.c.error_code == fault.error_code)

        async def work(connection: AsyncConnection) -> StoredFault:
            await bump(connection, FAULTS)  # locks: one writer at a time
            known = sa.select(sa.exists().where(job_types.c.job_type == fault.job_type))
            if not (await connection.execute(known)).scalar():
                raise NotFound("type", fault.job_type)
            await connection.execute(_stop(same, fault.actor, REPLACED))
            await connection.execute(sa.insert(faults).values(**values))
            return await _get(connection, fault.fault_id)

        return await self._database.write(work)

    async def stop(self, fault_id: UUID, actor: str, reason: str) -> StoredFault:
        async def work(connection: AsyncConnection) -> StoredFault:
            await bump(connection, FAULTS)
            await connection.execute(_stop(faults.c.fault_id == fault_id, actor, reason))
            return await _get(connection, fault_id)

        return await self._database.write(work)

    async def list(self, *, active_only: bool, limit: int, before: UUID | None) -> list[StoredFault]:
        statement = _select().order_by(faults.c.fault_id.desc()).limit(limit)
        if active_only:
            statement = statement.where(_goes_on())
        if before is not None:
            statement = statement.where(faults.c.fault_id < before)

        async def work(connection: AsyncConnection) -> list[StoredFault]:
            return [_stored(row) for row in await connection.execute(statement)]

        return await self._database.read(work)


def _select() -> sa.Select[Any]:
    return sa.select(faults, (faults.c.ends_at - db_start()).label("left"))


def _goes_on() -> sa.ColumnElement[bool]:
    return faults.c.ends_at > db_start()


def _stop(which: sa.ColumnElement[bool], actor: str, reason: str) -> sa.Update:
    values = {
        "ends_at": db_now(),
        "stopped_at": db_now(),
        "stopped_by": clean(actor),
        "stop_reason": clean(reason),
    }
    return sa.update(faults).where(which, _goes_on()).values(**values)


async def _get(connection: AsyncConnection, fault_id: UUID) -> StoredFault:
    row = (await connection.execute(_select().where(faults.c.fault_id == fault_id))).one_or_none()
    if row is None:
        raise NotFound("fault", str(fault_id))
    return _stored(row)


def _fault(row: Any) -> Fault:
    left = timedelta(milliseconds=max(row.left, 0))
    return Fault(row.fault_id, row.job_type, row.error_code, row.rate, left, row.actor, row.reason)


def _stored(row: Any) -> StoredFault:
    ttl = timedelta(milliseconds=row.ttl_ms)
    return StoredFault(_fault(row), ttl, row.injected_at, row.stopped_at, row.stopped_by, row.stop_reason)
