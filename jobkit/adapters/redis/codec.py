"""Records as they lie in Redis, and as people read them there."""

from __future__ import annotations

from typing import Any, TypeVar
from uuid import UUID

import orjson

from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Proof, Seen, Transition

T = TypeVar("T")


def encode(record: BreakerRecord) -> str:
    """JSON of the whole record; `decode` reads it back."""
    return orjson.dumps(record).decode()


def decode(name: str, value: str) -> BreakerRecord | None:
    """The record, or None if this is none: exactly where record.lua says so too, or a breaker could be stuck
    between the two. Past its state and generation every field is optional, for a later release may add some
    and somebody may have edited others: an OPEN one whose end cannot be read is probed at once."""
    try:
        found = orjson.loads(value)
        state = BreakerState(found["state"])
        generation = found["generation"]
    except (ValueError, TypeError, KeyError):
        return None
    if type(generation) not in (int, float) or generation < 0 or generation % 1:
        return None
    until = found.get("open_until")
    return BreakerRecord(
        name=name,
        state=state,
        generation=int(generation),
        opened_at=_whole(found.get("opened_at"), None),
        open_until=None if until is None and "open_until" in found else _whole(until, 0),
        error_code=_text(found.get("error_code")),
        reopened=_whole(found.get("reopened"), 0),
        forced=found.get("forced") is True,
        successes=_whole(found.get("successes"), 0),
        spared=_text(found.get("spared")),
        transitions=_transitions(found.get("transitions")),
    )


def seen(entry: str) -> Seen:
    """One of report.lua's recent outcomes: `ms code job trace source worker`, where the worker's name may hold
    anything. What cannot be read is left out, for somebody may have written there by hand."""
    at, code, job, trace, source, worker = (*entry.split(" ", 5), "", "", "", "", "")[:6]
    try:
        job_id = UUID(job) if job != "-" else None
    except ValueError:
        job_id = None
    return Seen(code, worker, source, job_id, "" if trace == "-" else trace, int(at))


def for_operators(record: BreakerRecord) -> str:
    """What `GET breaker:email` shows: `openedAt` in milliseconds, absent while CLOSED."""
    shown: dict[str, object] = {"state": record.state}
    if record.state is not BreakerState.CLOSED:
        shown |= {
            "openedAt": record.opened_at,
            "openUntil": record.open_until,
            "errorCode": record.error_code,
        }
    return orjson.dumps({key: value for key, value in shown.items() if value not in (None, "")}).decode()


def _transitions(found: Any) -> tuple[Transition, ...]:
    moves = (_transition(move) for move in found if isinstance(move, dict)) if isinstance(found, list) else ()
    return tuple(move for move in moves if move is not None)


def _transition(found: dict[str, Any]) -> Transition | None:
    try:
        return Transition(
            from_state=BreakerState(found["from_state"]),
            to_state=BreakerState(found["to_state"]),
            generation=int(found["generation"]),
            at=int(found["at"]),
            cause=Cause(found["cause"]),
            actor=_text(found.get("actor")),
            reason=_text(found.get("reason")),
            error_code=_text(found.get("error_code")),
            scope=_text(found.get("scope")),
            proof=_proof(found.get("proof")),
            fraction=_fraction(found.get("fraction")),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _proof(found: Any) -> Proof | None:
    if not isinstance(found, dict):
        return None
    try:
        return Proof(
            failures={str(code): int(count) for code, count in found["failures"].items()},
            distinct_jobs={str(code): int(count) for code, count in found["distinct_jobs"].items()},
            sample=int(found["sample"]),
            workers=tuple(str(worker) for worker in found["workers"]),
            jobs=tuple(UUID(job) for job in found["jobs"]),
            traces=tuple(str(trace) for trace in found["traces"]),
            first_failure_at=_whole(found.get("first_failure_at"), None),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _fraction(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value < 1 else None


def _whole(value: Any, default: T) -> int | T:
    return value if type(value) is int else default


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
