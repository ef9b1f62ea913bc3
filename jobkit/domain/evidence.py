"""CLOSED -> OPEN, or a worker out of the fleet, by what the fleet saw.

A code is suspect once it was seen on enough distinct jobs within the window. Then, of the most recent attempts:

- *streak*: the last 2 x threshold all failed with it, and that is no bad luck, given what failed before; taken at
  its word at once;
- *share*: at least `failure_rate` of the sample failed with it, each job counted once; a sample that is not full must
  be as convincing as a full one that just passes, unless nothing in it succeeded. Where much failed before the sample
  too, it must be more than what was usual then, or the whole must reach the rate: where three of ten fail for an
  hour, half of some fifty do. A share can be an illusion while other workers hold successes back, hence the wait;
- *workers*: two or more of them each failed with it `threshold` times in a row.

Where two or more workers do this work, what only one of them sees is about that worker. Where two or more job types
use a dependency, what only one of them sees is about that type.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

from jobkit.domain.breaker import (
    SAMPLES_KEPT,
    BreakerPolicy,
    BreakerRecord,
    BreakerState,
    Cause,
    Eject,
    Mode,
    Proof,
    Seen,
    Wait,
    Window,
)
from jobkit.domain.chance import surprising, tail, usual
from jobkit.domain.moving import Why, heeds_evidence, tripped

T = TypeVar("T")

# How unlikely a streak must be under the noise before it: for the fleet, and for a worker, which is soon back.
FLEET_CHANCE = 1e-9
WORKER_CHANCE = 1e-6
# And a share of the fleet's sample, of which there is another one with each attempt.
SHARE_CHANCE = 1e-6


@dataclass(frozen=True, slots=True)
class _Open:
    """The fleet's breaker is to open; `waits`: not before everybody could report."""

    reason: str
    sample: int
    waits: bool = False


def decide_evidence(
    policy: BreakerPolicy, window: Window, fraction: float, me: str = ""
) -> BreakerRecord | Eject | Wait | None:
    """What follows from the window for the worker `me`, which has just reported: the record to swap in, its own
    ejection, another look later, or nothing."""
    record, now = window.record, window.now
    if policy.mode is Mode.DISABLED or record.state is not BreakerState.CLOSED:
        return None
    if not heeds_evidence(record, now):
        return None
    suspects = [code for code, jobs in window.distinct_jobs.items() if jobs >= policy.jobs_needed]
    counts = Counter(seen.code for seen in window.seen)
    wait = None
    for code in sorted(suspects, key=lambda code: (-counts[code], code)):
        verdict = _judge(policy, window, code, me)
        if isinstance(verdict, Eject):
            return verdict
        if verdict is None:
            continue
        left = policy.flush_interval - (
            now - (now if window.first_failure_at is None else window.first_failure_at)
        )
        if verdict.waits and left > 0:
            wait = wait or Wait(left)
            continue
        why = Why(Cause.EVIDENCE, "", verdict.reason, code, proof_of(window, code, verdict.sample))
        return tripped(record, policy, now, fraction, why)
    return wait


def decide_alone(policy: BreakerPolicy, window: Window, code: str, fraction: float) -> BreakerRecord | None:
    """CLOSED -> OPEN because an ejected worker's trial failed, and nobody else has done this work of late: then it is
    the fleet."""
    record = window.record
    if (
        window.workers > 1
        or record.state is not BreakerState.CLOSED
        or not heeds_evidence(record, window.now)
    ):
        return None
    reason = f"failed with {code} on the only worker that does this work"
    why = Why(Cause.EVIDENCE, "", reason, code, proof_of(window, code, len(window.seen)))
    return tripped(record, policy, window.now, fraction, why)


def proof_of(window: Window, code: str, sample: int) -> Proof:
    """Counts, and samples of who saw the code, newest first."""
    about = [seen for seen in window.seen if seen.code == code]
    return Proof(
        dict(window.failures),
        dict(window.distinct_jobs),
        sample,
        workers=_some(seen.worker for seen in about if seen.worker),
        jobs=_some(seen.job_id for seen in about if seen.job_id is not None),
        traces=_some(seen.trace for seen in about if seen.trace),
        first_failure_at=window.first_failure_at,
    )


def _judge(policy: BreakerPolicy, window: Window, code: str, me: str) -> _Open | Eject | None:
    seen = window.seen
    if window.sources > 1 and len({s.source for s in seen if s.code == code}) < 2:
        return None
    if window.workers < 2:
        return _fleet(policy, seen, code, window.before)
    present = [s for s in seen if s.worker not in window.ejected]
    if (together := _together(policy, seen, code)) is not None:
        return together
    failing = Counter(s.worker for s in present if s.code == code)
    if not failing:
        return None
    suspect = min(failing, key=lambda worker: (-failing[worker], worker))
    rest = [s for s in present if s.worker != suspect]
    limit = window.workers // 2
    # The others are well when few of theirs failed, and not just the last ones of all.
    few = _count(rest, code) < policy.rate_of(code) * max(len(rest), 1)
    alone = few and _jobs(_streak(rest, code)) < policy.jobs_needed
    if not alone or len(window.ejected) >= limit:
        return _fleet(policy, present, code, window.before)
    if suspect != me or policy.mode is not Mode.ENFORCED:
        return None  # it decides about itself
    reason = _own(policy, present, code, me)
    return Eject(code, reason, limit) if reason else None


def _fleet(
    policy: BreakerPolicy, seen: Sequence[Seen], code: str, earlier: Mapping[str, int]
) -> _Open | None:
    """The streak or the share, for all that count as one."""
    streak = _streak(seen, code)
    before = seen[len(streak) :]
    if (
        len(streak) >= policy.streak_needed
        and _jobs(streak) >= policy.jobs_needed
        and surprising(len(streak), _count(before, code), len(before), FLEET_CHANCE)
    ):
        return _Open(f"the last {len(streak)} attempts failed with {code}", len(streak))
    sample = _each_job_once(seen)[: policy.failure_sample]
    if not _is_share(policy, sample, code) or not _is_new(policy, sample, code, earlier):
        return None
    said = f"{_count(sample, code)} of the last {len(sample)} attempts failed with {code}"
    return _Open(said, len(sample), waits=True)


def _together(policy: BreakerPolicy, seen: Sequence[Seen], code: str) -> _Open | None:
    """Several workers, ejected ones included, each with a streak of its own: each by itself would be a bad worker."""
    streaks = (_streak([s for s in seen if s.worker == worker], code) for worker in {s.worker for s in seen})
    bad = [streak for streak in streaks if _jobs(streak) >= policy.jobs_needed]
    length = sum(len(streak) for streak in bad)
    noise = _count(seen, code) - length
    if len(bad) < 2 or not surprising(length, noise, len(seen) - length, FLEET_CHANCE):
        return None
    return _Open(f"{len(bad)} workers failed with {code}, {length} times in a row", length)


def _own(policy: BreakerPolicy, present: Sequence[Seen], code: str, me: str) -> str:
    """Why this worker is to leave; "" when it is not."""
    mine = [s for s in present if s.worker == me]
    streak = _streak(mine, code)
    noise = _count(present, code) - len(streak)
    if _jobs(streak) >= policy.jobs_needed and surprising(
        len(streak), noise, len(present) - len(streak), WORKER_CHANCE
    ):
        return f"its last {len(streak)} attempts failed with {code}, those of others did not"
    sample = _each_job_once(mine)[: policy.failure_sample]
    bad = _count(sample, code)
    # A sample without a success is a streak, and has just been judged as one.
    if bad < policy.jobs_needed or all(s.code for s in sample) or not _is_share(policy, sample, code):
        return ""
    return f"{bad} of its last {len(sample)} attempts failed with {code}, those of others did not"


def _is_share(policy: BreakerPolicy, sample: Sequence[Seen], code: str) -> bool:
    rate, bad = policy.rate_of(code), _count(sample, code)
    if not bad or bad < rate * len(sample):
        return False
    if all(s.code for s in sample):
        return True
    full = tail(policy.failure_sample, math.ceil(rate * policy.failure_sample), rate / 2)
    return tail(len(sample), bad, rate / 2) <= full


def _is_new(policy: BreakerPolicy, sample: Sequence[Seen], code: str, earlier: Mapping[str, int]) -> bool:
    """Whether the sample's share is more than bad luck, given how often the code was seen before it; or whether it
    was seen so often then that the whole has the share as well."""
    bad, before, failed = _count(sample, code), sum(earlier.values()), earlier.get(code, 0)
    if not failed or bad + failed >= policy.rate_of(code) * (len(sample) + before):
        return True
    return tail(len(sample), bad, usual(failed, before)) <= SHARE_CHANCE


def _streak(seen: Iterable[Seen], code: str) -> list[Seen]:
    return list(takewhile(lambda s: s.code == code, seen))


def _count(seen: Iterable[Seen], code: str) -> int:
    return sum(s.code == code for s in seen)


def _jobs(seen: Iterable[Seen]) -> int:
    """Distinct jobs; an outcome whose job is not known counts as one of its own."""
    known = [s.job_id for s in seen]
    return len({job for job in known if job is not None}) + known.count(None)


def _each_job_once(seen: Sequence[Seen]) -> list[Seen]:
    """Without the earlier failures of a job that failed again: one bad job is one failure."""
    told: set[object] = set()
    kept = []
    for outcome in seen:
        if outcome.job_id is None or outcome.job_id not in told:
            kept.append(outcome)
        told.add(outcome.job_id)
    return kept


def _some(found: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(found))[:SAMPLES_KEPT]
