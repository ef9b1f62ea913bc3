"""Breakers as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from selfheal.control.v1 import breaker_pb2

from jobkit.cli.output import Cell, coloured, print_details, print_table, time_text

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
    cause = breaker_pb2.TransitionCause.keys()
    known = move.cause in breaker_pb2.TransitionCause.values()
    return (
        str(move.generation),
        time_text(move, "transition_time"),
        coloured(_state_name(move.from_state)),
        coloured(_state_name(move.to_state)),
        cause[move.cause].removeprefix(CAUSE_PREFIX) if known else str(move.cause),
        move.actor,
        move.reason,
        move.error_code,
    )


def _state(breaker: breaker_pb2.Breaker) -> Cell:
    return coloured(_state_name(breaker.state), "(by hand)" if breaker.forced else "")


def _state_name(state: breaker_pb2.BreakerState.ValueType) -> str:
    known = state in breaker_pb2.BreakerState.values()
    return breaker_pb2.BreakerState.Name(state).removeprefix(STATE_PREFIX) if known else f"STATE_{state}"


def _failures(breaker: breaker_pb2.Breaker) -> str:
    return ", ".join(f"{code} {count}" for code, count in sorted(breaker.failures.items()))
