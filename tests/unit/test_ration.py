"""What holds a lane back beside its breakers, as these open and close."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from jobkit.adapters.embedded.limits import MemoryLimitStore
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Mode
from jobkit.domain.limit import Share
from jobkit.domain.pace import IDLE_EPOCHS
from worker.breaker import Breaker
from worker.exchange import exchange
from worker.limits import FleetLimits
from worker.ration import Ration
from worker.runner import Ran

OPEN, CLOSED = BreakerState.OPEN, BreakerState.CLOSED
SMTP = "@smtp"


class Fleet:
    """One worker's lanes of types that all need one dependency, and the store that it asks."""

    def __init__(self, *types: str) -> None:
        self.now = 100.0
        self.generation = 0
        self.most = 16
        self.running = dict.fromkeys(types, 0)
        self.pumped: list[str] = []
        self.store = MemoryLimitStore(lambda: round(self.now * 1000))
        self.limits = FleetLimits(self.store, "w", lambda name: None)
        self.breakers = {name: Breaker(name, BreakerPolicy()) for name in (*types, SMTP)}
        self.rations = {name: self.ration(name) for name in types}
        self.heed()

    def ration(self, name: str) -> Ration:
        behind = [self.breakers[SMTP], self.breakers[name]]
        usage = lambda: (self.running[name], self.most)  # noqa: E731
        return Ration(name, behind, self.limits, usage, lambda: self.pumped.append(name))

    def heed(self) -> None:
        for ration in self.rations.values():
            ration.heed(self.now)

    def moves(self, name: str, *states: BreakerState) -> None:
        for state in states:
            self.generation += 1
            record = replace(BreakerRecord(name), state=state, generation=self.generation)
            self.breakers[name].learn(record)
            self.heed()

    def ask(self, lacked: bool = True) -> None:
        """Report what is limited, a little over an epoch after the last time."""
        self.now += 1.1
        for name in self.breakers:
            allowance = self.limits.of(name)
            if allowance.quota.limited:
                allowance.quota.lacked = lacked
                sent = allowance.report(self.now)
                share = asyncio.run(exchange(self.store, "w", {name: sent}))[name]
                allowance.answered(share, self.now, self.now)

    def limited(self, name: str = "email") -> bool:
        return self.limits.of(name).quota.limited

    def rate(self, name: str = "email") -> float | None:
        return self.limits.of(name).quota.rate


@pytest.fixture
def fleet() -> Fleet:
    return Fleet("email", "receipt")


@pytest.mark.parametrize("name", ["email", SMTP])
def test_a_breaker_that_closes_begins_a_recovery(fleet: Fleet, name: str) -> None:
    fleet.moves(name, OPEN)
    assert not fleet.limited(name)
    fleet.moves(name, CLOSED)
    fleet.ask()
    assert fleet.rate(name) == 20


@pytest.mark.parametrize(("first", "last"), [("email", SMTP), (SMTP, "email")])
def test_two_breakers_that_close_apart_both_begin_one(fleet: Fleet, first: str, last: str) -> None:
    fleet.moves(first, OPEN)
    fleet.moves(last, OPEN)
    fleet.moves(first, CLOSED)
    fleet.most = 0  # the other one holds the lane
    for _ in range(2 * IDLE_EPOCHS):
        fleet.ask(lacked=False)
    fleet.moves(last, CLOSED)
    fleet.most = 16
    fleet.ask()
    assert (fleet.rate(first), fleet.rate(last)) == (20, 20)


def test_a_recovery_waits_while_the_type_is_held(fleet: Fleet) -> None:
    fleet.moves("email", OPEN, CLOSED)
    fleet.ask()
    fleet.most = 0
    for _ in range(2 * IDLE_EPOCHS):
        fleet.ask(lacked=False)
    fleet.most = 16
    fleet.ask()
    assert fleet.rate()
    for _ in range(IDLE_EPOCHS):
        fleet.ask(lacked=False)
    assert not fleet.limited()


def test_a_breaker_that_was_closed_before_our_time_may_have_begun_one(fleet: Fleet) -> None:
    fleet.moves("email", CLOSED)
    assert fleet.limited()
    fleet.ask()
    assert not fleet.limited()
    fleet.heed()
    assert not fleet.limited()


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.DISABLED])
def test_a_breaker_that_is_not_enforced_paces_nothing(fleet: Fleet, mode: Mode) -> None:
    fleet.breakers["email"].policy = BreakerPolicy(mode=mode)
    for state in (CLOSED, OPEN, CLOSED):
        fleet.moves("email", state)
        assert not fleet.limited()


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.DISABLED])
@pytest.mark.parametrize("open_", [True, False])
def test_a_breaker_that_is_no_longer_enforced_paces_no_more(fleet: Fleet, mode: Mode, open_: bool) -> None:
    fleet.moves("email", OPEN)
    if not open_:
        fleet.moves("email", CLOSED)
        fleet.ask()
    fleet.breakers["email"].policy = BreakerPolicy(mode=mode)
    fleet.heed()
    assert not fleet.limited()
    fleet.moves("email", CLOSED)
    assert not fleet.limited()


# -- types behind one dependency


def test_they_share_its_pace(fleet: Fleet) -> None:
    fleet.moves(SMTP, OPEN, CLOSED)
    fleet.ask()
    started = dict.fromkeys(fleet.rations, 0)
    for _ in range(1000):
        fleet.now += 0.001
        for name, ration in fleet.rations.items():
            if not ration.wait(0, fleet.now):
                ration.on_start(fleet.now)
                started[name] += 1
    assert sum(started.values()) == pytest.approx(20, abs=2)


def test_they_share_its_slots_and_take_turns_at_them(fleet: Fleet) -> None:
    fleet.moves(SMTP, OPEN, CLOSED)
    fleet.limits.of(SMTP).quota.grant(Share(1), fleet.now)
    email, receipt = fleet.rations["email"], fleet.rations["receipt"]
    assert email.share == receipt.share == 1
    assert email.wait(0, fleet.now) == 0
    fleet.running["email"] = 1
    assert receipt.wait(0, fleet.now) == email.wait(1, fleet.now) == math.inf
    for _ in range(2):
        email.on_end(None, fleet.now)
    assert fleet.pumped == ["receipt", "email"]


@pytest.mark.parametrize(
    ("codes", "failed"),
    [({SMTP: "DOWN"}, 1), ({"email": "BAD", SMTP: "BAD"}, 1), ({"email": "BAD"}, 0), ({}, 1)],
    ids=["its failure", "nobody named", "the type's own", "asked to be left alone"],
)
def test_what_fails_on_a_types_own_account_does_not_slow_the_others(
    fleet: Fleet, codes: dict[str, str], failed: int
) -> None:
    fleet.moves(SMTP, OPEN, CLOSED)
    fleet.rations["email"].on_end(Ran(False, 0.1, codes), fleet.now)
    assert fleet.limits.of(SMTP).report(fleet.now).failed == failed


def test_who_has_nothing_to_do_behind_a_dependency_leaves_its_part_to_others(fleet: Fleet) -> None:
    fleet.moves(SMTP, OPEN, CLOSED)
    allowance = fleet.limits.of(SMTP)
    assert allowance.report(fleet.now).most == 1
    allowance.quota.lacked = True
    assert allowance.report(fleet.now).most == 32
    fleet.running["email"] = 1
    assert allowance.report(fleet.now).most == 32
    fleet.most = 0
    assert allowance.report(fleet.now).most == 0
