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

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.holds import holds_at, holds_now, revision_now
from jobkit.adapters.sql.rows import CLOCK_SLACK_MS, Hold, job_of, lowest_id, millis
from jobkit.adapters.sql.tables import job_labels, jobs, request_keys
from jobkit.adapters.sql.terms import any_uuid, db_now
from jobkit.domain.filter import JobFilter, PageToken
from jobkit.domain.job import Job, JobState, QuarantineReason

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
    scans = [scan.limit(size + 1) for scan in _scans(query, holds, now, after)]
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


def _bounds(
    query: JobFilter, after: PageToken | None, led_by: sa.Column[Any]
) -> list[sa.ColumnElement[bool]]:
    """What every scan obeys, on the id of the index that leads it. Ids are UUIDv7, so a time is also a range of
    the index."""
    terms: list[sa.ColumnElement[bool]] = []
    if after is not None:
        terms.append(led_by < after.job_id)
    if query.since is not None:
        terms.append(jobs.c.created_at >= millis(query.since))
        terms.append(led_by >= lowest_id(millis(query.since) - CLOCK_SLACK_MS))
    if query.before is not None:
        terms.append(jobs.c.created_at < millis(query.before))
        terms.append(led_by < lowest_id(millis(query.before) + CLOCK_SLACK_MS))
    return terms


def _scans(query: JobFilter, holds: Mapping[str, Hold], now: int, after: PageToken | None) -> list[Scan]:
    """Newest first; the narrowest index leads, and what it does not cover is a condition on its rows."""
    led_by: sa.Column[Any] = jobs.c.job_id
    ids = sa.select(jobs.c.job_id)
    whole = not _by_hold(query)
    if query.request_id is not None:
        owner = sa.select(request_keys.c.job_id).where(request_keys.c.request_id == query.request_id)
        ids = ids.where(jobs.c.job_id.in_(owner))
    elif query.labels:
        led_by = job_labels.c.job_id
        ids = ids.join(job_labels, job_labels.c.job_id == jobs.c.job_id)
        key, value = query.labels[0]
        ids = ids.where(job_labels.c.key == key, job_labels.c.value == value)
    elif query.error_code is None and not _by_person(query) and (query.job_type is not None or not whole):
        types = [query.job_type] if query.job_type is not None else sorted(holds)
        ids = ids.where(*_bounds(query, after, led_by)).order_by(led_by.desc())
        return [ids.where(*condition) for t in types for condition in _by_state(query, t, holds.get(t), now)]
    ids = ids.where(*_terms(query), *_bounds(query, after, led_by)).order_by(led_by.desc())
    return [ids if whole else ids.where(_reads_as(query, holds, now))]


def _by_hold(query: JobFilter) -> bool:
    """Whether an answer depends on which types are held."""
    return query.state is not None or query.reason is not None


def _by_person(query: JobFilter) -> bool:
    """Whether the reason asked for is a stored one, rather than derived from a hold."""
    return query.reason not in (None, QuarantineReason.BREAKER_OPEN)


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
    """For one type: the stored states that read as what was asked for, one condition list each. The reason is
    BREAKER_OPEN or none: the others have an index of their own."""
    held = hold is not None and hold.held
    conditions: list[list[sa.ColumnElement[bool]]] = []

    def add(state: JobState, *more: sa.ColumnElement[bool]) -> None:
        conditions.append([jobs.c.job_type == job_type, jobs.c.state == state.value, *more])

    wanted = query.state
    if not _by_hold(query):
        for state in JobState:
            add(state)
    elif wanted is None or wanted is JobState.QUARANTINED:
        if query.reason is None:
            add(JobState.QUARANTINED)
        if held:
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
