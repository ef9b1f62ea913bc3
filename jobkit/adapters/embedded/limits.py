"""Slots within this process: the embedded default, and a worker's retry budgets while Redis is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jobkit.adapters.embedded.breakers import steady_clock
from jobkit.domain import budget
from jobkit.domain.limit import EPOCH_MS, LEASE_MS, LaneReport, Material, Member, Plan, Share
from jobkit.domain.pace import Epoch
from jobkit.ports import Grant

# How long one reporter has to make the plan before another is asked.
PLANNING_MS = 300


SUMS = ("started", "ok", "failed", "took_ms", "lacked", "span_ms", "allowed")


def sums_of(report: LaneReport) -> tuple[int, ...]:
    """What one report adds to them."""
    counts = (report.started, report.ok, report.failed, report.took_ms)
    return (*counts, int(report.lacked), report.span_ms, report.allowed)


def epoch_of(sums: Sequence[int], workers: int) -> Epoch:
    """What was done, from the sums of all reports. Their spans do not begin and end with the epoch, so the time is
    theirs: else one worker's report more or less would look like a change of pace."""
    started, ok, failed, took_ms, lacked, span_ms, allowed = sums
    seconds = max(span_ms / max(workers, 1) / 1000, 0.001)
    return Epoch(started, ok, failed, took_ms, lacked > 0, seconds, allowed)


@dataclass(slots=True)
class _Type:
    """What lease.lua keeps in one hash."""

    plan: Plan = field(default_factory=Plan)
    members: dict[str, Member] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    sums: tuple[int, ...] = (0,) * len(SUMS)
    since: int = 0
    planning: int = 0

    def add(self, report: LaneReport) -> None:
        self.sums = tuple(a + b for a, b in zip(self.sums, sums_of(report), strict=True))

    def lease(self, worker: str, report: LaneReport, now: int) -> Share:
        """As much of the worker's share as is free; what runs keeps its slot."""
        others = sum(m.held for m in self.members.values() if m.worker != worker)
        free = (self.plan.limit or 0) - others
        had = self.members[worker].held if worker in self.members else 0
        share = self.shares.get(worker, Share(0))
        slots = min(share.slots, max(free, had, 0), report.most)
        self.members[worker] = Member(worker, max(report.in_use, slots), report.most, now + LEASE_MS)
        return Share(slots, share.rate)


class MemoryLimitStore:
    """`ports.LimitStore` in this process. `clock` gives milliseconds."""

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or steady_clock()
        self._types: dict[str, _Type] = {}
        self._buckets: dict[str, budget.Bucket] = {}

    async def report(self, worker: str, reports: Mapping[str, LaneReport]) -> dict[str, Grant]:
        now = self._clock()
        return {name: self._report(name, worker, report, now) for name, report in reports.items()}

    def _report(self, name: str, worker: str, report: LaneReport, now: int) -> Grant:
        kept = self._types.setdefault(name, _Type())
        kept.add(report)
        plan = kept.plan
        news = report.revision > plan.revision or report.generation > (
            plan.pace.generation if plan.pace else 0
        )
        if report.leaving or (plan.limit is None and not news):
            kept.members.pop(worker, None)
            return Grant(None)
        due = now >= kept.since + EPOCH_MS or news
        share = kept.lease(worker, report, now)
        if not due or now < kept.planning:
            return Grant(share)
        kept.planning = now + PLANNING_MS
        return Grant(
            share, Material(plan, tuple(kept.members.values()), epoch_of(kept.sums, len(kept.members)), now)
        )

    async def plan(self, plans: Mapping[str, tuple[Plan, Mapping[str, Share], Material]]) -> None:
        now = self._clock()
        for name, (plan, shares, material) in plans.items():
            kept = self._types.setdefault(name, _Type())
            if kept.plan.number != material.plan.number:
                continue
            kept.plan, kept.shares, kept.since, kept.planning, kept.sums = (
                plan,
                dict(shares),
                now,
                0,
                (0,) * len(SUMS),
            )
            kept.members = {w: m for w, m in kept.members.items() if m.until > now}
            if plan.limit is None:
                kept.members.clear()

    async def spend(self, statements: Mapping[str, budget.Statement]) -> dict[str, budget.Account]:
        now = self._clock()
        answers: dict[str, budget.Account] = {}
        for name, statement in statements.items():
            self._buckets[name], answers[name] = budget.settle(
                self._buckets.get(name, budget.Bucket()), statement, now
            )
        return answers

    async def close(self) -> None:
        """Nothing to close."""
