"""Quarantined jobs in bulk: how many there are, giving them up, and what groups their failures form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.rows import CLOCK_SLACK_MS, lowest_id, millis, time
from jobkit.adapters.sql.steering import given_up
from jobkit.adapters.sql.tables import job_labels, jobs, request_keys
from jobkit.adapters.sql.terms import ValueList, any_picked, any_text, db_now
from jobkit.domain.failure import group_of
from jobkit.domain.filter import JobFilter
from jobkit.domain.job import JobState, QuarantineReason
from jobkit.domain.redrive import FOR_A_PERSON
from jobkit.ports import FailureGroup, GroupToken

SAMPLES = 3
# Always said, so that partial indexes are seen to serve.
IS_QUARANTINED = jobs.c.quarantine_reason.is_not(None)
GROUPS = ValueList(sa.BigInteger)


class SqlQuarantine:
    """The `Quarantine` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, query: JobFilter, limit: int) -> dict[str, int]:
        return await self._database.read(lambda c: count_by_type(c, query, None, limit))

    async def discard(self, job_type: str, query: JobFilter, after: UUID, limit: int) -> list[UUID]:
        statement = (
            sa.update(jobs)
            .where(any_picked(jobs.c.job_id, next_quarantined(job_type, query, None, after, limit)))
            .values(updated_at=db_now(), **given_up())
            .returning(jobs.c.job_id)
        )

        async def work(connection: AsyncConnection) -> list[UUID]:
            return sorted((await connection.execute(statement)).scalars())

        return await self._database.write(work)

    async def groups(self, query: JobFilter, size: int, after: GroupToken | None) -> list[FailureGroup]:
        if query.nothing:
            return []
        return await self._database.read(lambda c: _groups(c, query, size, after))

    async def group_new(self, limit: int) -> int:
        return await self._database.write(lambda c: _group_new(c, limit))


def matching(query: JobFilter, before: int | None) -> list[sa.ColumnElement[bool]]:
    """What `query` says, of jobs that wait for a person since before `before` (database ms)."""
    terms: list[sa.ColumnElement[bool]] = [IS_QUARANTINED, jobs.c.state == JobState.QUARANTINED.value]
    reasons: Sequence[QuarantineReason] = FOR_A_PERSON if query.reason is None else [query.reason]
    terms.append(any_text(jobs.c.quarantine_reason, [reason.value for reason in reasons]))
    if before is not None:
        terms.append(jobs.c.quarantined_at < before)
    if query.job_type is not None:
        terms.append(jobs.c.job_type == query.job_type)
    if query.error_code is not None:
        terms.append(jobs.c.error_code == query.error_code)
    if query.failure_group is not None:
        terms.append(jobs.c.failure_group == query.failure_group)
    if query.request_id is not None:
        owner = sa.select(request_keys.c.job_id).where(request_keys.c.request_id == query.request_id)
        terms.append(jobs.c.job_id == owner.scalar_subquery())
    for key, value in query.labels:
        same = sa.and_(
            job_labels.c.key == key, job_labels.c.value == value, job_labels.c.job_id == jobs.c.job_id
        )
        terms.append(sa.exists().where(same))
    if query.since is not None:
        terms.append(jobs.c.created_at >= millis(query.since))
        terms.append(jobs.c.job_id >= lowest_id(millis(query.since) - CLOCK_SLACK_MS))
    if query.before is not None:
        terms.append(jobs.c.created_at < millis(query.before))
        terms.append(jobs.c.job_id < lowest_id(millis(query.before) + CLOCK_SLACK_MS))
    return terms


async def count_by_type(
    connection: AsyncConnection, query: JobFilter, before: int | None, limit: int
) -> dict[str, int]:
    """Matching jobs by type; no more than `limit` are counted in all."""
    if query.nothing:
        return {}
    some = sa.select(jobs.c.job_type).where(*matching(query, before)).limit(limit).subquery()
    statement = sa.select(some.c.job_type, sa.func.count().label("n")).group_by(some.c.job_type)
    return {row.job_type: row.n for row in await connection.execute(statement)}


def next_quarantined(
    job_type: str, query: JobFilter, before: int | None, after: UUID, limit: int
) -> sa.Select[Any]:
    """The first `limit` matching ids of a type above `after`, locked in order: a walk along (type, state, id). Who
    waits for a lock looks again at what it locked, so that nothing is taken that another has taken meanwhile."""
    few = sa.bindparam("few", limit, type_=sa.Integer, literal_execute=True)
    return (
        sa.select(jobs.c.job_id)
        .where(jobs.c.job_type == job_type, jobs.c.job_id > after, *matching(query, before))
        .order_by(jobs.c.job_id)
        .limit(few)
        .with_for_update()
    )


async def _groups(
    connection: AsyncConnection, query: JobFilter, size: int, after: GroupToken | None
) -> list[FailureGroup]:
    counted = (
        sa.select(
            jobs.c.failure_group,
            sa.func.count().label("n"),
            sa.func.min(jobs.c.quarantined_at).label("first"),
            sa.func.max(jobs.c.quarantined_at).label("last"),
        )
        # Without a filter everything asked for stands in the index: no row of `jobs` is read.
        .where(*(matching(query, None) if query != JobFilter() else [IS_QUARANTINED]))
        .where(jobs.c.failure_group.is_not(None))
        .group_by(jobs.c.failure_group)
        .subquery()
    )
    page = sa.select(counted).order_by(counted.c.n.desc(), counted.c.failure_group).limit(size)
    if after is not None:
        same = sa.and_(counted.c.n == after.count, counted.c.failure_group > after.group)
        page = page.where(sa.or_(counted.c.n < after.count, same))
    found = (await connection.execute(page)).all()
    samples: dict[int, list[Any]] = {}
    for row in await connection.execute(_samples(connection.dialect.name, [r.failure_group for r in found])):
        samples.setdefault(row.failure_group, []).append(row)
    return [_group_of(row, samples[row.failure_group]) for row in found if row.failure_group in samples]


def _group_of(row: Any, samples: Sequence[Any]) -> FailureGroup:
    newest = max(samples, key=lambda sample: sample.job_id)
    return FailureGroup(
        group=row.failure_group,
        job_type=newest.job_type,
        code=newest.error_code or "",
        message=newest.error_message or "",
        count=row.n,
        first_time=time(row.first),
        last_time=time(row.last),
        sample_job_ids=tuple(sorted((sample.job_id for sample in samples), reverse=True)),
    )


def _samples(dialect: str, groups: Sequence[int]) -> sa.Select[Any]:
    """The newest jobs of each group, in one statement whose text does not grow with the groups."""
    listed = sa.literal(groups, type_=GROUPS)
    shown = ("job_id", "failure_group", "job_type", "error_code", "error_message")
    newest = sa.select(*(jobs.c[name] for name in shown)).where(IS_QUARANTINED).order_by(jobs.c.job_id.desc())
    if dialect == "postgresql":
        each = sa.func.unnest(listed).table_valued("value", name="each_group").render_derived()
        scan = newest.where(jobs.c.failure_group == each.c.value).limit(SAMPLES).lateral()
        return sa.select(scan).select_from(each.join(scan, sa.true()))
    each = sa.func.json_each(listed).table_valued("value", name="each_group")
    ids = newest.with_only_columns(jobs.c.job_id).where(jobs.c.failure_group == each.c.value).limit(SAMPLES)
    chosen = jobs.alias("chosen")
    return sa.select(*(chosen.c[name] for name in shown)).select_from(
        each.join(chosen, chosen.c.job_id.in_(ids.correlate(each)))
    )


async def _group_new(connection: AsyncConnection, limit: int) -> int:
    rows = (
        await connection.execute(
            sa.select(jobs.c.job_id, jobs.c.job_type, jobs.c.error_code, jobs.c.error_message)
            .where(IS_QUARANTINED, jobs.c.failure_group.is_(None))
            .order_by(jobs.c.job_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
    ).all()
    if rows:
        groups = [
            {"b_id": r.job_id, "b_group": group_of(r.job_type, r.error_code or "", r.error_message or "")}
            for r in rows
        ]
        await connection.execute(_SET_GROUP, groups)
    return len(rows)


_SET_GROUP = (
    sa.update(jobs)
    .where(jobs.c.job_id == sa.bindparam("b_id"))
    .values(failure_group=sa.bindparam("b_group", type_=sa.BigInteger))
)
