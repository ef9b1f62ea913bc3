"""Reading jobs. Holds are read with the query, so that a held job reads as QUARANTINED everywhere alike.

A page is a merge of bounded index scans, one per (type, state) or per label, error code or reason, each newest
first; never one OR over states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, any_uuid, db_now
from jobkit.adapters.sql.holds import holds_at, holds_now, revision_now
from jobkit.adapters.sql.rows import Hold, job_of, millis
from jobkit.adapters.sql.tables import job_labels, jobs, request_keys
from jobkit.domain.filter import JobFilter, PageToken
from jobkit.domain.job import Job, JobState, QuarantineReason

# Ids carry the acceptor's clock, `created_at` the database's: how far apart the two may be.
CLOCK_SLACK_MS = 10 * 60 * 1000
# SQLite takes 500 terms in a compound select.
SCANS_A_STATEMENT = 400

Scan = sa.Select[Any]


class SqlReader:
    """The `JobReader` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, ids: Sequence[UUID]) -> dict[UUID, Job]:
        async def work(connection: AsyncConnection) -> dict[UUID, Job]:
            statement = sa.select(jobs, db_now().label("now")).where(any_uuid(jobs.c.job_id, ids))
            rows = (await connection.execute(statement)).all()
            holds = await holds_now(connection, {row.job_type for row in rows}) if rows else {}
            return {row.job_id: job_of(row, holds, row.now) for row in rows}

        return await self._database.read(work)

    async def page(
        self, query: JobFilter, size: int, after: PageToken | None
    ) -> tuple[list[Job], PageToken | None]:
        if query.nothing:
            return [], None
        return await self._database.read(lambda c: _page(c, query, size, after))


async def _page(
    connection: AsyncConnection, query: JobFilter, size: int, after: PageToken | None
) -> tuple[list[Job], PageToken | None]:
    revision = after.revision if after else await revision_now(connection)
    holds = await holds_at(connection, revision) if after else await holds_now(connection, None)
    now = int((await connection.execute(sa.select(db_now()))).scalar_one())
    scans = [
        scan.where(*_bounds(query, after)).order_by(jobs.c.job_id.desc()).limit(size + 1)
        for scan in _scans(query, holds, now)
    ]
    ids: list[UUID] = []
    for start in range(0, len(scans), SCANS_A_STATEMENT):
        ids += await _merge(connection, scans[start : start + SCANS_A_STATEMENT], size + 1)
    chosen = sorted(ids, reverse=True)[: size + 1]
    rows = await connection.execute(sa.select(jobs).where(any_uuid(jobs.c.job_id, chosen[:size])))
    found = sorted((job_of(row, holds, now) for row in rows), key=lambda job: job.job_id, reverse=True)
    more = PageToken(chosen[size - 1], revision) if len(chosen) > size else None
    return found, more


async def _merge(connection: AsyncConnection, scans: Sequence[Scan], limit: int) -> list[UUID]:
    if not scans:
        return []
    if len(scans) == 1:
        return list((await connection.execute(scans[0])).scalars())
    union = sa.union_all(*(sa.select(scan.subquery().c.job_id) for scan in scans)).subquery()
    merged = sa.select(union.c.job_id).order_by(union.c.job_id.desc()).limit(limit)
    return list((await connection.execute(merged)).scalars())


def _bounds(query: JobFilter, after: PageToken | None) -> list[sa.ColumnElement[bool]]:
    """What every scan obeys. Ids are UUIDv7, so a time is also a range of the index."""
    terms: list[sa.ColumnElement[bool]] = []
    if after is not None:
        terms.append(jobs.c.job_id < after.job_id)
    if query.since is not None:
        terms.append(jobs.c.created_at >= millis(query.since))
        terms.append(jobs.c.job_id >= lowest_id(millis(query.since) - CLOCK_SLACK_MS))
    if query.before is not None:
        terms.append(jobs.c.created_at < millis(query.before))
        terms.append(jobs.c.job_id < lowest_id(millis(query.before) + CLOCK_SLACK_MS))
    return terms


def lowest_id(at: int) -> UUID:
    """The smallest UUIDv7 of a millisecond."""
    return UUID(int=(max(at, 0) << 80) | (0x7 << 76) | (0x2 << 62))


def _scans(query: JobFilter, holds: Mapping[str, Hold], now: int) -> list[Scan]:
    """The narrowest index leads; what it does not cover is a condition on its rows."""
    ids = sa.select(jobs.c.job_id)
    terms = _terms(query)
    if query.request_id is not None:
        owner = sa.select(request_keys.c.job_id).where(request_keys.c.request_id == query.request_id)
        scans = [ids.where(jobs.c.job_id.in_(owner), *terms)]
    elif query.labels:
        key, value = query.labels[0]
        leading = sa.and_(job_labels.c.key == key, job_labels.c.value == value)
        scans = [ids.join(job_labels, job_labels.c.job_id == jobs.c.job_id).where(leading, *terms)]
    elif query.error_code is not None:
        scans = [ids.where(*terms)]
    elif query.state is not None or query.reason is not None:
        types = [query.job_type] if query.job_type is not None else sorted(holds)
        return [ids.where(*condition) for t in types for condition in _by_state(query, t, holds.get(t), now)]
    else:
        return [ids.where(*terms)]
    if query.state is None and query.reason is None:
        return scans
    return [scan.where(_reads_as(query, holds, now)) for scan in scans]


def _terms(query: JobFilter) -> list[sa.ColumnElement[bool]]:
    terms: list[sa.ColumnElement[bool]] = []
    if query.job_type is not None:
        terms.append(jobs.c.job_type == query.job_type)
    if query.error_code is not None:
        terms.append(jobs.c.error_code == query.error_code)
    for key, value in query.labels:
        has = sa.exists().where(
            job_labels.c.key == key, job_labels.c.value == value, job_labels.c.job_id == jobs.c.job_id
        )
        terms.append(has)
    return terms


def _by_state(
    query: JobFilter, job_type: str, hold: Hold | None, now: int
) -> list[list[sa.ColumnElement[bool]]]:
    """For one type: the stored states that read as what was asked for, one condition list each."""
    of_type = jobs.c.job_type == job_type
    held = hold is not None and hold.held
    wanted = query.state
    by_person = query.reason not in (None, QuarantineReason.BREAKER_OPEN)
    conditions: list[list[sa.ColumnElement[bool]]] = []

    def add(state: JobState, *more: sa.ColumnElement[bool]) -> None:
        conditions.append([of_type, jobs.c.state == state.value, *more])

    if wanted is None or wanted is JobState.QUARANTINED:
        if query.reason is None:
            add(JobState.QUARANTINED)
        elif by_person and query.reason is not None:
            add(JobState.QUARANTINED, jobs.c.quarantine_reason == query.reason.value)
        if held and not by_person:
            add(JobState.PENDING)
            add(JobState.QUEUED)
            add(JobState.RETRYING, jobs.c.due_at <= now)
    elif query.reason is not None:
        return []
    elif wanted is JobState.RETRYING and held:
        add(wanted, jobs.c.due_at > now)
    elif not (wanted.waiting and held):
        add(wanted)
    return conditions


def _reads_as(query: JobFilter, holds: Mapping[str, Hold], now: int) -> sa.ColumnElement[bool]:
    """The same as one condition, for scans that another index leads."""
    held_types = [name for name, hold in holds.items() if hold.held]
    held = sa.and_(
        jobs.c.job_type.in_(held_types),
        jobs.c.state.in_([JobState.PENDING.value, JobState.QUEUED.value, JobState.RETRYING.value]),
        sa.or_(jobs.c.state != JobState.RETRYING.value, jobs.c.due_at <= now),
    )
    if not held_types:
        held = sa.false()
    if query.reason is QuarantineReason.BREAKER_OPEN:
        matches = held
    elif query.reason is not None:
        matches = jobs.c.quarantine_reason == query.reason.value
    else:
        matches = sa.true()
    if query.state is JobState.QUARANTINED:
        return sa.and_(matches, sa.or_(held, jobs.c.state == JobState.QUARANTINED.value))
    if query.state is not None:
        return sa.and_(matches, jobs.c.state == query.state.value, sa.not_(held))
    return matches
