"""One limit for every reason, and how it is divided."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jobkit.adapters.embedded.limits import MemoryLimitStore
from jobkit.domain.breaker import BreakerState
from jobkit.domain.limit import (
    LEASE_MS,
    LaneReport,
    Material,
    Member,
    Plan,
    decide_plan,
    divide,
    effective_limit,
)
from jobkit.domain.pace import Epoch, Pace
from worker.exchange import exchange

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
QUIET = Epoch(0, 0, 0, 0.0, lacked=False)


@pytest.mark.parametrize(
    ("state", "paused", "operators", "recovering", "limit"),
    [
        (CLOSED, False, None, None, None),
        (CLOSED, False, 3, None, 3),
        (CLOSED, True, 3, 7, 0),
        (OPEN, False, 3, None, 0),
        (HALF_OPEN, False, 3, None, 1),
        (CLOSED, False, None, 7, 7),
        (CLOSED, False, 3, 7, 3),
        (CLOSED, False, 0, None, 0),
    ],
)
def test_the_smallest_reason_wins(
    state: BreakerState, paused: bool, operators: int | None, recovering: int | None, limit: int | None
) -> None:
    assert effective_limit(state, 1, paused=paused, operators=operators, recovering=recovering) == limit


def members(*most: int) -> list[Member]:
    return [Member(f"w{n}", 0, one, 10_000) for n, one in enumerate(most)]


@given(st.integers(0, 50), st.lists(st.integers(0, 20), max_size=8), st.integers(0, 100))
def test_a_division_gives_all_there_is_to_those_who_can_use_it(
    limit: int, most: list[int], number: int
) -> None:
    shares = divide(limit, None, members(*most), number)
    slots = {m.worker: shares[m.worker].slots for m in members(*most)}
    assert sum(slots.values()) == min(limit, sum(most))
    assert all(slots[m.worker] <= m.most for m in members(*most))
    # Max-min fair: who has less than another by more than one can use no more.
    for one in members(*most):
        for other in members(*most):
            if slots[one.worker] + 1 < slots[other.worker]:
                assert slots[one.worker] == one.most


@given(st.integers(1, 12), st.integers(2, 8))
def test_nobody_starves(limit: int, workers: int) -> None:
    had = {f"w{n}": 0 for n in range(workers)}
    for number in range(3 * workers * 3):
        for worker, share in divide(limit, None, members(*[16] * workers), number).items():
            had[worker] += share.slots
    assert min(had.values()) > 0
    assert max(had.values()) - min(had.values()) <= 3 * 3


@given(st.floats(1, 1000), st.integers(1, 8), st.integers(1, 100))
def test_rates_add_up(rate: float, workers: int, limit: int) -> None:
    shares = divide(limit, rate, members(*[16] * workers), 1)
    assert sum(share.rate or 0 for share in shares.values()) == pytest.approx(rate)


def report(**changes: object) -> LaneReport:
    return replace(LaneReport(0, 16, lacked=True, limit=None, revision=0), **changes)  # type: ignore[arg-type]


def material(plan: Plan, *present: Member, epoch: Epoch = QUIET, now: int = 1000) -> Material:
    return Material(plan, present, epoch, now)


def test_a_breaker_that_closed_begins_a_recovery_and_an_older_one_does_not() -> None:
    plan, shares = decide_plan(material(Plan(), *members(16)), report(generation=7))
    assert plan.pace == Pace(7)
    assert plan.limit == Pace(7).slots == shares["w0"].slots
    assert shares["w0"].rate == Pace(7).rate
    over = replace(plan, pace=replace(Pace(7), over=True))
    again, _ = decide_plan(material(over, *members(16)), report(generation=7))
    assert again.limit is None
    anew, _ = decide_plan(material(over, *members(16)), report(generation=8))
    assert anew.pace == Pace(8)


def test_the_operators_limit_of_the_newest_revision_holds() -> None:
    plan, _ = decide_plan(material(Plan(), *members(16)), report(limit=3, revision=5))
    assert plan.limit == 3
    late, _ = decide_plan(material(plan, *members(16)), report(limit=9, revision=4))
    assert late.limit == 3
    lifted, shares = decide_plan(material(late, *members(16)), report(limit=None, revision=6))
    assert (lifted.limit, shares) == (None, {})


def test_a_dead_worker_has_no_share() -> None:
    dead = Member("dead", 3, 16, until=1000)
    alive = Member("alive", 0, 16, until=1000 + LEASE_MS)
    _, shares = decide_plan(material(Plan(), dead, alive), report(limit=3, revision=1))
    assert {w: s.slots for w, s in shares.items()} == {"alive": 3}


class LeaseMachine(RuleBasedStateMachine):
    """Workers that start, end, report, die and come back, in any order, while an operator changes the limit: what
    runs is never more than the limit, but for what ran already when it shrank."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000
        self.store = MemoryLimitStore(lambda: self.now)
        self.limit, self.revision = 4, 1
        self.highest = 4  # of the limits that what runs now may have been started under
        self.running = dict.fromkeys("abc", 0)
        self.share = dict.fromkeys("abc", 0)
        self.lease = dict.fromkeys("abc", 0)

    def settle(self) -> None:
        """The higher limit counts until nothing runs and nobody holds a share of it: each worker may still have more
        running than its new share, or hold an old one that it has not used up."""
        if sum(max(self.running[worker], self.share[worker]) for worker in "abc") <= self.limit:
            self.highest = self.limit

    @rule(worker=st.sampled_from("abc"))
    def report(self, worker: str) -> None:
        sent = LaneReport(self.running[worker], 16, True, self.limit, self.revision)
        found = asyncio.run(exchange(self.store, worker, {"email": sent}))["email"]
        assert found is not None
        self.share[worker], self.lease[worker] = found.slots, self.now + LEASE_MS
        self.settle()

    @rule(worker=st.sampled_from("abc"))
    def start(self, worker: str) -> None:
        if self.running[worker] < self.share[worker] and self.now < self.lease[worker]:
            self.running[worker] += 1

    @rule(worker=st.sampled_from("abc"))
    def end(self, worker: str) -> None:
        self.running[worker] = max(self.running[worker] - 1, 0)
        self.settle()

    @rule(worker=st.sampled_from("abc"))
    def die(self, worker: str) -> None:
        self.running[worker] = self.share[worker] = 0
        self.settle()

    @rule(milliseconds=st.sampled_from([100, 600, 1100]))
    def wait(self, milliseconds: int) -> None:
        """Not so long that a lease ends under what runs: its worker would have reported."""
        self.now += milliseconds
        for worker in "abc":
            if self.running[worker] and self.lease[worker] - self.now < 1200:
                self.report(worker)

    @rule(limit=st.integers(1, 8))
    def steer(self, limit: int) -> None:
        self.limit, self.revision = limit, self.revision + 1
        self.highest = max(self.highest, limit)
        self.settle()

    @invariant()
    def never_too_many(self) -> None:
        assert sum(self.running.values()) <= self.highest


# Shares that were given out under a higher limit hold until their worker reports: the bound is the higher one.
LeaseMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLeases = LeaseMachine.TestCase
