"""Incidents: opened and closed with the ledger's entries, weighed while they last, counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.counting import TALLIED, raise_to, read_all, take
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.standing import types_behind
from jobkit.adapters.sql.tables import WAITING, breaker_transitions, incidents, jobs
from jobkit.adapters.sql.terms import db_now, db_start, earlier_of
from jobkit.domain.breaker import BreakerState, Transition
from jobkit.domain.ledger import Entry, Tally, run_times
from jobkit.domain.retry import RetryPolicy
from jobkit.ports.revisions import LEDGER

# Jobs looked at when an incident closes, within the transaction that closes it. While it lasts all are looked at, by
# the control plane and in nobody's way; this look is for incidents too short for that.
WEIGHED_AT_CLOSE = 10_000
# The policy of jobs that say nothing themselves: workers' settings are not known here.
POLICY = RetryPolicy()
RUN_TIMES = run_times(POLICY)


class Weight(NamedTuple):
    """What waits behind an incident: jobs, and the attempts that they have been spared so far."""

    jobs: int = 0
    attempts: int = 0


class SqlSums:
    """The `Sums` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def weigh(self, limit: int) -> None:
        opened = sa.select(incidents).where(incidents.c.closed_at.is_(None))

        async def read(connection: AsyncConnection) -> dict[int, Weight]:
            rows = (await connection.execute(opened)).all()
            return {
                row.incident_id: await _weigh(connection, row.breaker, row.noted_at, limit) for row in rows
            }

        for incident_id, weight in (await self._database.read(read)).items():
            grown = sa.or_(incidents.c.jobs_held < weight.jobs, incidents.c.attempts_saved < weight.attempts)
            # One that has closed meanwhile has its sum.
            still = sa.and_(incidents.c.incident_id == incident_id, incidents.c.closed_at.is_(None), grown)
            statement = sa.update(incidents).where(still).values(**_raised(weight))
            await self._database.write(lambda c, s=statement: c.execute(s))  # type: ignore[misc]

    async def tally(self, limit: int) -> Tally:
        async def news(connection: AsyncConnection) -> bool:
            head, tallied = await read_all(connection, [LEDGER, TALLIED])
            uncounted = sa.select(sa.exists().where(_UNCOUNTED))
            return head > tallied or bool((await connection.execute(uncounted)).scalar())

        if not await self._database.read(news):
            return Tally()
        return await self._database.write(lambda c: _tally(c, limit))


_UNCOUNTED = incidents.c.attempts_saved > incidents.c.attempts_counted


async def _tally(connection: AsyncConnection, limit: int) -> Tally:
    # Whoever else is counting waits here.
    tallied = await take(connection, TALLIED, 0)
    moves = breaker_transitions.c
    new = sa.select(moves.revision, moves.breaker, moves.to_state, moves.scope)
    new = new.where(moves.revision > tallied).order_by(moves.revision).limit(limit)
    rows = (await connection.execute(new)).all()
    if rows:
        await raise_to(connection, TALLIED, rows[-1].revision)
    transitions = Counter((row.breaker, row.to_state) for row in rows if not row.scope)
    columns = (
        incidents.c.incident_id,
        incidents.c.breaker,
        incidents.c.attempts_saved,
        incidents.c.attempts_counted,
    )
    uncounted = sa.select(*columns).where(_UNCOUNTED).order_by(incidents.c.incident_id).limit(limit)
    saved: Counter[str] = Counter()
    for row in (await connection.execute(uncounted)).all():
        saved[row.breaker] += row.attempts_saved - row.attempts_counted
        counted = sa.update(incidents).where(incidents.c.incident_id == row.incident_id)
        await connection.execute(counted.values(attempts_counted=row.attempts_saved))
    return Tally(transitions, saved)


async def weigh_closing(connection: AsyncConnection, breaker: str, moves: Sequence[Transition]) -> Weight:
    """What waits behind the open incident that one of these moves will close; nothing where there is none."""
    if all(move.scope or move.to_state.holds for move in moves):
        return Weight()
    found = await _open_incident(connection, breaker)
    if found is None:
        return Weight()
    return await _weigh(connection, breaker, found.noted_at, WEIGHED_AT_CLOSE)


async def follow(connection: AsyncConnection, entries: Sequence[Entry], weight: Weight) -> None:
    """Open and close incidents as these new fleet entries of one breaker, in order, tell."""
    if not entries:
        return
    found = await _open_incident(connection, entries[0].breaker)
    incident_id: int | None = None if found is None else found.incident_id
    for entry in entries:
        if not entry.move.to_state.holds:
            if incident_id is not None:
                await _change(connection, incident_id, **_closed(entry), **_raised(weight))
            incident_id, weight = None, Weight()
        elif incident_id is None:
            incident_id = entry.revision
            await connection.execute(sa.insert(incidents).values(noted_at=db_now(), **_opened(entry)))
        elif entry.move.to_state is BreakerState.HALF_OPEN:
            await _change(connection, incident_id, probes=incidents.c.probes + 1)
        elif entry.move.from_state is BreakerState.HALF_OPEN:
            await _change(connection, incident_id, reopened=incidents.c.reopened + 1)


async def _open_incident(connection: AsyncConnection, breaker: str) -> Any:
    columns = incidents.c.incident_id, incidents.c.noted_at
    statement = sa.select(*columns).where(incidents.c.breaker == breaker, incidents.c.closed_at.is_(None))
    return (await connection.execute(statement)).one_or_none()


async def _change(connection: AsyncConnection, incident_id: int, **values: Any) -> None:
    await connection.execute(
        sa.update(incidents).where(incidents.c.incident_id == incident_id).values(**values)
    )


def _opened(entry: Entry) -> dict[str, Any]:
    move = entry.move
    return {
        "incident_id": entry.revision,
        "breaker": entry.breaker,
        "opened_at": move.at,
        "first_failure_at": move.proof.first_failure_at if move.proof else None,
        "cause": move.cause.value,
        "actor": move.actor,
        "reason": move.reason,
        "error_code": move.error_code,
        "probes": int(move.to_state is BreakerState.HALF_OPEN),
    }


def _closed(entry: Entry) -> dict[str, Any]:
    move = entry.move
    return {"closed_at": move.at, "close_revision": entry.revision, "close_cause": move.cause.value}


def _raised(weight: Weight) -> dict[str, Any]:
    """The highest seen: who is no longer waiting was held all the same."""
    held, saved = incidents.c.jobs_held, incidents.c.attempts_saved
    return {
        "jobs_held": sa.case((held < weight.jobs, weight.jobs), else_=held),
        "attempts_saved": sa.case((saved < weight.attempts, weight.attempts), else_=saved),
    }


async def _weigh(connection: AsyncConnection, breaker: str, since: int, limit: int) -> Weight:
    """Of every type behind the breaker, one short scan each, together up to `limit` jobs."""
    whole = Weight()
    for job_type in await types_behind(connection, breaker):
        part = await _weigh_type(connection, job_type, since, limit - whole.jobs)
        whole = Weight(whole.jobs + part.jobs, whole.attempts + part.attempts)
    return whole


async def _weigh_type(connection: AsyncConnection, job_type: str, since: int, limit: int) -> Weight:
    """The formula of `domain.ledger` over the type's waiting jobs, in database time."""
    begins = sa.case((jobs.c.due_at > since, jobs.c.due_at), else_=since)
    runs = sum((sa.case((db_start() - begins >= at, 1), else_=0) for at in RUN_TIMES[1:]), sa.literal(1))
    left = sa.func.coalesce(jobs.c.max_attempts, POLICY.max_attempts) - jobs.c.attempts + jobs.c.attempts_base
    held = sa.and_(jobs.c.job_type == job_type, WAITING, jobs.c.due_at <= db_start())
    each = sa.select(earlier_of(runs, left).label("saved")).where(held).limit(limit).subquery()
    statement = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(each.c.saved), 0))
    row = (await connection.execute(statement.select_from(each))).one()
    return Weight(int(row[0]), int(row[1]))
