"""Between a failure and the next success a worker tries little at once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from jobkit.domain.breaker import BreakerPolicy, Mode, Outcome
from worker.breaker import Breaker
from worker.gate import Gate


def proven(policy: BreakerPolicy | None = None) -> Breaker:
    """One behind which something has succeeded here."""
    breaker = Breaker("email", policy or BreakerPolicy())
    breaker.note(Outcome(uuid4(), "", "email"))
    return breaker


def failing(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.note(Outcome(uuid4(), "DOWN", "email"))


@pytest.mark.parametrize(
    ("workers", "failures", "most"), [(1, 1, 4), (1, 4, 1), (1, 9, 1), (2, 1, 2), (4, 1, 1)]
)
async def test_the_fleet_tries_what_it_needs_to_know(workers: int, failures: int, most: int) -> None:
    breaker = proven()
    breaker.workers = workers
    failing(breaker, failures)
    assert breaker.at_once == most


async def test_what_has_never_succeeded_here_is_tried_singly_for_a_while() -> None:
    breaker = Breaker("email", BreakerPolicy(flush_interval=10))
    assert breaker.at_once is None
    breaker.begin()
    assert breaker.at_once == 1
    await asyncio.sleep(0.015)
    breaker.begin()
    assert breaker.at_once is None
    failing(breaker)
    assert breaker.at_once == 1
    breaker.note(Outcome(uuid4(), "", "email"))
    assert breaker.at_once is None


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.DISABLED])
async def test_a_breaker_that_is_not_enforced_makes_nobody_wait(mode: Mode) -> None:
    breaker = proven(BreakerPolicy(mode=mode))
    breaker.reporting = breaker.suspected = True
    failing(breaker, 9)
    assert not breaker.hesitates
    assert not breaker.crowded


@pytest.mark.parametrize(("workers", "needed"), [(1, 5), (2, 2), (4, 2), (100, 2)])
async def test_a_worker_waits_for_the_answer_once_its_part_has_failed(workers: int, needed: int) -> None:
    breaker = proven()
    breaker.workers, breaker.reporting = workers, True
    failing(breaker, needed - 1)
    assert not breaker.hesitates
    failing(breaker)
    assert breaker.hesitates
    breaker.reporting = False
    assert not breaker.hesitates


async def test_where_nothing_has_succeeded_it_waits_after_the_first_failure() -> None:
    breaker = Breaker("email", BreakerPolicy())
    breaker.reporting = True
    assert not breaker.hesitates
    failing(breaker)
    assert breaker.hesitates


async def test_a_success_ends_the_caution_and_so_does_time() -> None:
    breaker = proven(BreakerPolicy(flush_interval=10))
    assert breaker.at_once is None
    failing(breaker)
    assert breaker.at_once == 4
    await asyncio.sleep(0.03)
    assert breaker.at_once is None
    failing(breaker)
    breaker.note(Outcome(uuid4(), "", "email"))
    assert breaker.at_once is None


async def test_claimed_attempts_wait_for_their_turn() -> None:
    breaker = proven(BreakerPolicy(flush_interval=60_000))
    gate = Gate("email", [breaker], [])
    began: list[int] = []
    go = asyncio.Event()

    async def attempt(number: int) -> None:
        await gate.turn()
        with gate.attempt():
            began.append(number)
            await go.wait()

    failing(breaker)
    tasks = [asyncio.create_task(attempt(number)) for number in range(10)]
    await asyncio.sleep(0.02)
    assert len(began) == 4
    breaker.note(Outcome(uuid4(), "", "email"))
    go.set()
    await asyncio.gather(*tasks)
    assert sorted(began) == list(range(10))


async def test_what_types_share_is_tried_by_one_of_them_at_a_time() -> None:
    shared = Breaker("@smtp", BreakerPolicy(flush_interval=60_000))
    own = [Breaker(name, BreakerPolicy(flush_interval=60_000)) for name in ("email", "letters")]
    gates = [Gate(breaker.name, [breaker, shared], ["smtp"]) for breaker in own]
    began: list[str] = []
    go = asyncio.Event()

    async def attempt(gate: Gate) -> None:
        await gate.turn()
        with gate.attempt():
            began.append(gate.job_type)
            await go.wait()

    tasks = [asyncio.create_task(attempt(gate)) for gate in gates]
    await asyncio.sleep(0.02)
    assert began == ["email"]
    go.set()
    await asyncio.gather(*tasks)
    assert began == ["email", "letters"]


async def test_evidence_that_suffices_stops_a_worker_that_has_failed_once() -> None:
    breaker = proven()
    failing(breaker)
    breaker.reporting = True
    assert not breaker.hesitates
    breaker.suspected = True
    assert breaker.hesitates
