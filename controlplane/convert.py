"""Domain values to wire messages."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import breaker_pb2

from controlplane.breakers import BreakerView
from jobkit.domain.breaker import Transition
from jobkit.rpc.convert import to_timestamp


def to_time(millis: int) -> Timestamp:
    """Milliseconds since the epoch."""
    return to_timestamp(datetime.fromtimestamp(millis / 1000, UTC))


def breaker_to_wire(view: BreakerView) -> breaker_pb2.Breaker:
    record = view.record
    message = breaker_pb2.Breaker(
        breaker=record.name,
        state=breaker_pb2.BreakerState.Value(f"BREAKER_STATE_{record.state.value}"),
        generation=record.generation,
        error_code=record.error_code,
        reopened=record.reopened,
        forced=record.forced,
        failures=view.failures,
        transitions=[_transition(move) for move in record.transitions],
        held_jobs=view.held_jobs,
    )
    if record.opened_at is not None:
        message.open_time.CopyFrom(to_time(record.opened_at))
    if record.open_until is not None:
        message.open_until.CopyFrom(to_time(record.open_until))
    return message


def _transition(move: Transition) -> breaker_pb2.BreakerTransition:
    return breaker_pb2.BreakerTransition(
        from_state=breaker_pb2.BreakerState.Value(f"BREAKER_STATE_{move.from_state.value}"),
        to_state=breaker_pb2.BreakerState.Value(f"BREAKER_STATE_{move.to_state.value}"),
        generation=move.generation,
        transition_time=to_time(move.at),
        cause=breaker_pb2.TransitionCause.Value(f"TRANSITION_CAUSE_{move.cause.value}"),
        actor=move.actor,
        reason=move.reason,
        error_code=move.error_code,
    )
