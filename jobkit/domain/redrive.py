"""Redrives: quarantined jobs sent back to work in bulk, at a pace; and what that pace is, purely.

A fixed pace is what the operator said. An adaptive one is additive increase, multiplicative decrease, after Chiu
and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks" (1989);
it finds its level by slow start, and goes back to slow start after a pause, as TCP does (RFC 5681, sections 3.1 and
4.1). The signal is the first run of each redriven job: it answered well, or it failed. Whether nearly everything
fails *again*, retries and all, decides when to give up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from jobkit.domain.job import QuarantineReason

FOR_A_PERSON = (
    QuarantineReason.RETRIES_EXHAUSTED,
    QuarantineReason.NON_RETRYABLE,
    QuarantineReason.POISON,
)

START_RATE = 1.0  # jobs a second
MIN_RATE = 0.1
FLOOR_RATE = 0.5  # of an adaptive pace: slower, a hopeless one would take minutes to be known
MAX_RATE = 10_000.0
EPOCH_MS = 1_000  # the pace changes at most this often
STEP = 1.0  # jobs a second, added in an epoch
CUT = 0.5
BAD_SHARE = 0.1  # of an epoch's answers, above which the pace is cut
# It grows only while jobs answer as fast as they are sent, or nearly: otherwise it is not the pace that holds them up
# (RFC 7661 says the same of congestion windows).
KEEPING_UP = 0.5
# Jobs that have not answered yet: some to begin with, then so many seconds' worth.
OUTSTANDING, OUTSTANDING_SECONDS = 16, 10
BURST_MS = 1_000
# Each ended job counts this much of the one after it: what went well long ago must not outweigh what fails now.
FADE = 0.85
HOPELESS_SAMPLE, HOPELESS_SHARE = 10, 0.9


class RedriveState(StrEnum):
    """RUNNING until each job has been sent back and has ended, or until somebody or something stopped it."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    STOPPED = "STOPPED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the jobs of one type go back. `rate` in jobs a second; times in database milliseconds. `good` and
    `bad` are first answers since `epoch_at`; `again` and `well` fading sums of jobs that have ended."""

    rate: float
    adaptive: bool
    paced_at: int
    epoch_at: int
    threshold: float = math.inf
    good: int = 0
    bad: int = 0
    again: float = 0.0
    well: float = 0.0


def first_pace(rate: float | None, now: int) -> Pace:
    """A fixed `rate`, or adaptive when None. The first job may go at once."""
    wanted = START_RATE if rate is None else rate
    return Pace(wanted, rate is None, now - math.ceil(1000 / wanted), now)


def allowance(pace: Pace, now: int, outstanding: int) -> int:
    """Jobs that may go now, with `outstanding` not ended yet: what is due since `paced_at`, a second's worth at
    most."""
    due = math.floor((now - _since(pace, now)) * pace.rate / 1000 + 1e-6)
    if pace.adaptive:
        due = min(due, max(OUTSTANDING, math.ceil(pace.rate * OUTSTANDING_SECONDS)) - outstanding)
    return max(due, 0)


def spend(pace: Pace, now: int, sent: int) -> Pace:
    """After `sent` jobs went."""
    if not sent:
        return pace
    return replace(pace, paced_at=min(_since(pace, now) + round(sent * 1000 / pace.rate), now))


def _since(pace: Pace, now: int) -> int:
    """A clock that was set back must not stop it, one that was set forward must not open the gates."""
    return min(max(pace.paced_at, now - max(BURST_MS, math.ceil(1000 / pace.rate))), now)


@dataclass(frozen=True, slots=True)
class Answers:
    """What was learned of redriven jobs since the last look: first runs that went well or badly; how jobs ended."""

    good: int = 0
    bad: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled


def learn(pace: Pace, answers: Answers, now: int) -> Pace:
    """The pace after these answers. A fixed one only remembers them."""
    ended = answers.failed + answers.succeeded
    fade = FADE**ended
    weight = _weight(ended) / ended if ended else 0.0  # of each: nobody knows their order
    pace = replace(
        pace,
        good=pace.good + answers.good,
        bad=pace.bad + answers.bad,
        again=pace.again * fade + answers.failed * weight,
        well=pace.well * fade + answers.succeeded * weight,
    )
    told = pace.good + pace.bad
    if not pace.adaptive or not told or 0 <= now - pace.epoch_at < EPOCH_MS:
        return pace
    rate, threshold = pace.rate, pace.threshold
    if pace.bad > told * BAD_SHARE:
        rate = threshold = max(rate * CUT, FLOOR_RATE)
    elif pace.good >= rate * max(now - pace.epoch_at, EPOCH_MS) / 1000 * KEEPING_UP:
        rate = min(rate * 2, threshold) if rate < threshold else rate + STEP
    return replace(pace, rate=min(rate, MAX_RATE), threshold=threshold, epoch_at=now, good=0, bad=0)


def pause(pace: Pace, now: int) -> Pace:
    """While the type is held nothing goes; an adaptive pace starts anew behind it."""
    if not pace.adaptive:
        return replace(pace, paced_at=now)
    threshold = pace.threshold if pace.rate <= START_RATE else max(pace.rate * CUT, START_RATE)
    rate = min(pace.rate, START_RATE)
    return replace(pace, rate=rate, threshold=threshold, paced_at=now, epoch_at=now, good=0, bad=0)


def is_hopeless(pace: Pace) -> bool:
    """Whether an adaptive redrive had better stop: nearly everything fails again."""
    ended = pace.again + pace.well
    enough = ended > _weight(HOPELESS_SAMPLE) - 1e-6
    return pace.adaptive and enough and pace.again >= ended * HOPELESS_SHARE


def _weight(ended: int) -> float:
    """What so many ended jobs weigh together."""
    return (1 - FADE**ended) / (1 - FADE)


@dataclass(frozen=True, slots=True)
class NewRedrive:
    """A checked request. `filter` as it was given; `rate` in jobs a second of each type, None for adaptive."""

    redrive_id: UUID
    filter: str
    rate: float | None
    actor: str
    reason: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """`total` jobs matched when it began; `redriven` went back to work, of which `succeeded`, `failed` (quarantined
    again) and `cancelled` (also discarded) have ended. `skipped` were no longer there when their turn came."""

    total: int = 0
    redriven: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0

    @property
    def open(self) -> int:
        """Redriven, and not ended yet."""
        return self.redriven - self.succeeded - self.failed - self.cancelled


@dataclass(frozen=True, slots=True)
class RedriveType:
    """The part of a redrive that is about one job type. `rate` is 0 when nothing more goes; `held` while its hold
    lasts; `stop_reason` when it gave up."""

    job_type: str
    counts: Counts
    rate: float
    held: bool = False
    stop_reason: str = ""


@dataclass(frozen=True, slots=True)
class Redrive:
    """A redrive as a reader sees it. `ended_by` and `end_reason` say who or what ended it early."""

    redrive_id: UUID
    filter: str
    rate: float | None
    actor: str
    reason: str
    request_id: str
    state: RedriveState
    create_time: datetime
    finish_time: datetime | None = None
    ended_by: str = ""
    end_reason: str = ""
    types: tuple[RedriveType, ...] = ()

    @property
    def counts(self) -> Counts:
        return sum_of([part.counts for part in self.types])


def sum_of(counts: Sequence[Counts]) -> Counts:
    return Counts(
        total=sum(c.total for c in counts),
        redriven=sum(c.redriven for c in counts),
        succeeded=sum(c.succeeded for c in counts),
        failed=sum(c.failed for c in counts),
        cancelled=sum(c.cancelled for c in counts),
        skipped=sum(c.skipped for c in counts),
    )
