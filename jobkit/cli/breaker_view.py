"""Breakers as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from selfheal.control.v1 import breaker_pb2, breaker_service_pb2, incident_pb2

from jobkit.cli.output import Cell, coloured, print_details, print_line, print_table, time_text
from jobkit.rpc.convert import from_duration

STATE_PREFIX = "BREAKER_STATE_"
CAUSE_PREFIX = "TRANSITION_CAUSE_"


def print_breakers(breakers: Iterable[breaker_pb2.Breaker]) -> None:
    headings = ("BREAKER", "STATE", "OPENED", "OPEN UNTIL", "ERROR CODE", "HELD JOBS", "FAILURES")
    print_table(headings, map(_row, breakers))


def print_breaker(breaker: breaker_pb2.Breaker) -> None:
    print_details(_details(breaker))
    if breaker.transitions:
        headings = ("GENERATION", "TIME", "FROM", "TO", "CAUSE", "ACTOR", "REASON", "ERROR CODE")
        print_table(headings, map(_transition, breaker.transitions))


def print_transitions(moves: Iterable[breaker_pb2.BreakerTransition]) -> None:
    headings = (
        "REVISION",
        "BREAKER",
        "TIME",
        "FROM",
        "TO",
        "CAUSE",
        "ACTOR",
        "REASON",
        "ERROR CODE",
        "WORKER",
    )
    print_table(headings, ((str(m.revision), m.breaker, *_transition(m)[1:], m.scope) for m in moves))


def print_incidents(incidents: Iterable[incident_pb2.Incident]) -> None:
    headings = (
        "ID",
        "BREAKER",
        "OPENED",
        "CLOSED",
        "ERROR CODE",
        "REASON",
        "HELD",
        "SAVED",
        "DETECTED",
        "RECOVERED",
    )
    print_table(headings, map(_incident, incidents))


def print_incident(incident: incident_pb2.Incident, moves: Iterable[breaker_pb2.BreakerTransition]) -> None:
    print_details(_incident_details(incident))
    print_transitions(moves)


def print_event(message: breaker_service_pb2.WatchBreakersResponse) -> None:
    """A line; nothing for a mark."""
    if message.HasField("breaker"):
        print_line((message.breaker.breaker, _state(message.breaker), message.breaker.error_code))
    elif message.HasField("transition"):
        move = message.transition
        _, at, before, after, cause, *why = _transition(move)
        print_line(
            (at, move.breaker, before, "->", after, cause, *why, move.scope, f"(revision {move.revision})")
        )


def _incident(incident: incident_pb2.Incident) -> tuple[Cell, ...]:
    return (
        incident.incident_id,
        incident.breaker,
        time_text(incident, "open_time"),
        time_text(incident, "close_time"),
        incident.error_code,
        incident.reason,
        str(incident.jobs_held),
        str(incident.attempts_saved),
        _length(incident, "time_to_detect"),
        _length(incident, "time_to_recover"),
    )


def _incident_details(incident: incident_pb2.Incident) -> Iterable[tuple[str, Cell]]:
    yield "incident", incident.incident_id
    yield "breaker", incident.breaker
    yield "first failure", time_text(incident, "first_failure_time")
    yield "opened", time_text(incident, "open_time")
    yield "closed", time_text(incident, "close_time") or "not yet"
    yield "cause", _cause(incident.cause)
    yield "actor", incident.actor
    yield "reason", incident.reason
    yield "error code", incident.error_code
    yield "time to detect", _length(incident, "time_to_detect")
    yield "time to recover", _length(incident, "time_to_recover")
    yield "probes", str(incident.probes)
    yield "reopened", str(incident.reopened)
    yield "jobs held", str(incident.jobs_held)
    yield "attempts saved", str(incident.attempts_saved)
    yield "calls avoided", str(incident.calls_avoided)


def _length(incident: incident_pb2.Incident, field: str) -> str:
    """Seconds to a tenth; "" where it is absent."""
    if not incident.HasField(field):  # type: ignore[arg-type]  # a literal to the stubs
        return ""
    return f"{from_duration(getattr(incident, field)).total_seconds():.1f} s"


def _row(breaker: breaker_pb2.Breaker) -> tuple[Cell, ...]:
    return (
        breaker.breaker,
        _state(breaker),
        time_text(breaker, "open_time"),
        time_text(breaker, "open_until"),
        breaker.error_code,
        str(breaker.held_jobs),
        _failures(breaker),
    )


def _details(breaker: breaker_pb2.Breaker) -> Iterable[tuple[str, Cell]]:
    yield "breaker", breaker.breaker
    yield "state", _state(breaker)
    yield "generation", str(breaker.generation)
    yield "opened", time_text(breaker, "open_time")
    yield "open until", time_text(breaker, "open_until")
    yield "error code", breaker.error_code
    yield "reopened", str(breaker.reopened) if breaker.reopened else ""
    yield "failures", _failures(breaker)
    yield "held jobs", str(breaker.held_jobs)


def _transition(move: breaker_pb2.BreakerTransition) -> tuple[Cell, ...]:
    return (
        str(move.generation),
        time_text(move, "transition_time"),
        coloured(_state_name(move.from_state)),
        coloured(_state_name(move.to_state)),
        _cause(move.cause),
        move.actor,
        move.reason,
        move.error_code,
    )


def _state(breaker: breaker_pb2.Breaker) -> Cell:
    return coloured(_state_name(breaker.state), "(by hand)" if breaker.forced else "")


def _state_name(state: breaker_pb2.BreakerState.ValueType) -> str:
    known = state in breaker_pb2.BreakerState.values()
    return breaker_pb2.BreakerState.Name(state).removeprefix(STATE_PREFIX) if known else f"STATE_{state}"


def _cause(cause: breaker_pb2.TransitionCause.ValueType) -> str:
    known = cause in breaker_pb2.TransitionCause.values()
    return breaker_pb2.TransitionCause.Name(cause).removeprefix(CAUSE_PREFIX) if known else str(cause)


def _failures(breaker: breaker_pb2.Breaker) -> str:
    return ", ".join(f"{code} {count}" for code, count in sorted(breaker.failures.items()))
