"""Records as they lie in Redis, and as people read them there."""

from __future__ import annotations

from typing import Any, TypeVar

import orjson

from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Transition

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
        transitions=_transitions(found.get("transitions")),
    )


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
        )
    except (ValueError, TypeError, KeyError):
        return None


def _whole(value: Any, default: T) -> int | T:
    return value if type(value) is int else default


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
