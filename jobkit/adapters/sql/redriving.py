"""What works on one job type of a redrive: sending the next jobs, and learning how those sent have ended.

Both lock the type's row, for one short transaction: pace, place and counts are in it and change with what they are
about, so that a process killed in the middle has done nothing, and another goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import packed
from jobkit.adapters.sql.holds import holds_now
from jobkit.adapters.sql.presence import answer_for
from jobkit.adapters.sql.quarantine import next_quarantined
from jobkit.adapters.sql.rows import TOKEN_COLUMNS, token_of
from jobkit.adapters.sql.steering import back_to_work
from jobkit.adapters.sql.tables import jobs, redrive_jobs, redrive_types, redrives
from jobkit.adapters.sql.terms import any_picked, any_uuid, db_now
from jobkit.domain.filter import parse_filter
from jobkit.domain.job import JobState, Token
from jobkit.domain.redrive import (
    Answers,
    Pace,
    RedriveState,
    allowance,
    is_hopeless,
    learn,
    pause,
    spend,
)

START = UUID(int=0)
# Jobs that have not ended by then will not be waited for: nobody serves their type, perhaps.
PATIENCE_MS = 86_400_000
HOPELESS = "nearly everything fails again"

Part = tuple[UUID, str]  # a redrive, and one of its job types


def pace_of(stored: Mapping[str, Any]) -> Pace:
    """From JSON, which has no infinity."""
    threshold = stored["threshold"]
    return Pace(**{**stored, "threshold": math.inf if threshold is None else threshold})


async def take_next(connection: AsyncConnection, part: Part, session: UUID, limit: int) -> list[Token]:
    row = await _lock(connection, part)
    if row is None or row.sent_all or row.stop_reason:
        return []
    # Shared with other types of the redrive; a cancellation waits for it, and comes before the next.
    asked = sa.select(redrives).where(redrives.c.redrive_id == part[0]).with_for_update(read=True)
    redrive = (await connection.execute(asked)).one()
    if redrive.state != RedriveState.RUNNING.value:
        return []
    now = int((await connection.execute(sa.select(db_now()))).scalar_one())
    pace = pace_of(orjson.loads(row.pace))
    hold = (await holds_now(connection, [part[1]])).get(part[1])
    if hold is not None and hold.held:
        if not row.held:
            await _change(connection, part, held=True)
        return []
    if row.held:
        pace = pause(pace, now)
    wanted = min(limit, allowance(pace, now, _open(row)))
    chosen = next_quarantined(part[1], parse_filter(redrive.filter), redrive.created_at, row.sent_to, wanted)
    sent = await _send(connection, part, chosen, session) if wanted else []
    if not sent:
        exhausted = wanted > 0
        if exhausted or row.held:
            await _change(connection, part, held=False, sent_all=exhausted, pace=_packed(pace))
        return []
    await _change(
        connection,
        part,
        held=False,
        redriven=redrive_types.c.redriven + len(sent),
        sent_to=sent[-1].job_id,
        sent_all=len(sent) < wanted,
        moved_at=now,
        pace=_packed(spend(pace, now, len(sent))),
    )
    return sent


async def _send(
    connection: AsyncConnection, part: Part, chosen: sa.Select[Any], session: UUID
) -> list[Token]:
    """Back to work in one statement, and noted as under way; in order of id."""
    statement = (
        sa.update(jobs)
        .where(any_picked(jobs.c.job_id, chosen))
        .values(updated_at=db_now(), **back_to_work(session))
        .returning(*TOKEN_COLUMNS)
    )
    rows = sorted((await connection.execute(statement)).all(), key=lambda row: row.job_id)
    if rows:
        noted = [{"job_id": row.job_id, "attempts_base": row.attempts} for row in rows]
        await connection.execute(sa.insert(redrive_jobs).values(redrive_id=part[0], job_type=part[1]), noted)
        await answer_for(connection, session, [row.job_id for row in rows])
    return [token_of(row) for row in rows]


async def learn_ends(connection: AsyncConnection, part: Part, limit: int) -> None:
    row = await _lock(connection, part)
    if row is None or row.closed:
        return
    now = int((await connection.execute(sa.select(db_now()))).scalar_one())
    seen = await _look(connection, part, row.looked_to, limit)
    answers = await _note(connection, part, seen)
    pace = learn(before := pace_of(orjson.loads(row.pace)), answers, now)
    stop_reason = row.stop_reason
    if not row.sent_all and not stop_reason and is_hopeless(pace):
        stop_reason = HOPELESS
    moving = not row.sent_all and not stop_reason and await _runs(connection, part[0])
    late = not moving and now - row.moved_at > PATIENCE_MS
    closed = not moving and (late or _open(row) == answers.ended)
    looked_to = seen[-1].job_id if len(seen) == limit else START
    if not closed and (pace, looked_to, stop_reason) == (before, row.looked_to, row.stop_reason):
        return
    counts = redrive_types.c
    await _change(
        connection,
        part,
        succeeded=counts.succeeded + answers.succeeded,
        failed=counts.failed + answers.failed,
        cancelled=counts.cancelled + answers.cancelled,
        looked_to=looked_to,
        stop_reason=stop_reason,
        closed=closed,
        pace=_packed(pace),
    )
    if late:
        await connection.execute(sa.delete(redrive_jobs).where(*_of(redrive_jobs, part)))


async def _look(connection: AsyncConnection, part: Part, after: UUID, limit: int) -> Sequence[Any]:
    """Some of the jobs under way, and what has become of them: a bounded walk of our own key, and a look at each."""
    few = sa.bindparam("few", limit, type_=sa.Integer, literal_execute=True)
    under_way = (
        sa.select(redrive_jobs.c.job_id, redrive_jobs.c.attempts_base, redrive_jobs.c.failing)
        .where(*_of(redrive_jobs, part), redrive_jobs.c.job_id > after)
        .order_by(redrive_jobs.c.job_id)
        .limit(few)
        .subquery()
    )
    statement = (
        sa.select(under_way, jobs.c.state, jobs.c.attempts, jobs.c.attempts_base.label("base"))
        .select_from(under_way.outerjoin(jobs, jobs.c.job_id == under_way.c.job_id))
        .order_by(under_way.c.job_id)
    )
    return (await connection.execute(statement)).all()


async def _note(connection: AsyncConnection, part: Part, seen: Sequence[Any]) -> Answers:
    """Count what has ended and forget it, mark what has begun to fail."""
    ends = {row.job_id: end for row in seen if (end := _end_of(row))}
    first = [row for row in seen if not row.failing]
    failing = [row.job_id for row in first if row.job_id not in ends and row.attempts > row.attempts_base]
    answered = [ends.get(row.job_id) for row in first]
    good, bad = answered.count("succeeded"), answered.count("failed") + len(failing)
    mine = _of(redrive_jobs, part)
    if ends:
        gone = any_uuid(redrive_jobs.c.job_id, sorted(ends))
        await connection.execute(sa.delete(redrive_jobs).where(*mine, gone))
    if failing:
        these = any_uuid(redrive_jobs.c.job_id, failing)
        await connection.execute(sa.update(redrive_jobs).where(*mine, these).values(failing=True))
    told = list(ends.values())
    return Answers(good, bad, told.count("succeeded"), told.count("failed"), told.count("cancelled"))


def _end_of(row: Any) -> str:
    """How the job ended, "" while it has not. One that has another base by now was quarantined and sent again by
    somebody else: of our run it is the end."""
    if row.state is None:
        return "cancelled"  # discarded or cancelled, and deleted since
    if row.base != row.attempts_base:
        return "failed"
    match JobState(row.state):
        case JobState.SUCCEEDED:
            return "succeeded"
        case JobState.QUARANTINED:
            return "failed"
        case state:
            return "cancelled" if state.finished else ""


async def _lock(connection: AsyncConnection, part: Part) -> Any:
    """The type's row, or None when somebody else is at it."""
    statement = sa.select(redrive_types).where(*_of(redrive_types, part))
    return (await connection.execute(statement.with_for_update(skip_locked=True))).one_or_none()


async def _runs(connection: AsyncConnection, redrive_id: UUID) -> bool:
    state = sa.select(redrives.c.state).where(redrives.c.redrive_id == redrive_id)
    return (await connection.execute(state)).scalar() == RedriveState.RUNNING.value


async def _change(connection: AsyncConnection, part: Part, **values: Any) -> None:
    await connection.execute(sa.update(redrive_types).where(*_of(redrive_types, part)).values(**values))


def _of(table: sa.Table, part: Part) -> list[sa.ColumnElement[bool]]:
    return [table.c.redrive_id == part[0], table.c.job_type == part[1]]


def _open(row: Any) -> int:
    return int(row.redriven - row.succeeded - row.failed - row.cancelled)


def _packed(pace: Pace) -> bytes:
    return packed(asdict(pace))  # orjson writes infinity as null
