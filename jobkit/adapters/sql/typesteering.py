"""What operators do to job types, and the record of it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, upsert
from jobkit.adapters.sql.revisions import bump
from jobkit.adapters.sql.rows import HOLD_COLUMNS, clean
from jobkit.adapters.sql.tables import counters, job_types, type_changes
from jobkit.adapters.sql.terms import db_now
from jobkit.domain.errors import FieldViolation, InvalidJob, NotFound
from jobkit.ports import Pause, TypeInfo
from jobkit.ports.revisions import JOB_TYPES

REVISIONS = "types"
TYPE_COLUMNS = (
    *HOLD_COLUMNS,
    job_types.c.paused_actor,
    job_types.c.paused_reason,
    job_types.c.slot_limit,
    job_types.c.revision,
)


def type_of(row: Any) -> TypeInfo:
    """From `TYPE_COLUMNS`."""
    pause = None
    if row.pause_since is not None:
        pause = Pause(row.paused_actor or "", row.paused_reason or "", row.pause_since, row.pause_until)
    return TypeInfo(
        row.job_type,
        row.hold_number,
        row.held_reason is not None,
        row.held_since,
        row.held_until,
        row.held_breaker or "",
        pause,
        row.slot_limit,
        row.revision,
    )


class SqlTypeSteering:
    """The `TypeSteering` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pause(self, job_type: str, actor: str, reason: str, until: int | None) -> TypeInfo:
        async def work(connection: AsyncConnection) -> TypeInfo:
            info, now = await _lock(connection, job_type)
            if until is not None and until <= now:
                raise InvalidJob([FieldViolation("until", "must lie in the future")])
            values = {
                "paused_since": info.pause.since if info.pause else now,
                "paused_until": until,
                "paused_actor": clean(actor),
                "paused_reason": clean(reason),
                # A pause of what is held already is the same hold.
                "hold_number": job_types.c.hold_number + (0 if info.waits else 1),
            }
            return await _change(connection, info, now, ("pause", actor, reason, until, None), values)

        return await self._database.write(work)

    async def resume(self, job_type: str, actor: str, reason: str) -> TypeInfo:
        async def work(connection: AsyncConnection) -> TypeInfo:
            info, now = await _lock(connection, job_type)
            if info.pause is None:
                return info
            values = dict.fromkeys(("paused_since", "paused_until", "paused_actor", "paused_reason"))
            return await _change(connection, info, now, ("resume", actor, reason, None, None), values)

        return await self._database.write(work)

    async def limit(self, job_type: str, slots: int | None, actor: str, reason: str) -> TypeInfo:
        async def work(connection: AsyncConnection) -> TypeInfo:
            info, now = await _lock(connection, job_type)
            if info.slot_limit == slots:
                return info
            change = ("limit", actor, reason, None, slots)
            return await _change(connection, info, now, change, {"slot_limit": slots})

        return await self._database.write(work)


async def _lock(connection: AsyncConnection, job_type: str) -> tuple[TypeInfo, int]:
    """The type, and the database's time."""
    statement = sa.select(*TYPE_COLUMNS, db_now().label("now")).where(job_types.c.job_type == job_type)
    row = (await connection.execute(statement.with_for_update())).one_or_none()
    if row is None:
        raise NotFound("type", job_type)
    return type_of(row), int(row.now)


async def _change(
    connection: AsyncConnection,
    info: TypeInfo,
    now: int,
    change: tuple[str, str, str, int | None, int | None],
    values: dict[str, Any],
) -> TypeInfo:
    action, actor, reason, until, slots = change
    revision = await _next_revision(connection)
    await connection.execute(
        sa.insert(type_changes).values(
            revision=revision,
            job_type=info.job_type,
            at=now,
            action=action,
            actor=clean(actor),
            reason=clean(reason),
            until=until,
            slot_limit=slots,
        )
    )
    await bump(connection, JOB_TYPES)
    update = sa.update(job_types).where(job_types.c.job_type == info.job_type)
    await connection.execute(update.values(revision=revision, **values))
    changed, _ = await _lock(connection, info.job_type)
    return changed


async def _next_revision(connection: AsyncConnection) -> int:
    """In commit order: the counter stays locked until this transaction ends."""
    insert: Any = upsert(connection)(counters).values(name=REVISIONS, value=1)
    statement = insert.on_conflict_do_update(
        index_elements=[counters.c.name], set_={"value": counters.c.value + 1}
    ).returning(counters.c.value)
    return int((await connection.execute(statement)).scalar_one())
