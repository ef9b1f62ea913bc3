"""What every move of a breaker has in common: generations, cooldowns, and the transition that says why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobkit.domain.breaker import (
    TRANSITIONS_KEPT,
    BreakerPolicy,
    BreakerRecord,
    BreakerState,
    Cause,
    Proof,
    Transition,
)


@dataclass(frozen=True, slots=True)
class Why:
    """What a transition will say."""

    cause: Cause
    actor: str = ""
    reason: str = ""
    error_code: str = ""
    proof: Proof | None = None
    fraction: float | None = None


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


def tripped(
    record: BreakerRecord, policy: BreakerPolicy, now: int, fraction: float, why: Why
) -> BreakerRecord:
    """Any state -> OPEN for a cooldown."""
    until = now + cooldown(policy, record.reopened, fraction)
    opened = replace(
        record, opened_at=now, open_until=until, error_code=why.error_code, successes=0, forced=False
    )
    return moved(opened, BreakerState.OPEN, now, replace(why, fraction=fraction))


def closed(record: BreakerRecord, now: int, why: Why) -> BreakerRecord:
    """Any state -> CLOSED with nothing remembered."""
    blank = BreakerRecord(record.name, record.state, record.generation, transitions=record.transitions)
    return moved(blank, BreakerState.CLOSED, now, why)


def moved(record: BreakerRecord, to: BreakerState, now: int, why: Why) -> BreakerRecord:
    """`record` in its new state; its `state` is still the one it comes from."""
    generation = next_generation(record.generation, now)
    said = (why.cause, why.actor, why.reason, why.error_code)
    move = Transition(record.state, to, generation, now, *said, proof=why.proof, fraction=why.fraction)
    kept = (*record.transitions, move)[-TRANSITIONS_KEPT:]
    return replace(record, state=to, generation=generation, transitions=kept)


def taken_along(record: BreakerRecord, fleet: BreakerRecord) -> BreakerRecord:
    """What a worker on its own came to, as the fleet's from now on, in place of `fleet` (generation 0: its store was
    wiped). The worker's moves keep their scope, and the last one is told once more as the fleet's. It keeps its
    generation: of several workers that come back, the one that moved last is right."""
    last = record.transitions[-1] if record.transitions else None
    if last is None or not last.scope:
        return record
    told = (move.to_state for move in reversed(record.transitions) if not move.scope)
    before = fleet.state if fleet.generation else next(told, BreakerState.CLOSED)
    reason = f"from {last.scope}, which was on its own: {last.reason or last.cause.value.lower()}"
    move = replace(last, from_state=before, scope="", reason=reason)
    return replace(record, transitions=(*record.transitions, move)[-TRANSITIONS_KEPT:])
