"""Redrives as rows: making, reading and ending them. What moves jobs is in `redriving.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import BadData, Database, packed
from jobkit.adapters.sql.quarantine import count_by_type
from jobkit.adapters.sql.redriving import learn_ends, pace_of, take_next
from jobkit.adapters.sql.rows import clean, time
from jobkit.adapters.sql.tables import redrive_types, redrives
from jobkit.adapters.sql.terms import any_uuid, db_now
from jobkit.domain.errors import AlreadyExists, Exhausted, NotFound, Precondition
from jobkit.domain.filter import parse_filter
from jobkit.domain.job import Token
from jobkit.domain.redrive import Counts, NewRedrive, Redrive, RedriveState, RedriveType, first_pace

MAX_ACTIVE = 100
LATER = timedelta(seconds=10)
NOBODY = UUID(int=0)
RUNNING = RedriveState.RUNNING.value
# As in a partial index's condition.
IS_ACTIVE = sa.text("redrives.active")


class SqlRedrives:
    """The `Redrives` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewRedrive, limit: int) -> tuple[Redrive, bool]:
        try:
            return await self._database.write(lambda c: _create(c, new, limit))
        except BadData:
            # Somebody wrote the same request_id in the same moment: now it is there to be found.
            return await self._database.write(lambda c: _create(c, new, limit))

    async def get(self, redrive_id: UUID) -> Redrive:
        return await self._database.read(lambda c: _get(c, redrive_id))

    async def page(self, size: int, before: UUID | None) -> list[Redrive]:
        statement = sa.select(redrives).order_by(redrives.c.redrive_id.desc()).limit(size)
        if before is not None:
            statement = statement.where(redrives.c.redrive_id < before)

        async def work(connection: AsyncConnection) -> list[Redrive]:
            return await _told(connection, (await connection.execute(statement)).all())

        return await self._database.read(work)

    async def cancel(self, redrive_id: UUID, actor: str, reason: str) -> Redrive:
        async def work(connection: AsyncConnection) -> Redrive:
            # Waits for a batch that is being sent; the next one finds it cancelled.
            mine = redrives.c.redrive_id == redrive_id
            state = (
                await connection.execute(sa.select(redrives.c.state).where(mine).with_for_update())
            ).scalar()
            if state == RUNNING:
                await _end(connection, redrive_id, RedriveState.CANCELLED, clean(actor), clean(reason))
            elif state is not None and state != RedriveState.CANCELLED.value:
                raise Precondition(
                    f"redrive is {state} already",
                    reason="REDRIVE_NOT_CANCELLABLE",
                    metadata={"redriveId": str(redrive_id), "state": state},
                )
            return await _get(connection, redrive_id)

        return await self._database.write(work)

    async def active(self) -> Sequence[tuple[UUID, str]]:
        statement = (
            sa.select(redrive_types.c.redrive_id, redrive_types.c.job_type)
            .join(redrives, redrives.c.redrive_id == redrive_types.c.redrive_id)
            .where(IS_ACTIVE, sa.not_(redrive_types.c.closed))
            .order_by(redrive_types.c.redrive_id, redrive_types.c.job_type)
        )

        async def work(connection: AsyncConnection) -> list[tuple[UUID, str]]:
            return [(row.redrive_id, row.job_type) for row in await connection.execute(statement)]

        return await self._database.read(work)

    async def take(self, redrive_id: UUID, job_type: str, session: UUID, limit: int) -> list[Token]:
        return await self._database.write(lambda c: take_next(c, (redrive_id, job_type), session, limit))

    async def learn(self, redrive_id: UUID, job_type: str, limit: int) -> None:
        await self._database.write(lambda c: learn_ends(c, (redrive_id, job_type), limit))

    async def finish(self, redrive_id: UUID) -> Redrive | None:
        return await self._database.write(lambda c: _finish(c, redrive_id))


async def _create(connection: AsyncConnection, new: NewRedrive, limit: int) -> tuple[Redrive, bool]:
    if new.request_id and (earlier := await _earlier(connection, new)) is not None:
        return earlier, True
    running = sa.select(sa.func.count()).select_from(redrives).where(IS_ACTIVE)
    if (await connection.execute(running)).scalar_one() >= MAX_ACTIVE:
        raise Exhausted(f"{MAX_ACTIVE} redrives are at work", reason="TOO_MANY_REDRIVES", retry_after=LATER)
    now = int((await connection.execute(sa.select(db_now()))).scalar_one())
    counts = await count_by_type(connection, parse_filter(new.filter), now, limit + 1)
    if sum(counts.values()) > limit:
        raise Precondition(
            f"the filter matches more than {limit} jobs: narrow it, by type or by time",
            reason="TOO_MANY_JOBS",
            metadata={"limit": str(limit)},
        )
    done = not counts
    await connection.execute(
        sa.insert(redrives).values(
            redrive_id=new.redrive_id,
            filter=new.filter,
            rate=new.rate,
            actor=clean(new.actor),
            reason=clean(new.reason),
            request_id=new.request_id or None,
            state=(RedriveState.DONE if done else RedriveState.RUNNING).value,
            active=not done,
            created_at=now,
            finished_at=now if done else None,
            ended_by="",
            end_reason="",
        )
    )
    pace = packed(asdict(first_pace(new.rate, now)))
    parts = [
        {"redrive_id": new.redrive_id, "job_type": name, "total": total, "pace": pace, "moved_at": now}
        for name, total in sorted(counts.items())
    ]
    if parts:
        fresh = sa.insert(redrive_types).values(sent_to=NOBODY, looked_to=NOBODY, stop_reason="")
        await connection.execute(fresh, parts)
    return await _get(connection, new.redrive_id), False


async def _earlier(connection: AsyncConnection, new: NewRedrive) -> Redrive | None:
    """The redrive of that request_id. Raises AlreadyExists where it was asked for something else."""
    same_id = sa.select(redrives).where(redrives.c.request_id == new.request_id)
    row = (await connection.execute(same_id)).one_or_none()
    if row is None:
        return None
    asked = (new.filter, new.rate, clean(new.actor), clean(new.reason))
    if (row.filter, row.rate, row.actor, row.reason) != asked:
        raise AlreadyExists(
            "request_id was used with other content",
            reason="REQUEST_ID_REUSED",
            metadata={"requestId": new.request_id},
        )
    return (await _told(connection, [row]))[0]


async def _get(connection: AsyncConnection, redrive_id: UUID) -> Redrive:
    row = (
        await connection.execute(sa.select(redrives).where(redrives.c.redrive_id == redrive_id))
    ).one_or_none()
    if row is None:
        raise NotFound("redrive", str(redrive_id))
    return (await _told(connection, [row]))[0]


async def _end(
    connection: AsyncConnection, redrive_id: UUID, state: RedriveState, by: str = "", reason: str = ""
) -> None:
    await connection.execute(
        sa.update(redrives)
        .where(redrives.c.redrive_id == redrive_id)
        .values(state=state.value, finished_at=db_now(), ended_by=by, end_reason=reason)
    )


async def _finish(connection: AsyncConnection, redrive_id: UUID) -> Redrive | None:
    mine = redrives.c.redrive_id == redrive_id
    row = (
        await connection.execute(sa.select(redrives).where(mine, IS_ACTIVE).with_for_update(skip_locked=True))
    ).one_or_none()
    if row is None:
        return None
    parts = (
        await connection.execute(sa.select(redrive_types).where(redrive_types.c.redrive_id == redrive_id))
    ).all()
    gave_up = [part for part in parts if part.stop_reason]
    over = all(part.closed for part in parts)
    ended = row.state == RUNNING and (over or (gave_up and all(p.sent_all or p.stop_reason for p in parts)))
    if ended:
        state = RedriveState.STOPPED if gave_up else RedriveState.DONE
        why = "; ".join(f"{part.job_type}: {part.stop_reason}" for part in gave_up)
        await _end(connection, redrive_id, state, reason=why)
    if over:
        await connection.execute(sa.update(redrives).where(mine).values(active=False))
    return await _get(connection, redrive_id) if ended else None


async def _told(connection: AsyncConnection, rows: Sequence[Any]) -> list[Redrive]:
    ids = [row.redrive_id for row in rows]
    parts: dict[UUID, list[Any]] = {redrive_id: [] for redrive_id in ids}
    statement = sa.select(redrive_types).where(any_uuid(redrive_types.c.redrive_id, ids))
    if ids:
        for part in await connection.execute(statement.order_by(redrive_types.c.job_type)):
            parts[part.redrive_id].append(part)
    return [_redrive_of(row, parts[row.redrive_id]) for row in rows]


def _redrive_of(row: Any, parts: Sequence[Any]) -> Redrive:
    running = row.state == RUNNING
    return Redrive(
        redrive_id=row.redrive_id,
        filter=row.filter,
        rate=row.rate,
        actor=row.actor,
        reason=row.reason,
        request_id=row.request_id or "",
        state=RedriveState(row.state),
        create_time=time(row.created_at),
        finish_time=None if row.finished_at is None else time(row.finished_at),
        ended_by=row.ended_by,
        end_reason=row.end_reason,
        types=tuple(_type_of(part, running) for part in parts),
    )


def _type_of(row: Any, running: bool) -> RedriveType:
    sending = running and not row.sent_all and not row.stop_reason
    counts = Counts(
        # One whose quarantine was committed just after the count, although it is older, is one more.
        total=max(row.total, row.redriven),
        redriven=row.redriven,
        succeeded=row.succeeded,
        failed=row.failed,
        cancelled=row.cancelled,
        skipped=max(row.total - row.redriven, 0) if row.sent_all else 0,
    )
    rate = pace_of(orjson.loads(row.pace)).rate if sending and not row.held else 0.0
    return RedriveType(row.job_type, counts, rate, row.held and sending, row.stop_reason)
