"""Between a failure and the next success a worker tries little at once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from jobkit.domain.breaker import BreakerPolicy, Outcome
from worker.breaker import Breaker
from worker.gate import Gate


def failing(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.note(Outcome(uuid4(), "DOWN", "email"))


@pytest.mark.parametrize(
    ("workers", "failures", "most"), [(1, 1, 4), (1, 4, 1), (1, 9, 1), (2, 1, 2), (4, 1, 1)]
)
async def test_the_fleet_tries_what_it_needs_to_know(workers: int, failures: int, most: int) -> None:
    breaker = Breaker("email", BreakerPolicy())
    breaker.workers = workers
    failing(breaker, failures)
    assert breaker.at_once == most


async def test_a_success_ends_the_caution_and_so_does_time() -> None:
    breaker = Breaker("email", BreakerPolicy(flush_interval=10))
    assert breaker.at_once is None
    failing(breaker)
    assert breaker.at_once == 4
    await asyncio.sleep(0.03)
    assert breaker.at_once is None
    failing(breaker)
    breaker.note(Outcome(uuid4(), "", "email"))
    assert breaker.at_once is None


async def test_claimed_attempts_wait_for_their_turn() -> None:
    breaker = Breaker("email", BreakerPolicy(flush_interval=60_000))
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


async def test_evidence_that_suffices_stops_a_worker_that_has_failed_once() -> None:
    breaker = Breaker("email", BreakerPolicy())
    failing(breaker)
    breaker.reporting = True
    assert not breaker.hesitates
    breaker.suspected = True
    assert breaker.hesitates
