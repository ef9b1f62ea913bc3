"""What moves a breaker, decided once for the fleet, for the embedded default and for a worker without Redis.

    CLOSED ──decide_evidence, decide_open_until──▶ OPEN ──decide_probe_time──▶ HALF_OPEN
      ▲                                             ▲                            │   │
      │                                             └─── decide_probe: failed ───┘   │
      └─────────────────────── decide_probe: enough successes ───────────────────────┘
    by hand: open_by_hand, close_by_hand, reset, from any state

Each decider returns the record to swap in against the generation it was made from, or None when nothing
follows. `now` is milliseconds of the store's clock, `fraction` is uniform in [0, 1).
"""

from __future__ import annotations

from dataclasses import replace

from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Cause
from jobkit.domain.evidence import decide_alone, decide_evidence
from jobkit.domain.moving import Why, closed, cooldown, heeds_evidence, moved, next_generation, tripped

__all__ = [
    "ANONYMOUS",
    "close_by_hand",
    "cooldown",
    "decide_alone",
    "decide_evidence",
    "decide_open_until",
    "decide_probe",
    "decide_probe_time",
    "heeds_evidence",
    "next_generation",
    "open_by_hand",
    "reset",
]

ANONYMOUS = "anonymous"


def decide_open_until(
    record: BreakerRecord, until: int, code: str, now: int, generation: int | None = None
) -> BreakerRecord | None:
    """CLOSED or HALF_OPEN -> OPEN until exactly `until`, because a handler was told when to come back. Pass
    the `generation` under which the attempt began: an answer to an earlier one changes nothing."""
    if generation is not None and generation != record.generation:
        return None
    if until <= now or record.state is BreakerState.OPEN or not heeds_evidence(record, now):
        return None
    opened = replace(record, opened_at=now, open_until=until, error_code=code, successes=0, forced=False)
    return moved(opened, BreakerState.OPEN, now, Why(Cause.EVIDENCE, "", "asked to come back later", code))


def decide_probe_time(record: BreakerRecord, now: int) -> BreakerRecord | None:
    """OPEN -> HALF_OPEN once the open time is over; never when an operator opened it for good."""
    if record.state is not BreakerState.OPEN or record.open_until is None or now < record.open_until:
        return None
    return moved(replace(record, successes=0, forced=False), BreakerState.HALF_OPEN, now, Why(Cause.TIMER))


def decide_probe(
    record: BreakerRecord,
    policy: BreakerPolicy,
    generation: int,
    succeeded: bool,
    error_code: str,
    now: int,
    fraction: float,
) -> BreakerRecord | None:
    """HALF_OPEN -> CLOSED after enough successes, -> OPEN on a failure with a counted code.

    A success below the threshold returns the record with one success more and the *same* generation, so that
    the other probes of this HALF_OPEN stay valid; the store swaps within a generation only if the successes
    grow, so two probes that finish at once cannot hide each other. Answers to another generation: None.
    """
    if record.state is not BreakerState.HALF_OPEN or record.generation != generation:
        return None
    if not succeeded:
        worse = replace(record, reopened=record.reopened + 1)
        reason = f"a probe failed with {error_code}"
        return tripped(worse, policy, now, fraction, Why(Cause.EVIDENCE, "", reason, error_code))
    if record.successes + 1 < policy.success_threshold:
        return replace(record, successes=record.successes + 1)
    return closed(record, now, Why(Cause.EVIDENCE, "", "a probe succeeded"))


def open_by_hand(
    record: BreakerRecord, now: int, until: int | None, actor: str, reason: str
) -> BreakerRecord:
    """Any state -> OPEN until `until`, then probed as usual; None: until somebody closes or resets it."""
    opened = replace(
        record, opened_at=now, open_until=until, error_code="", reopened=0, successes=0, forced=True
    )
    return moved(opened, BreakerState.OPEN, now, _operator(actor, reason))


def close_by_hand(
    record: BreakerRecord, now: int, until: int | None, actor: str, reason: str
) -> BreakerRecord:
    """Any state -> CLOSED, whatever the evidence says, until `until`; None: until somebody resets it."""
    return replace(closed(record, now, _operator(actor, reason)), open_until=until, forced=True)


def reset(record: BreakerRecord, now: int, actor: str, reason: str) -> BreakerRecord:
    """Any state -> CLOSED with nothing remembered, and evidence counting from here on."""
    return closed(record, now, _operator(actor, reason))


def _operator(actor: str, reason: str) -> Why:
    return Why(Cause.OPERATOR, actor or ANONYMOUS, reason)
