"""Ledger rows to domain values and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from jobkit.adapters.sql.engine import packed
from jobkit.adapters.sql.rows import clean
from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Proof, Transition
from jobkit.domain.ledger import Entry, Incident


def row_of(record: BreakerRecord, move: Transition, revision: int) -> dict[str, Any]:
    """A move as a row. What it led to is known of the record's newest move only; of the others nobody asks, since
    the newest is written in the same transaction."""
    newest = move is record.transitions[-1] and move.generation == record.generation
    return {
        "revision": revision,
        "breaker": record.name,
        "generation": move.generation,
        "from_state": move.from_state.value,
        "to_state": move.to_state.value,
        "at": move.at,
        "cause": move.cause.value,
        "actor": clean(move.actor),
        "reason": clean(move.reason),
        "error_code": clean(move.error_code),
        "scope": move.scope,
        "proof": None if move.proof is None else _pack(move.proof),
        "open_until": record.open_until if newest else None,
        "forced": newest and record.forced,
        "reopened": record.reopened if newest else 0,
    }


def transition_of(row: Any) -> Transition:
    return Transition(
        from_state=BreakerState(row.from_state),
        to_state=BreakerState(row.to_state),
        generation=row.generation,
        at=row.at,
        cause=Cause(row.cause),
        actor=row.actor,
        reason=row.reason,
        error_code=row.error_code,
        scope=row.scope,
        proof=_unpack(row.proof),
    )


def entry_of(row: Any) -> Entry:
    return Entry(row.revision, row.breaker, transition_of(row))


def rebuilt(name: str, rows: Sequence[Any]) -> BreakerRecord:
    """A record to go on from, of a breaker's newest fleet rows, oldest first. Good probes of a HALF_OPEN that had not
    closed it yet are not remembered."""
    moves = tuple(transition_of(row) for row in rows)
    newest, last = rows[-1], moves[-1]
    held = last.to_state.holds
    opened = next((move for move in reversed(moves) if move.to_state is BreakerState.OPEN), last)
    return BreakerRecord(
        name=name,
        state=last.to_state,
        generation=last.generation,
        opened_at=opened.at if held else None,
        open_until=newest.open_until,
        error_code=opened.error_code if held else "",
        reopened=newest.reopened,
        forced=newest.forced,
        transitions=moves,
    )


def incident_of(row: Any) -> Incident:
    return Incident(
        incident_id=row.incident_id,
        breaker=row.breaker,
        opened_at=row.opened_at,
        cause=Cause(row.cause),
        actor=row.actor,
        reason=row.reason,
        error_code=row.error_code,
        first_failure_at=row.first_failure_at,
        closed_at=row.closed_at,
        close_revision=row.close_revision,
        close_cause=None if row.close_cause is None else Cause(row.close_cause),
        probes=row.probes,
        reopened=row.reopened,
        jobs_held=row.jobs_held,
        attempts_saved=row.attempts_saved,
    )


def _pack(proof: Proof) -> bytes:
    return packed(
        {
            "failures": dict(proof.failures),
            "distinct_jobs": dict(proof.distinct_jobs),
            "sample": proof.sample,
            "workers": proof.workers,
            "jobs": [str(job) for job in proof.jobs],
            "traces": proof.traces,
            "first_failure_at": proof.first_failure_at,
        }
    )


def _unpack(value: bytes | None) -> Proof | None:
    if value is None:
        return None
    found = orjson.loads(value)
    return Proof(
        failures=found["failures"],
        distinct_jobs=found["distinct_jobs"],
        sample=found["sample"],
        workers=tuple(found["workers"]),
        jobs=tuple(UUID(job) for job in found["jobs"]),
        traces=tuple(found["traces"]),
        first_failure_at=found["first_failure_at"],
    )
