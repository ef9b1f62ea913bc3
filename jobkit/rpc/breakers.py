"""Breaker records on the control stream: what a worker reports, what it is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import breaker_pb2
from selfheal.control.v1 import control_stream_pb2 as wire

from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Proof, Transition
from jobkit.rpc.convert import from_timestamp, to_duration, to_timestamp

STATE, CAUSE = "BREAKER_STATE_", "TRANSITION_CAUSE_"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def report_to_wire(sequence: int, record: BreakerRecord) -> wire.BreakerReport:
    """A record as it is after a move, with its transitions."""
    breaker = breaker_pb2.Breaker(
        breaker=record.name,
        state=_state(record.state),
        generation=record.generation,
        error_code=record.error_code,
        reopened=record.reopened,
        forced=record.forced,
        transitions=[_transition_to_wire(move) for move in record.transitions],
    )
    if record.opened_at is not None:
        breaker.open_time.CopyFrom(_time(record.opened_at))
    if record.open_until is not None:
        breaker.open_until.CopyFrom(_time(record.open_until))
    return wire.BreakerReport(sequence=sequence, breaker=breaker)


def report_from_wire(report: wire.BreakerReport) -> BreakerRecord:
    """The record that was reported. Raises ValueError for one that cannot be, and KeyError for names of states and
    causes that this release does not know."""
    told = report.breaker
    if not told.breaker or told.generation < 1:
        raise ValueError("a report names a breaker and its generation")
    return BreakerRecord(
        name=told.breaker,
        state=_state_of(told.state),
        generation=told.generation,
        opened_at=_millis(told.open_time) if told.HasField("open_time") else None,
        open_until=_millis(told.open_until) if told.HasField("open_until") else None,
        error_code=told.error_code,
        reopened=told.reopened,
        forced=told.forced,
        transitions=tuple(_transition_of(move) for move in told.transitions),
    )


def snapshot_to_wire(record: BreakerRecord, now: int) -> wire.BreakerSnapshot:
    """A record with the time that remains from `now` (store milliseconds) on."""
    snapshot = wire.BreakerSnapshot(
        breaker=record.name,
        state=_state(record.state),
        generation=record.generation,
        error_code=record.error_code,
        forced=record.forced,
    )
    if record.state.holds and record.open_until is not None:
        snapshot.remaining.CopyFrom(to_duration(max(record.open_until - now, 0) * MILLISECOND))
    return snapshot


def snapshot_from_wire(snapshot: wire.BreakerSnapshot, now: int) -> BreakerRecord:
    """As `snapshot_to_wire`, at `now` by the receiver's clock. Raises ValueError for what cannot be."""
    state = _state_of(snapshot.state)
    if not snapshot.breaker or snapshot.generation < 0:
        raise ValueError("a breaker has a name and a generation")
    until = None
    if snapshot.HasField("remaining"):
        until = now + snapshot.remaining.ToTimedelta() // MILLISECOND
    return BreakerRecord(
        name=snapshot.breaker,
        state=state,
        generation=snapshot.generation,
        opened_at=now if state.holds else None,
        open_until=until,
        error_code=snapshot.error_code,
        forced=snapshot.forced,
    )


def _transition_to_wire(move: Transition) -> breaker_pb2.BreakerTransition:
    return breaker_pb2.BreakerTransition(
        from_state=_state(move.from_state),
        to_state=_state(move.to_state),
        generation=move.generation,
        transition_time=_time(move.at),
        cause=breaker_pb2.TransitionCause.Value(f"{CAUSE}{move.cause.value}"),
        actor=move.actor,
        reason=move.reason,
        error_code=move.error_code,
        scope=move.scope,
        evidence=None if move.proof is None else proof_to_wire(move.proof),
    )


def _transition_of(told: breaker_pb2.BreakerTransition) -> Transition:
    return Transition(
        from_state=_state_of(told.from_state),
        to_state=_state_of(told.to_state),
        generation=told.generation,
        at=_millis(told.transition_time),
        cause=Cause(breaker_pb2.TransitionCause.Name(told.cause).removeprefix(CAUSE)),
        actor=told.actor,
        reason=told.reason,
        error_code=told.error_code,
        scope=told.scope,
        proof=_proof_of(told.evidence) if told.HasField("evidence") else None,
    )


def proof_to_wire(proof: Proof) -> breaker_pb2.BreakerEvidence:
    """What had been seen."""
    message = breaker_pb2.BreakerEvidence(
        failures=proof.failures,
        distinct_jobs=proof.distinct_jobs,
        sample_size=proof.sample,
        workers=proof.workers,
        job_ids=[str(job) for job in proof.jobs],
        trace_ids=proof.traces,
    )
    if proof.first_failure_at is not None:
        message.first_failure_time.CopyFrom(_time(proof.first_failure_at))
    return message


def _proof_of(told: breaker_pb2.BreakerEvidence) -> Proof:
    return Proof(
        failures=dict(told.failures),
        distinct_jobs=dict(told.distinct_jobs),
        sample=told.sample_size,
        workers=tuple(told.workers),
        jobs=tuple(UUID(job) for job in told.job_ids),
        traces=tuple(told.trace_ids),
        first_failure_at=_millis(told.first_failure_time) if told.HasField("first_failure_time") else None,
    )


def _state(state: BreakerState) -> breaker_pb2.BreakerState.ValueType:
    return breaker_pb2.BreakerState.Value(f"{STATE}{state.value}")


def _state_of(state: breaker_pb2.BreakerState.ValueType) -> BreakerState:
    return BreakerState(breaker_pb2.BreakerState.Name(state).removeprefix(STATE))


def _time(millis: int) -> Timestamp:
    return to_timestamp(EPOCH + millis * MILLISECOND)


def _millis(time: Timestamp) -> int:
    return (from_timestamp(time) - EPOCH) // MILLISECOND
