"""Old rows leave in small batches along the primary key, which is time: no index of their own, no long lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.counting import PURGED, raise_to
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.policies import pack
from jobkit.adapters.sql.revisions import bump
from jobkit.adapters.sql.rows import PAUSED, lowest_id
from jobkit.adapters.sql.standing import FORGOTTEN_MS
from jobkit.adapters.sql.tables import (
    breaker_transitions,
    claim_fronts,
    faults,
    incidents,
    job_labels,
    job_types,
    jobs,
    policies,
    redrive_types,
    redrives,
    request_keys,
    type_needs,
    undecodable,
    workers,
)
from jobkit.adapters.sql.terms import any_uuid, db_now
from jobkit.domain.job import JobState
from jobkit.domain.policy import PolicyOverride
from jobkit.ports import Ages, PurgeStep, RecordStep
from jobkit.ports.revisions import JOB_TYPES

NEWEST_KEPT = 16  # transitions a breaker keeps whatever their age: it is rebuilt from them
# A policy that an operator has cleared is kept as one that sets nothing.
_has_policy = sa.and_(
    policies.c.pattern == job_types.c.job_type, policies.c.settings != pack(PolicyOverride())
)


class SqlRetention:
    """The `Retention` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def purge(self, after: UUID, ages: Ages, limit: int) -> PurgeStep:
        return await self._database.write(lambda c: _purge(c, after, ages, limit))

    async def purge_records(self, ages: Ages, limit: int) -> int:
        return await self._database.write(lambda c: _purge_records(c, ages, limit))

    async def purge_ledger(self, after: int, ages: Ages, limit: int) -> RecordStep:
        return await self._database.write(lambda c: _purge_ledger(c, after, ages, limit))

    async def idle_types(self, older_than_ms: int) -> list[str]:
        statement = sa.select(job_types.c.job_type).where(
            job_types.c.created_at < db_now() - older_than_ms,
            job_types.c.held_reason.is_(None),
            # What an operator has said about it is not to be forgotten.
            job_types.c.slot_limit.is_(None),
            sa.not_(PAUSED),
            ~sa.exists().where(_has_policy).correlate(job_types),
            ~sa.exists().where(jobs.c.job_type == job_types.c.job_type).correlate(job_types),
        )

        async def work(connection: AsyncConnection) -> list[str]:
            return list((await connection.execute(statement)).scalars())

        return await self._database.read(work)

    async def drop_type(self, job_type: str) -> bool:
        unused = ~sa.exists().where(jobs.c.job_type == job_types.c.job_type).correlate(job_types)

        async def work(connection: AsyncConnection) -> bool:
            gone = await connection.execute(
                sa.delete(job_types).where(job_types.c.job_type == job_type, unused)
            )
            if gone.rowcount:
                await bump(connection, JOB_TYPES)
            return gone.rowcount > 0

        return await self._database.write(work)

    async def unlisted_types(self) -> list[str]:
        async def work(connection: AsyncConnection) -> list[str]:
            return list((await connection.execute(_UNLISTED)).scalars())

        return await self._database.read(work)


def _unlisted() -> sa.Select[Any]:
    """One look at the index per type: to group would read all rows."""
    first = sa.select(sa.func.min(jobs.c.job_type).label("name")).cte("kinds", recursive=True)
    following = (
        sa.select(sa.func.min(jobs.c.job_type)).where(jobs.c.job_type > first.c.name).scalar_subquery()
    )
    kinds = first.union_all(sa.select(following).where(first.c.name.is_not(None)))
    known = sa.exists().where(job_types.c.job_type == kinds.c.name)
    return sa.select(kinds.c.name).where(kinds.c.name.is_not(None), ~known)


_UNLISTED = _unlisted()


async def _purge(connection: AsyncConnection, after: UUID, ages: Ages, limit: int) -> PurgeStep:
    now = int((await connection.execute(sa.select(db_now()))).scalar_one())
    rows = (
        await connection.execute(
            sa.select(
                jobs.c.job_id,
                jobs.c.state,
                jobs.c.finished_at,
                jobs.c.quarantined_at,
                jobs.c.labels,
                jobs.c.request_id,
            )
            .where(jobs.c.job_id > after, jobs.c.job_id < lowest_id(now - ages.finished_ms))
            .order_by(jobs.c.job_id)
            .limit(limit)
        )
    ).all()
    old = [row for row in rows if _too_old(row, now, ages)]
    if old:
        await _delete(connection, old)
    return PurgeStep(len(old), rows[-1].job_id if len(rows) == limit else None)


def _too_old(row: Any, now: int, ages: Ages) -> bool:
    if row.finished_at is not None:
        return bool(row.finished_at < now - ages.finished_ms)
    quarantined = row.state == JobState.QUARANTINED.value and row.quarantined_at is not None
    return quarantined and row.quarantined_at < now - ages.quarantined_ms


async def _delete(connection: AsyncConnection, old: Sequence[Any]) -> None:
    labels = [
        {"b_key": key, "b_value": value, "b_id": row.job_id}
        for row in old
        if row.labels
        for key, value in orjson.loads(row.labels).items()
    ]
    if labels:
        await connection.execute(
            sa.delete(job_labels).where(
                job_labels.c.key == sa.bindparam("b_key"),
                job_labels.c.value == sa.bindparam("b_value"),
                job_labels.c.job_id == sa.bindparam("b_id"),
            ),
            labels,
        )
    keys = [{"b_key": row.request_id, "b_id": row.job_id} for row in old if row.request_id]
    if keys:
        await connection.execute(
            sa.delete(request_keys).where(
                request_keys.c.request_id == sa.bindparam("b_key"),
                request_keys.c.job_id == sa.bindparam("b_id"),
            ),
            keys,
        )
    await connection.execute(sa.delete(jobs).where(any_uuid(jobs.c.job_id, sorted(r.job_id for r in old))))


async def _purge_records(connection: AsyncConnection, ages: Ages, limit: int) -> int:
    """Closed incidents, redrives, injected faults, filed messages, and what workers left that are long gone."""
    now = int((await connection.execute(sa.select(db_now()))).scalar_one())
    closed = sa.select(incidents.c.incident_id).where(incidents.c.closed_at < now - ages.quarantined_ms)
    stale = closed.order_by(incidents.c.closed_at).limit(limit)
    # As long as the jobs that they were about; those at work stay.
    ended = (
        sa.select(redrives.c.redrive_id)
        .where(sa.not_(redrives.c.active), redrives.c.finished_at < now - ages.quarantined_ms)
        .order_by(redrives.c.redrive_id)
        .limit(limit)
    )
    removed = 0
    for statement in (
        sa.delete(redrive_types).where(redrive_types.c.redrive_id.in_(ended)),
        sa.delete(redrives).where(redrives.c.redrive_id.in_(ended)),
        sa.delete(incidents).where(incidents.c.incident_id.in_(stale)),
        sa.delete(faults).where(faults.c.ends_at < now - ages.quarantined_ms),
        sa.delete(undecodable).where(undecodable.c.filed_at < now - ages.quarantined_ms),
        sa.delete(workers).where(workers.c.beat_at < now - ages.gone_ms),
        sa.delete(type_needs).where(type_needs.c.seen_at < now - FORGOTTEN_MS),
        sa.delete(claim_fronts).where(claim_fronts.c.seen_at < now - ages.silent_ms),
    ):
        removed += (await connection.execute(statement)).rowcount
    return removed


_newer = breaker_transitions.alias("newer")
# The oldest generation of a breaker's fleet entries that stays whatever its age.
_oldest_kept = (
    sa.select(_newer.c.generation)
    .where(_newer.c.breaker == breaker_transitions.c.breaker, _newer.c.scope == "")
    .order_by(_newer.c.generation.desc())
    .limit(1)
    .offset(NEWEST_KEPT - 1)
    .scalar_subquery()
)
_kept = sa.and_(
    breaker_transitions.c.scope == "",
    breaker_transitions.c.generation >= sa.func.coalesce(_oldest_kept, 0),
)


async def _purge_ledger(connection: AsyncConnection, after: int, ages: Ages, limit: int) -> RecordStep:
    moves = breaker_transitions.c
    oldest = int((await connection.execute(sa.select(db_now()))).scalar_one()) - ages.quarantined_ms
    looked_at = (
        sa.select(moves.revision, moves.at, _kept.label("kept"))
        .where(moves.revision > after)
        .order_by(moves.revision)
        .limit(limit)
    )
    rows = (await connection.execute(looked_at)).all()
    old = [row.revision for row in rows if row.at < oldest and not row.kept]
    if old:
        await connection.execute(sa.delete(breaker_transitions).where(moves.revision.in_(old)))
        # Whoever wants to go on from before it has missed something.
        await raise_to(connection, PURGED, old[-1])
    more = len(rows) == limit and rows[-1].at < oldest
    return RecordStep(len(old), rows[-1].revision if more else None)
