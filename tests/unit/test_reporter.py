"""What workers tell of their attempts, when, and what they wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from jobkit.adapters import tape
from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.domain.attempts import Logged, Moved
from jobkit.domain.breaker import NOBODY, BreakerPolicy, BreakerRecord, BreakerState, Evidence, Outcome
from jobkit.domain.tripping import decide_probe_time, open_by_hand
from worker.breakers import Breakers
from worker.fallback import FallbackStore
from worker.gate import Answer

NAME, OTHER = "email", "sms"
POLICY = BreakerPolicy()
IGNORED = Outcome(uuid4(), "GONE", NAME, took=7, ignored=True)


class NoLedger:
    async def record(self, record: BreakerRecord) -> int:
        return 0

    async def latest(self, names: object = None) -> dict[str, BreakerRecord]:
        return {}


@pytest.fixture
def store() -> MemoryBreakerStore:
    return MemoryBreakerStore()


Hire = Callable[[str, BreakerPolicy], Breakers]


@pytest.fixture
async def hire(store: MemoryBreakerStore) -> AsyncIterator[Hire]:
    """Breakers of a worker; they flush when they are told to."""
    hired: list[Breakers] = []

    def hire(worker: str, policy: BreakerPolicy = POLICY) -> Breakers:
        shared = FallbackStore(store, MemoryBreakerStore, worker)
        hired.append(Breakers(shared, NoLedger(), policy, worker, lambda name, record: None))  # type: ignore[arg-type]
        return hired[-1]

    yield hire
    for breakers in hired:
        await breakers.stop()


def tell(breakers: Breakers, codes: str, name: str = NAME) -> None:
    """Attempts end now: "." well, "A" badly."""
    for code in codes:
        breakers.report(name, uuid4(), code.strip("."), breakers.of(name).generation)


def told(codes: str, worker: str) -> Evidence:
    return Evidence(0, tuple(Outcome(uuid4(), code.strip("."), NAME) for code in codes), worker)


async def recent(store: MemoryBreakerStore, name: str = NAME) -> str:
    return "".join(code or "." for code in (await store.window(name, 50, 60_000)).recent)


async def test_who_waits_for_the_reports_of_others_keeps_no_other_breakers_successes_waiting(
    store: MemoryBreakerStore, hire: Hire
) -> None:
    worker = hire("me", replace(POLICY, flush_interval=60_000))
    for other in ("first", "second"):
        await store.report(NAME, told("AAAA." * 5, other), 50, 60_000)
    tell(worker, ".")
    tell(worker, "...", OTHER)
    async with asyncio.timeout(5):
        await worker._flush()
    assert worker.of(NAME).hesitates
    assert await recent(store, OTHER) == "..."


async def test_where_nothing_succeeded_a_failure_is_followed_by_a_pause_that_ends_by_itself(
    hire: Hire,
) -> None:
    breaker = (worker := hire("me", replace(POLICY, flush_interval=1_000))).of(NAME)
    began = asyncio.get_running_loop().time()
    tell(worker, "A")
    await asyncio.sleep(0.05)
    assert breaker.hesitates
    async with asyncio.timeout(5):
        await breaker.decided()
    assert not breaker.hesitates
    assert asyncio.get_running_loop().time() - began >= 0.18


async def test_a_failure_in_a_pause_is_told_at_once(store: MemoryBreakerStore, hire: Hire) -> None:
    worker = hire("me", replace(POLICY, flush_interval=60_000))
    for so_far in ("A", "AA", "AAA"):
        tell(worker, "A")
        async with asyncio.timeout(5):
            while await recent(store) != so_far:
                await asyncio.sleep(0.005)
    assert worker.of(NAME).hesitates


async def log(store: MemoryBreakerStore) -> list[Logged]:
    return list(tape.read(NAME, await store.log(NAME, 1000)))


async def test_attempts_that_are_ignored_are_told_with_the_next_flush_and_make_nobody_wait(
    store: MemoryBreakerStore, hire: Hire
) -> None:
    worker = hire("me")
    breaker = worker.of(NAME)
    for _ in range(20):
        worker.finished({NAME: 0}, Answer({NAME: IGNORED}))
    await asyncio.sleep(0)
    assert not breaker.reporting
    assert breaker.at_once is None
    await worker._flush()
    await breaker.decided()
    window = await store.window(NAME, 50, 60_000)
    assert (window.seen, window.failures, window.workers) == ((), {}, 0)
    assert [entry.what.outcomes for entry in await log(store) if isinstance(entry.what, Evidence)] == [
        (IGNORED,) * 20
    ]


async def test_a_probe_that_is_ignored_says_nothing_and_is_logged(
    store: MemoryBreakerStore, hire: Hire
) -> None:
    worker = hire("me")
    opened = open_by_hand(BreakerRecord(NAME), await store.now(), 1, "", "")
    half_open = decide_probe_time(opened, opened.generation)
    assert half_open is not None
    assert await store.swap(NAME, 0, half_open)
    await worker.refresh([NAME])
    await worker.answered(NAME, half_open.generation, IGNORED)
    assert worker.of(NAME).record.state is BreakerState.HALF_OPEN
    told = (await log(store))[-1].what
    assert isinstance(told, Evidence)
    assert (told.generation, told.outcomes) == (half_open.generation, (IGNORED,))
    good = Outcome(uuid4(), "", NAME, took=3)
    await worker.answered(NAME, half_open.generation, good)
    moved = (await log(store))[-1].what
    assert isinstance(moved, Moved)
    assert moved.probe == replace(good, job_id=NOBODY)
