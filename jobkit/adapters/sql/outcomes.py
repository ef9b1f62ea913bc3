"""Writing outcomes: a batch of them is one transaction, and each row changes once for each claim."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.holds import mark_now
from jobkit.adapters.sql.hot import Hot, Run
from jobkit.adapters.sql.rows import clean, pack_history
from jobkit.adapters.sql.tables import jobs
from jobkit.adapters.sql.terms import BLOBS, INTEGERS, UUIDS, any_uuid, db_now, nth_like, unindexed
from jobkit.domain.failure import group_of
from jobkit.domain.job import JobError, JobState, QuarantineReason
from jobkit.domain.retry import Cancel, Complete, Decision, Forget, Isolate, Postpone, Release, Retry
from jobkit.ports import Settlement

RUNNING = JobState.RUNNING.value

LOOK = sa.select(
    jobs.c.job_id,
    jobs.c.job_type,
    jobs.c.state,
    jobs.c.deliveries,
    jobs.c.settled_delivery,
    jobs.c.cancel_requested,
    db_now().label("now"),
).where(any_uuid(jobs.c.job_id, sa.bindparam("b_ids", type_=UUIDS)))
# In order of id, as every batch does, so that two of them queue up instead of deadlocking.
LOCK = LOOK.order_by(jobs.c.job_id).with_for_update()
LOCK_FREE = LOOK.order_by(jobs.c.job_id).with_for_update(skip_locked=True)


def whole_millis(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


async def settle_batch(connection: AsyncConnection, batch: Sequence[Settlement]) -> list[bool]:
    locked = await connection.execute(LOCK, {"b_ids": sorted({item.at.job_id for item in batch})})
    found = {row.job_id: row for row in locked}
    answers: list[bool] = []
    done: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    written: set[UUID] = set()
    for item in batch:
        row = found.get(item.at.job_id)
        if row is None or isinstance(item.decision, Forget):
            answers.append(False)
            continue
        fresh = row.state == RUNNING and row.deliveries == item.at.delivery
        answers.append(fresh or row.settled_delivery == item.at.delivery)
        if not fresh or item.at.job_id in written:
            continue
        written.add(item.at.job_id)
        if isinstance(item.decision, Complete):
            done.append(_completed(item))
        else:
            other.append(_changed(item, row))
    if done:
        await connection.execute(_COMPLETE.statement, done)
    if other:
        await connection.execute(_CHANGE, other)
    return answers


async def complete_batch(database: Database, batch: Sequence[Settlement]) -> list[bool]:
    """`settle_batch` of nothing but successes of different jobs, fenced row by row: one statement on PostgreSQL."""
    if database.is_sqlite:
        return await database.steps(lambda run: _complete_ones(run, batch))
    ordered = sorted(batch, key=attrgetter("at.job_id.int"))
    values = {
        "b_ids": [item.at.job_id for item in ordered],
        "b_deliveries": [item.at.delivery for item in ordered],
        "b_results": [item.decision.result for item in ordered if isinstance(item.decision, Complete)],
    }
    rows = await database.rows(_COMPLETE_EACH, values, write=True)
    if len(rows) == len(batch):
        return [True] * len(batch)
    done = {(row[0], row[1]) for row in rows}
    left = sorted({item.at.job_id for item in batch if (item.at.job_id, item.at.delivery) not in done})
    # A repeat after a lost reply, or a claim that is lost.
    settled = await database.rows(_SETTLED, {"b_ids": left}, write=False)
    done.update((row[0], row[1]) for row in settled)
    return [(item.at.job_id, item.at.delivery) in done for item in batch]


def _complete_ones(run: Run, batch: Sequence[Settlement]) -> list[bool]:
    changed = run.changed(_COMPLETE, [_completed(item) for item in batch])
    if all(changed):
        return [True] * len(batch)
    left = [item.at.job_id for item, done in zip(batch, changed, strict=True) if not done]
    settled = {(row[0], row[1]) for row in run.rows(_SETTLED, {"b_ids": left})}  # a repeat, as above
    return [
        bool(done) or (item.at.job_id, item.at.delivery) in settled
        for item, done in zip(batch, changed, strict=True)
    ]


_ENDED: dict[str, Any] = {
    "claim_id": None,
    "lease_until": None,
    "alone": False,
    "settled_delivery": jobs.c.deliveries,
}
_NO_LOSSES: dict[str, Any] = {"losses": 0, "losses_alone": 0}
_COMPLETED: dict[str, Any] = {
    "state": JobState.SUCCEEDED.value,
    "attempts": jobs.c.attempts + 1,
    **_NO_LOSSES,
    **_ENDED,
}
_ids = sa.bindparam("b_ids", type_=UUIDS)
# `= ANY` locks in the order of an index, and a row's place in the lists is found in the lists: a join of the table
# with them takes three to six times as long, and where the planner knows nothing of the table yet, fifty times.
_COMPLETE_EACH = Hot(
    sa.update(jobs)
    .where(
        any_uuid(jobs.c.job_id, _ids),
        jobs.c.deliveries == nth_like(sa.bindparam("b_deliveries", type_=INTEGERS), _ids, jobs.c.job_id),
        unindexed(jobs.c.state) == RUNNING,
    )
    .values(
        result=nth_like(sa.bindparam("b_results", type_=BLOBS), _ids, jobs.c.job_id),
        finished_at=db_now(),
        updated_at=db_now(),
        **_COMPLETED,
    )
    .returning(jobs.c.job_id, jobs.c.deliveries)
)
_COMPLETE = Hot(
    sa.update(jobs)
    .where(
        jobs.c.job_id == sa.bindparam("b_id", type_=sa.Uuid),
        jobs.c.deliveries == sa.bindparam("b_delivery", type_=sa.Integer),
        unindexed(jobs.c.state) == RUNNING,
    )
    .values(
        result=sa.bindparam("b_result", type_=sa.LargeBinary),
        finished_at=db_now(),
        updated_at=db_now(),
        **_COMPLETED,
    )
)
_SETTLED = Hot(sa.select(jobs.c.job_id, jobs.c.settled_delivery).where(any_uuid(jobs.c.job_id, _ids)))
_CHANGE = (
    sa.update(jobs)
    .where(jobs.c.job_id == sa.bindparam("b_id"))
    .values(
        state=sa.bindparam("b_state"),
        attempts=jobs.c.attempts + sa.bindparam("b_counted", type_=sa.Integer),
        due_at=sa.func.coalesce(sa.bindparam("b_due", type_=sa.BigInteger), jobs.c.due_at),
        session_id=sa.bindparam("b_session", type_=sa.Uuid),
        error_code=sa.func.coalesce(sa.bindparam("b_code", type_=sa.String), jobs.c.error_code),
        error_message=sa.func.coalesce(sa.bindparam("b_message", type_=sa.Text), jobs.c.error_message),
        error_retryable=sa.func.coalesce(
            sa.bindparam("b_retryable", type_=sa.Boolean), jobs.c.error_retryable
        ),
        history=sa.bindparam("b_history", type_=sa.LargeBinary),
        # A run that was put off leaves the row of losses as it is; any other end breaks it.
        losses=sa.case((sa.bindparam("b_put_off", type_=sa.Boolean), jobs.c.losses), else_=0),
        losses_alone=sa.case((sa.bindparam("b_put_off", type_=sa.Boolean), jobs.c.losses_alone), else_=0),
        # A hold that came and went while the job ran did not hold it.
        hold_mark=mark_now,
        quarantine_reason=sa.bindparam("b_reason", type_=sa.String),
        quarantined_at=sa.bindparam("b_quarantined", type_=sa.BigInteger),
        failure_group=sa.bindparam("b_group", type_=sa.BigInteger),
        finished_at=sa.bindparam("b_finished", type_=sa.BigInteger),
        updated_at=sa.bindparam("b_now", type_=sa.BigInteger),
        **_ENDED,
    )
)


def _completed(item: Settlement) -> dict[str, Any]:
    result = item.decision.result if isinstance(item.decision, Complete) else None
    return {"b_id": item.at.job_id, "b_delivery": item.at.delivery, "b_result": result}


def _changed(item: Settlement, row: Any) -> dict[str, Any]:
    """The parameters of `_CHANGE`. A cancellation that was asked for wins over everything but success."""
    decision = Cancel() if row.cancel_requested else item.decision
    values: dict[str, Any] = {
        "b_id": item.at.job_id,
        "b_now": row.now,
        "b_counted": 0,
        "b_put_off": isinstance(decision, Postpone),
        "b_due": None,
        "b_session": item.session if isinstance(decision, Retry | Postpone | Release) else None,
        "b_history": pack_history(item.history),
        "b_code": None,
        "b_message": None,
        "b_retryable": None,
        "b_reason": None,
        "b_quarantined": None,
        "b_group": _group(decision, row.job_type),
        "b_finished": None,
    }
    return values | _ending(decision, row.now)


def _group(decision: Decision, job_type: str) -> int | None:
    if not isinstance(decision, Isolate):
        return None
    return group_of(job_type, decision.error.code, clean(decision.error.message))


def _ending(decision: Decision, now: int) -> dict[str, Any]:
    """What a decision changes."""
    match decision:
        case Retry(delay, error, counted):
            due = now + whole_millis(delay)
            state = JobState.RETRYING.value
            return {"b_state": state, "b_due": due, "b_counted": int(counted)} | _failed(error)
        case Postpone(delay):
            return {"b_state": JobState.RETRYING.value, "b_due": now + whole_millis(delay)}
        case Isolate(reason, error):
            return {
                "b_state": JobState.QUARANTINED.value,
                "b_counted": 0 if reason is QuarantineReason.POISON else 1,
                "b_reason": reason.value,
                "b_quarantined": now,
            } | _failed(error)
        case Release():
            return {"b_state": JobState.QUEUED.value}
        case Cancel():
            return {"b_state": JobState.CANCELLED.value, "b_finished": now}
    raise AssertionError(decision)


def _failed(error: JobError | None) -> dict[str, Any]:
    if error is None:
        return {}
    return {"b_code": error.code, "b_message": clean(error.message), "b_retryable": error.retryable}
