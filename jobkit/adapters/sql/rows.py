"""Rows to domain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from jobkit.adapters.sql.engine import packed
from jobkit.adapters.sql.tables import job_types, jobs
from jobkit.adapters.sql.terms import db_start
from jobkit.domain.job import (
    HISTORY_LIMIT,
    Attempt,
    ClaimedJob,
    Job,
    JobError,
    JobState,
    Quarantine,
    QuarantineReason,
    Token,
    TraceContext,
)

CLAIM_COLUMNS: Sequence[sa.Column[Any]] = (
    jobs.c.job_id,
    jobs.c.job_type,
    jobs.c.payload,
    jobs.c.deliveries,
    jobs.c.attempts,
    jobs.c.attempts_base,
    jobs.c.losses,
    jobs.c.losses_alone,
    jobs.c.max_attempts,
    jobs.c.attempt_timeout_ms,
    jobs.c.labels,
    jobs.c.started_at,
    jobs.c.due_at,
    jobs.c.created_at,
    jobs.c.history,
    jobs.c.traceparent,
    jobs.c.tracestate,
    jobs.c.baggage,
)
TOKEN_COLUMNS: Sequence[sa.Column[Any]] = (
    jobs.c.job_id,
    jobs.c.job_type,
    jobs.c.attempts,
    jobs.c.traceparent,
    jobs.c.tracestate,
    jobs.c.baggage,
)


@dataclass(frozen=True, slots=True)
class Hold:
    """A type's hold as a reader needs it; `number` also when not held. A pause comes before an open breaker: it is
    the one that does not end when the dependency heals."""

    number: int
    held: bool
    since: int | None = None
    until: int | None = None
    breaker: str = ""
    reason: QuarantineReason = QuarantineReason.BREAKER_OPEN


def time(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)


def millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


# Ids carry the acceptor's clock, `created_at` the database's: how far apart the two may be.
CLOCK_SLACK_MS = 10 * 60 * 1000


def lowest_id(at: int) -> UUID:
    """The smallest UUIDv7 of a millisecond."""
    return UUID(int=(max(at, 0) << 80) | (0x7 << 76) | (0x2 << 62))


def _maybe(value: int | None) -> datetime | None:
    return None if value is None else time(value)


def trace_of(row: Any) -> TraceContext:
    return TraceContext(row.traceparent or "", row.tracestate or "", row.baggage or "")


def token_of(row: Any) -> Token:
    return Token(row.job_id, row.job_type, row.attempts + 1, trace_of(row))


def clean(text: str) -> str:
    """What every database and JSON can hold: no NUL, no half of a surrogate pair."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def pack_history(history: Sequence[Attempt]) -> bytes | None:
    """The newest `HISTORY_LIMIT`; None when empty."""
    if not history:
        return None
    return packed(
        [
            {
                "d": a.delivery,
                "w": a.worker_id,
                "s": millis(a.start_time),
                "f": millis(a.finish_time) if a.finish_time else None,
                "c": a.error.code if a.error else None,
                "m": clean(a.error.message) if a.error else None,
                "r": a.error.retryable if a.error else None,
            }
            for a in history[-HISTORY_LIMIT:]
        ]
    )


def unpack_history(packed: bytes | None) -> tuple[Attempt, ...]:
    if not packed:
        return ()
    return tuple(
        Attempt(
            a["d"],
            a["w"],
            time(a["s"]),
            _maybe(a["f"]),
            JobError(a["c"], a["m"], a["r"]) if a["c"] is not None else None,
        )
        for a in orjson.loads(packed)
    )


def labels_of(packed: bytes | None) -> dict[str, str]:
    return orjson.loads(packed) if packed else {}


def claimed_of(row: Sequence[Any]) -> ClaimedJob:
    """From a row of `CLAIM_COLUMNS`. All by position: a batch of claims is what a worker reads most of, and sixteen
    keywords cost as much as all else."""
    (
        job_id, job_type, payload, deliveries, attempts, attempts_base, losses, losses_alone, max_attempts, timeout,
        labels, started_at, due_at, created_at, history, traceparent, tracestate, baggage,
    ) = row  # fmt: skip
    return ClaimedJob(
        job_id, job_type, payload, deliveries, attempts, attempts_base, losses, losses_alone, max_attempts,
        None if timeout is None else timedelta(milliseconds=timeout),
        labels_of(labels), time(started_at), time(due_at), time(created_at), unpack_history(history),
        TraceContext(traceparent or "", tracestate or "", baggage or ""),
    )  # fmt: skip


def is_held(state: JobState, due_at: int, hold: Hold | None, now: int) -> bool:
    """PENDING, QUEUED, or RETRYING with its time come, while the type is held."""
    if hold is None or not hold.held or not state.waiting:
        return False
    return state is not JobState.RETRYING or due_at <= now


def job_of(row: Any, holds: Mapping[str, Hold], now: int) -> Job:
    """A full row as a reader sees it, with its type's hold applied."""
    state = JobState(row.state)
    hold = holds.get(row.job_type)
    held = is_held(state, row.due_at, hold, now)
    quarantine = None
    if held and hold is not None:
        since = max(hold.since or 0, row.due_at)
        named = hold.breaker or row.job_type
        breaker = named if hold.reason is QuarantineReason.BREAKER_OPEN else ""
        quarantine = Quarantine(hold.reason, time(since), breaker, _maybe(hold.until))
    elif state is JobState.QUARANTINED:
        quarantine = Quarantine(QuarantineReason(row.quarantine_reason), time(row.quarantined_at))
    waits_since = hold.number - row.hold_mark if hold and state.waiting else 0
    return Job(
        job_id=row.job_id,
        job_type=row.job_type,
        state=JobState.QUARANTINED if held else state,
        payload=row.payload,
        create_time=time(row.created_at),
        update_time=time(row.updated_at),
        due_time=time(row.due_at),
        request_id=row.request_id or "",
        labels=labels_of(row.labels),
        attempts=row.attempts,
        deliveries=row.deliveries,
        holds=row.holds + max(waits_since, 0),
        max_attempts=row.max_attempts,
        progress=None if row.progress_total is None else (row.progress_processed, row.progress_total),
        result=row.result,
        last_error=_error_of(row),
        quarantine=quarantine,
        start_time=_maybe(row.started_at),
        finish_time=_maybe(row.finished_at),
        history=_history_of(row, state),
        trace=trace_of(row),
    )


def _error_of(row: Any) -> JobError | None:
    if row.error_code is None:
        return None
    return JobError(row.error_code, row.error_message or "", bool(row.error_retryable))


def _history_of(row: Any, state: JobState) -> tuple[Attempt, ...]:
    """The stored failures, and the run that the row itself tells of."""
    history = unpack_history(row.history)
    if state is JobState.RUNNING:
        return (*history, Attempt(row.deliveries, row.worker_id, time(row.started_at)))
    if state is JobState.SUCCEEDED:
        return (
            *history,
            Attempt(row.deliveries, row.worker_id, time(row.started_at), _maybe(row.finished_at)),
        )
    return history


def hold_of(row: Any) -> Hold:
    if row.pause_since is not None:
        return Hold(row.hold_number, True, row.pause_since, row.pause_until, reason=QuarantineReason.PAUSED)
    return Hold(
        row.hold_number, row.held_reason is not None, row.held_since, row.held_until, row.held_breaker or ""
    )


# Whether an operator's pause of the type stands; it ends by itself.
PAUSED = sa.and_(
    job_types.c.paused_since.is_not(None),
    sa.or_(job_types.c.paused_until.is_(None), job_types.c.paused_until > db_start()),
)
HOLD_COLUMNS = (
    sa.case((PAUSED, job_types.c.paused_since)).label("pause_since"),
    sa.case((PAUSED, job_types.c.paused_until)).label("pause_until"),
    job_types.c.job_type,
    job_types.c.hold_number,
    job_types.c.held_reason,
    job_types.c.held_since,
    job_types.c.held_until,
    job_types.c.held_breaker,
)
