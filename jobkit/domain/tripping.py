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

from dataclasses import dataclass, replace

from jobkit.domain.breaker import (
    TRANSITIONS_KEPT,
    BreakerPolicy,
    BreakerRecord,
    BreakerState,
    Cause,
    Transition,
    Wait,
    Window,
)

ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class _Why:
    cause: Cause
    actor: str = ""
    reason: str = ""
    error_code: str = ""


def next_generation(last: int, now: int) -> int:
    """Larger than every generation before it, also when a wiped store has forgotten what those were."""
    return max(last + 1, now)


def cooldown(policy: BreakerPolicy, reopened: int, fraction: float) -> int:
    """How long to stay open: doubled by each reopening, capped, then jittered by ± `policy.jitter` so that
    the breakers of one failed dependency do not all probe it at once."""
    plain = min(policy.cooldown << min(reopened, 30), policy.max_cooldown)
    return max(round(plain * (1 + policy.jitter * (2 * fraction - 1))), 1)


def heeds_evidence(record: BreakerRecord, now: int) -> bool:
    """False while an operator's word stands: a breaker forced CLOSED, until its time is over."""
    if not record.forced or record.state is not BreakerState.CLOSED:
        return True
    return record.open_until is not None and now >= record.open_until


def decide_evidence(policy: BreakerPolicy, window: Window, fraction: float) -> BreakerRecord | Wait | None:
    """CLOSED -> OPEN when one code was seen on enough distinct jobs, and either failed every one of the last
    attempts or is a large enough share of the most recent ones. A share can be an illusion while other
    workers hold successes back, hence the wait; a streak is taken at its word."""
    record, now = window.record, window.now
    if record.state is not BreakerState.CLOSED or not heeds_evidence(record, now):
        return None
    suspects = [code for code, jobs in window.distinct_jobs.items() if jobs >= policy.jobs_needed]
    streak = window.recent[: policy.streak_needed]
    sample = window.recent[: policy.failure_sample]
    for code in suspects:
        if len(streak) == policy.streak_needed and streak.count(code) == len(streak):
            reason = f"the last {len(streak)} attempts failed with {code}"
            return _tripped(record, policy, now, fraction, _Why(Cause.EVIDENCE, "", reason, code))
    code = max(suspects, key=lambda suspect: (sample.count(suspect), suspect), default="")
    if not code or not sample or sample.count(code) < policy.failure_rate * len(sample):
        return None
    since = now if window.first_failure_at is None else window.first_failure_at
    if now - since < policy.flush_interval:
        return Wait(policy.flush_interval - (now - since))
    reason = f"{sample.count(code)} of the last {len(sample)} attempts failed with {code}"
    return _tripped(record, policy, now, fraction, _Why(Cause.EVIDENCE, "", reason, code))


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
    return _moved(opened, BreakerState.OPEN, now, _Why(Cause.EVIDENCE, "", "asked to come back later", code))


def decide_probe_time(record: BreakerRecord, now: int) -> BreakerRecord | None:
    """OPEN -> HALF_OPEN once the open time is over; never when an operator opened it for good."""
    if record.state is not BreakerState.OPEN or record.open_until is None or now < record.open_until:
        return None
    return _moved(replace(record, successes=0, forced=False), BreakerState.HALF_OPEN, now, _Why(Cause.TIMER))


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
        return _tripped(worse, policy, now, fraction, _Why(Cause.EVIDENCE, "", reason, error_code))
    if record.successes + 1 < policy.success_threshold:
        return replace(record, successes=record.successes + 1)
    return _closed(record, now, _Why(Cause.EVIDENCE, "", "a probe succeeded"))


def open_by_hand(
    record: BreakerRecord, now: int, until: int | None, actor: str, reason: str
) -> BreakerRecord:
    """Any state -> OPEN until `until`, then probed as usual; None: until somebody closes or resets it."""
    opened = replace(
        record, opened_at=now, open_until=until, error_code="", reopened=0, successes=0, forced=True
    )
    return _moved(opened, BreakerState.OPEN, now, _operator(actor, reason))


def close_by_hand(
    record: BreakerRecord, now: int, until: int | None, actor: str, reason: str
) -> BreakerRecord:
    """Any state -> CLOSED, whatever the evidence says, until `until`; None: until somebody resets it."""
    return replace(_closed(record, now, _operator(actor, reason)), open_until=until, forced=True)


def reset(record: BreakerRecord, now: int, actor: str, reason: str) -> BreakerRecord:
    """Any state -> CLOSED with nothing remembered, and evidence counting from here on."""
    return _closed(record, now, _operator(actor, reason))


def _operator(actor: str, reason: str) -> _Why:
    return _Why(Cause.OPERATOR, actor or ANONYMOUS, reason)


def _tripped(
    record: BreakerRecord, policy: BreakerPolicy, now: int, fraction: float, why: _Why
) -> BreakerRecord:
    until = now + cooldown(policy, record.reopened, fraction)
    opened = replace(
        record, opened_at=now, open_until=until, error_code=why.error_code, successes=0, forced=False
    )
    return _moved(opened, BreakerState.OPEN, now, why)


def _closed(record: BreakerRecord, now: int, why: _Why) -> BreakerRecord:
    blank = replace(
        record, opened_at=None, open_until=None, error_code="", reopened=0, forced=False, successes=0
    )
    return _moved(blank, BreakerState.CLOSED, now, why)


def _moved(record: BreakerRecord, to: BreakerState, now: int, why: _Why) -> BreakerRecord:
    """`record` in its new state; its `state` is still the one it comes from."""
    generation = next_generation(record.generation, now)
    move = Transition(
        record.state, to, generation, now, why.cause, why.actor, why.reason, error_code=why.error_code
    )
    kept = (*record.transitions, move)[-TRANSITIONS_KEPT:]
    return replace(record, state=to, generation=generation, transitions=kept)
