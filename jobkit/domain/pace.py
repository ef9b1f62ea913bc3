"""How fast a type's waiting jobs may start again after its breaker has closed: one state, moved once an epoch.

A limit on concurrency cannot hold a *rate* where refusals are immediate (a refused call frees its slot at once, so a
limit of 1 may be refused hundreds of times a second). So the state carries both: `rate`, starts a second of the whole
fleet, and `slots`, attempts at once. It is a model of the dependency, not a reflex:

- *Slow start* (RFC 5681, 3.1): the rate doubles, but over what was *delivered*, not over what was tried, so that
  calls that take long do not let it run ahead of its own evidence.
- *Delivered rate as the estimate of capacity* (BBR: Cardwell et al., "Congestion-Based Congestion Control", ACM Queue
  2016): refusals, or latency that grows while the delivered rate does not, say that the rate lies above capacity; it
  then becomes a little less than what was delivered. Doing so twice changes nothing, so late refusals do no harm.
- *The rate where refusals began is remembered, approached slowly, then passed slowly and faster* (CUBIC, RFC 9438).
- `slots` is twice what the rate needs at the smallest latency seen (Little's law; BBR's bound of 2 BDP): so a
  dependency that queues instead of refusing is not handed a long queue.

Errors that do not become fewer when the rate falls are the jobs' own, or the dependency's at any rate: they become
`noise`, and no longer count. Where much fails, one epoch says little about that: after a deep cut the rate is held
(`trial`) until enough attempts have ended. Calls that the rate had made fail would be gone by then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

FIRST_RATE = 20.0
GROWTH, UNREFUSED, CAREFUL = 2.0, 1.4, 1.25
# An epoch in which fewer attempts ended does not tell refusals from jobs that are bad themselves.
TELLING, LEAST_FAILED = 60, 3
LEAST_RATE = 1.0
# After refusals: this much of what was delivered. While calls queue: so much above it.
BACK_OFF, ABOVE = 0.97, 1.1
# After refusals that come again soon: if it helps, it was the rate.
TEST = 0.85
# A share of failures that is at least so much of the one before is the same; at least this part of it: what was
# taken for the dependency's limit was mostly noise. A trial tells once so many failures were to be expected, or has
# to after so many epochs.
SAME, PART, TRIED, LONGEST_TRIAL = 0.5, 0.3, 7, 10
# Where more than this fails at any rate nothing is to be had.
NOISIEST = 0.75
# Below this much of the rate where refusals began, capacity itself has gone.
GONE = 0.85
# While it has not, this much of that rate is believed in: lanes that braked, or that were busy for a moment, deliver
# less than the dependency would have.
BELIEVED = 0.9
# Jobs may fail this often on their own account; more than that is the dependency's trouble.
MOST_NOISE = 0.1
# Epochs from there back to the rate where refusals began, and the pace at which it is passed.
APPROACH, PASSING = 5, 3.0
# The share of refused calls, above the noise, from which on the rate is too high.
TOLERATED = 0.01
# Latency that says that calls queue: this many times the smallest, and this much more.
QUEUEING, QUEUEING_SLACK_MS = 2.0, 100.0
# What a slot is taken for beside the call: the claim, the settling.
AROUND_MS = 120.0
# The smallest latency is forgotten slowly: jobs that take longer than those before them are no queue.
LEAST_DRIFT = 1.02
IDLE_EPOCHS = 3
SETTLED = 2


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the fleet did in one: attempts started, finished well and badly, how long the good ones took together
    (ms), whether a lane lacked what it could have used; `seconds` that the reports speak of (the workers' mean); the
    starts that the lanes' pace `allowed` in that time, less than the rate would: they hear of a new one late."""

    started: int
    ok: int
    failed: int
    took_ms: float
    lacked: bool
    seconds: float = 1.0
    allowed: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The recovery of a breaker's `generation`. `ceiling` is the rate where refusals began (0: not met yet),
    `since_cut` counts epochs from then, shorter ones where calls take long, because answers come late. `trial`: how
    many attempts ended, and how many of them failed, since a deep cut that is to show whether it helps. `over`: the
    backlog is gone, nothing is paced any more."""

    generation: int
    rate: float = FIRST_RATE
    ceiling: float = 0.0
    since_cut: float = 0.0
    cut_share: float = 0.0
    trial: tuple[int, int] | None = None
    noise: float = 0.0
    least_ms: float = 0.0
    idle: int = 0
    over: bool = False

    @property
    def slots(self) -> int:
        """Attempts at once, of the whole fleet."""
        return max(math.ceil(2 * self.rate * (self.least_ms + AROUND_MS) / 1000), 2)


def next_pace(pace: Pace, epoch: Epoch) -> Pace:
    """The state after an epoch."""
    if pace.over:
        return pace
    idle = 0 if epoch.lacked else pace.idle + 1
    if idle >= IDLE_EPOCHS:
        return replace(pace, idle=idle, over=True)
    finished = epoch.ok + epoch.failed
    if not finished:
        return replace(pace, idle=idle)
    mean = epoch.took_ms / epoch.ok if epoch.ok else 0.0
    least = min(pace.least_ms * LEAST_DRIFT or mean, mean) if mean else pace.least_ms
    share = epoch.failed / finished
    pace = replace(pace, idle=idle, least_ms=least, since_cut=pace.since_cut + 1 / (1 + least / 1000))
    delivered = max(epoch.ok, epoch.started - epoch.failed) / epoch.seconds
    if pace.trial is not None and not _gone(pace, share, delivered):
        return _tried(pace, pace.trial, epoch)
    if _refused(pace, epoch.failed, finished):
        # Whether what was refused may have been started before the last cut.
        late = epoch.started > 1.05 * pace.rate * epoch.seconds or share <= 2 * TOLERATED + pace.noise
        return _after_refusals(pace, finished, share, (delivered, late))
    if mean > QUEUEING * least + QUEUEING_SLACK_MS and epoch.lacked:
        return _after_queueing(pace, epoch.ok / epoch.seconds)
    pace = replace(pace, noise=pace.noise + (share - pace.noise) / 10 if pace.noise else 0.0)
    # Who did not use what it has says nothing about more.
    return _grown(pace, epoch) if epoch.lacked else pace


def _grown(pace: Pace, epoch: Epoch) -> Pace:
    if not pace.ceiling:
        # Of what was allowed: the lanes hear of a rate late, and until then they cannot deliver it.
        allowed = max(epoch.allowed or pace.rate * epoch.seconds, 1.0)
        delivered = min(epoch.ok / (allowed * (1 - pace.noise)), 1.0)
        # Where calls take long, most of what was started has not been refused so far, which is something, too.
        tried = min(epoch.started / allowed, 1.0) if not epoch.failed else 0.0
        return replace(pace, rate=pace.rate * max(delivered * GROWTH, tried * UNREFUSED, 1.0))
    return replace(pace, rate=_approach(pace))


def _refused(pace: Pace, failed: int, finished: int) -> bool:
    """More failures than the noise explains (by two and a half of its standard deviations)."""
    own = pace.noise * finished
    return failed >= LEAST_FAILED and failed > TOLERATED * finished + own + 2.5 * math.sqrt(own)


def _after_refusals(pace: Pace, finished: int, share: float, seen: tuple[float, bool]) -> Pace:
    delivered, late = seen
    if not pace.ceiling and share <= 2 * MOST_NOISE and finished < TELLING:
        # A little further, and it will show.
        noise = min(pace.noise + (share - pace.noise) / 2, MOST_NOISE)
        return replace(pace, noise=noise, rate=max(pace.rate, min(pace.rate, delivered) * CAREFUL))
    if not pace.ceiling or _gone(pace, share, delivered):
        return _cut(pace, share, delivered, BACK_OFF)
    if share <= MOST_NOISE:
        delivered = max(delivered, BELIEVED * pace.ceiling)
    if pace.since_cut < SETTLED and late:
        return pace
    if share < SAME * pace.cut_share or pace.since_cut >= APPROACH:
        return _cut(pace, share, delivered, BACK_OFF)
    return replace(_cut(pace, min(share, pace.cut_share), delivered, TEST), trial=(0, 0))


def _gone(pace: Pace, share: float, delivered: float) -> bool:
    """Whether capacity itself fell a good deal."""
    return share > max(MOST_NOISE, 3 * pace.cut_share) and delivered < GONE * pace.ceiling


def _tried(pace: Pace, trial: tuple[int, int], epoch: Epoch) -> Pace:
    """The trial goes on, or it has told. What still failed is noise; where that is as much as before, the rate had
    nothing to do with it from the start."""
    if pace.since_cut < 1:
        return pace  # answers to what was started before the cut
    ended, failed = trial[0] + epoch.ok + epoch.failed, trial[1] + epoch.failed
    if ended * pace.cut_share < TRIED and pace.since_cut < LONGEST_TRIAL:
        return replace(pace, trial=(ended, failed))
    share = failed / ended
    if share > NOISIEST:
        return replace(pace, trial=None)
    return replace(
        pace, noise=share, ceiling=pace.ceiling if share < PART * pace.cut_share else 0.0, trial=None
    )


def _after_queueing(pace: Pace, delivered: float) -> Pace:
    """No more than little above what comes through. It is no cut: jobs may just take longer now, or this machine be
    busy, and then the way back is short. What queues meanwhile is bounded by `slots`."""
    return replace(pace, rate=max(min(pace.rate, delivered * ABOVE), LEAST_RATE))


def _cut(pace: Pace, share: float, delivered: float, keep: float) -> Pace:
    """Never up: what is delivered late may be more than the rate of now. What fails at any rate would have been
    served."""
    ceiling = max(min(delivered / (1 - pace.noise), pace.rate), LEAST_RATE)
    return replace(
        pace,
        rate=max(ceiling * keep, LEAST_RATE),
        ceiling=ceiling,
        since_cut=0,
        cut_share=share,
        trial=None,
    )


def _approach(pace: Pace) -> float:
    """CUBIC: concave up to the ceiling, flat there, convex beyond."""
    depth = 1 - BACK_OFF
    t = pace.since_cut - APPROACH
    scale = float(APPROACH) if t < 0 else PASSING
    wanted = pace.ceiling * (1 + depth * (t / scale) ** 3)
    return max(pace.rate, min(wanted, pace.rate * GROWTH))
