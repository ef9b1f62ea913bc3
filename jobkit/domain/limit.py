"""One limit for every reason: how many attempts of a type the whole fleet may run at once, and whose they are.

    none                    unlimited: no lane asks anybody
    an operator's limit     n
    paused by an operator   0
    breaker OPEN            0
    breaker HALF_OPEN       as many as there are probes
    recovering              what `pace.py` has found out

The smallest wins. Types behind one dependency share its recovery, by the name of its breaker. Slots are leased by
workers in blocks; a `Plan` says how they are divided, and is made anew once an epoch by whoever reports first in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jobkit.domain.breaker import BreakerState
from jobkit.domain.pace import Epoch, Pace, next_pace

EPOCH_MS = 1000
LEASE_MS = 5000
# Who has fewer slots than workers passes them on after so many epochs: each change of hands costs idle moments.
TURN_EPOCHS = 3


def effective_limit(
    state: BreakerState, probes: int, *, paused: bool, operators: int | None, recovering: int | None
) -> int | None:
    """The least of what every reason allows; None: unlimited."""
    bounds = [0] if paused or state is BreakerState.OPEN else []
    bounds += [probes] if state is BreakerState.HALF_OPEN else []
    bounds += [n for n in (operators, recovering) if n is not None]
    return min(bounds, default=None)


@dataclass(frozen=True, slots=True)
class LaneReport:
    """One worker's lane since its last report. `in_use` attempts run now; it could run `most` at once. `lacked`: it
    had tokens that it was not allowed to start. `limit` is the operator's as of `revision`; `generation` that of a
    breaker which was seen closing, else 0. `took_ms` is the sum of what the `ok` attempts took, `span_ms` the time
    since the last report, `allowed` the starts that its pace allowed in it. `leaving`: it gives everything back."""

    in_use: int
    most: int
    lacked: bool
    limit: int | None
    revision: int
    generation: int = 0
    started: int = 0
    ok: int = 0
    failed: int = 0
    took_ms: int = 0
    span_ms: int = 0
    allowed: int = 0
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as the store knows it: slots it holds until `until` (store ms), how many it could use."""

    worker: str
    held: int
    most: int
    until: int


@dataclass(frozen=True, slots=True)
class Share:
    """A worker's part: attempts at once, and starts a second (None: as they come). It ends by itself."""

    slots: int
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a type's slots are divided. `limit` None: it has none any more. `revision` is that of the operator's limit
    `operators`."""

    number: int = 0
    limit: int | None = None
    operators: int | None = None
    revision: int = 0
    pace: Pace | None = None

    @property
    def recovering(self) -> bool:
        return self.pace is not None and not self.pace.over


@dataclass(frozen=True, slots=True)
class Material:
    """What a plan is made of: the one before, who is there, and what was done since. `sums` is the store's own."""

    plan: Plan
    members: tuple[Member, ...]
    epoch: Epoch
    now: int
    sums: tuple[int, ...] = ()


def decide_plan(material: Material, report: LaneReport) -> tuple[Plan, dict[str, Share]]:
    """The next plan and everyone's share in it, as `report` sees the operator's limit and the breaker."""
    before = material.plan
    pace = before.pace
    members = [m for m in material.members if m.until > material.now]
    # An epoch in which nobody may start anything says nothing: a pause, or another breaker, would end the recovery.
    tells = material.epoch.seconds * 1000 >= EPOCH_MS / 2 and any(m.most for m in members)
    if report.generation > (pace.generation if pace else 0):
        pace = Pace(report.generation)
    elif pace is not None and before.recovering and tells:
        pace = next_pace(pace, material.epoch)
    operators, revision = before.operators, before.revision
    if report.revision >= revision:
        operators, revision = report.limit, report.revision
    slots = pace.slots if pace is not None and not pace.over else None
    limit = effective_limit(BreakerState.CLOSED, 0, paused=False, operators=operators, recovering=slots)
    plan = replace(
        before, number=before.number + 1, limit=limit, operators=operators, revision=revision, pace=pace
    )
    if limit is None:
        return plan, {}
    return plan, divide(
        limit, plan.pace.rate if plan.recovering and plan.pace else None, members, plan.number
    )


def divide(limit: int, rate: float | None, members: Sequence[Member], number: int) -> dict[str, Share]:
    """Max-min fair: nobody gets more than it can use, what one cannot use goes to the others, and what does not
    divide rotates with the plan's `number`. A worker without work counts as well: all consume from one queue, so
    whoever has a slot has work when there is any."""
    slots = dict.fromkeys((m.worker for m in members), 0)
    turn = (number // TURN_EPOCHS) % max(len(members), 1)
    ordered = sorted(members, key=lambda m: m.worker)
    ordered = ordered[turn:] + ordered[:turn]
    left = limit
    while left > 0 and (open_ := [m for m in ordered if slots[m.worker] < m.most]):
        each = max(left // len(open_), 1)
        for member in open_:
            given = min(each, member.most - slots[member.worker], left)
            slots[member.worker] += given
            left -= given
    total = sum(slots.values())
    return {
        w: Share(n, None if rate is None else rate * n / total if total else 0.0) for w, n in slots.items()
    }
