"""Domain values to wire messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2, incident_pb2

from controlplane.breakers import BreakerView
from controlplane.chronicle import Event, Mark
from controlplane.recorder import Forecast
from jobkit.domain.breaker import Cause, Transition
from jobkit.domain.ledger import Entry, Incident
from jobkit.rpc.breakers import proof_to_wire
from jobkit.rpc.convert import to_duration, to_timestamp


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
        transitions=[transition_to_wire(move) for move in record.transitions],
        held_jobs=view.held_jobs,
    )
    if record.opened_at is not None:
        message.open_time.CopyFrom(to_time(record.opened_at))
    if record.open_until is not None:
        message.open_until.CopyFrom(to_time(record.open_until))
    return message


def transition_to_wire(move: Transition) -> breaker_pb2.BreakerTransition:
    message = breaker_pb2.BreakerTransition(
        from_state=breaker_pb2.BreakerState.Value(f"BREAKER_STATE_{move.from_state.value}"),
        to_state=breaker_pb2.BreakerState.Value(f"BREAKER_STATE_{move.to_state.value}"),
        generation=move.generation,
        transition_time=to_time(move.at),
        cause=_cause(move.cause),
        actor=move.actor,
        reason=move.reason,
        error_code=move.error_code,
        scope=move.scope,
    )
    if move.proof is not None:
        message.evidence.CopyFrom(proof_to_wire(move.proof))
    return message


def entry_to_wire(entry: Entry) -> breaker_pb2.BreakerTransition:
    message = transition_to_wire(entry.move)
    message.revision, message.breaker = entry.revision, entry.breaker
    return message


def event_to_wire(event: Event) -> breaker_service_pb2.WatchBreakersResponse:
    if isinstance(event, Mark):
        return breaker_service_pb2.WatchBreakersResponse(revision=event.revision)
    if isinstance(event, Entry):
        return breaker_service_pb2.WatchBreakersResponse(
            revision=event.revision, transition=entry_to_wire(event)
        )
    return breaker_service_pb2.WatchBreakersResponse(breaker=breaker_to_wire(event))


def forecast_to_wire(breaker: str, forecast: Forecast) -> breaker_service_pb2.SimulateBreakerPolicyResponse:
    found, end = forecast.simulated, forecast.end
    message = breaker_service_pb2.SimulateBreakerPolicyResponse(
        attempts=found.attempts,
        attempts_held=found.held,
        attempts_untimed=found.untimed,
        jobs_held=forecast.jobs_held,
        attempts_saved=forecast.attempts_saved,
        open_duration=to_duration(timedelta(milliseconds=found.open_ms(end))),
        falsely_open_duration=to_duration(timedelta(milliseconds=found.false_ms(end))),
        start_time=to_time(forecast.start),
        end_time=to_time(end),
    )
    for move in found.transitions:
        told = message.transitions.add()
        told.CopyFrom(transition_to_wire(move))
        told.breaker = breaker
    if forecast.log_start is not None:
        message.log_start_time.CopyFrom(to_time(forecast.log_start))
    for gap in forecast.gaps:
        message.log_gaps.add(start_time=to_time(gap.start), end_time=to_time(gap.end))
    return message


def incident_to_wire(incident: Incident) -> incident_pb2.Incident:
    message = incident_pb2.Incident(
        incident_id=str(incident.incident_id),
        breaker=incident.breaker,
        open_time=to_time(incident.opened_at),
        cause=_cause(incident.cause),
        actor=incident.actor,
        reason=incident.reason,
        error_code=incident.error_code,
        probes=incident.probes,
        reopened=incident.reopened,
        jobs_held=incident.jobs_held,
        attempts_saved=incident.attempts_saved,
        calls_avoided=incident.calls_avoided,
    )
    for timestamp, millis in (
        (message.close_time, incident.closed_at),
        (message.first_failure_time, incident.first_failure_at),
        (message.good_probe_time, incident.good_probe_at),
    ):
        if millis is not None:
            timestamp.CopyFrom(to_time(millis))
    for duration, length in (
        (message.time_to_detect, incident.time_to_detect),
        (message.time_to_recover, incident.time_to_recover),
    ):
        if length is not None:
            duration.SetInParent()  # a copy of zero alone would leave it unset
            duration.CopyFrom(to_duration(length))
    return message


def _cause(cause: Cause) -> breaker_pb2.TransitionCause.ValueType:
    return breaker_pb2.TransitionCause.Value(f"TRANSITION_CAUSE_{cause.value}")
