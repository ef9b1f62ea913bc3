"""Concurrent callers share one call, in order and within bounds; nobody waits for an answer that cannot come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from jobkit.runtime.batcher import Batcher, Rhythm
from tests.model.timeless import TimelessLoop


class Work:
    """Doubles numbers once it is let; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.began = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        self.began.set()
        await self.go.wait()
        return [ValueError(f"{n} is bad") if n < 0 else n * 2 for n in items]


@pytest.fixture
async def work() -> Work:
    return Work()


async def blocked(work: Work, batcher: Batcher[int, int]) -> asyncio.Future[int]:
    """A first batch in flight, so that what is added next has to wait."""
    work.go.clear()
    first = batcher.add(0)
    await work.began.wait()
    return first


async def test_a_lone_caller_waits_for_nobody(work: Work) -> None:
    assert await Batcher(work).do(21) == 42
    assert work.batches == [[21]]


async def test_callers_of_one_turn_share_a_call_in_order(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work)
    assert await asyncio.gather(*(batcher.do(n) for n in range(5))) == [0, 2, 4, 6, 8]
    assert work.batches == [[0, 1, 2, 3, 4]]


async def test_a_batch_forms_while_the_one_before_it_is_in_flight(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work)
    first = await blocked(work, batcher)
    later = []
    for n in (1, 2, 3):
        later.append(batcher.add(n))
        await asyncio.sleep(0)
    assert batcher.pending == 3
    work.go.set()
    assert await asyncio.gather(first, *later) == [0, 2, 4, 6]
    assert work.batches == [[0], [1, 2, 3]]


async def test_as_many_full_batches_are_in_flight_as_there_are_lanes(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, max_items=2, lanes=2)
    first = await blocked(work, batcher)
    rest = [batcher.add(n) for n in (1, 2, 3, 4)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert work.batches == [[0], [1, 2]]
    assert batcher.pending == 2
    work.go.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8]


async def test_a_batch_that_is_not_full_waits_for_the_one_in_flight(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, max_items=2, lanes=2, rhythm=Rhythm(late=60))
    first = await blocked(work, batcher)
    second = batcher.add(1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert work.batches == [[0]]
    third = batcher.add(2)
    for _ in range(2):
        await asyncio.sleep(0)
    assert work.batches == [[0], [1, 2]]
    work.go.set()
    assert await asyncio.gather(first, second, third) == [0, 2, 4]


async def test_what_fills_a_batch_by_its_bytes_goes_beside_the_one_in_flight(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(
        work, max_bytes=10, size=lambda n: n, lanes=2, rhythm=Rhythm(late=60)
    )
    await blocked(work, batcher)
    large = batcher.add(12)
    for _ in range(2):
        await asyncio.sleep(0)
    assert work.batches == [[0], [12]]
    work.go.set()
    assert await large == 24


async def test_a_late_batch_holds_nobody_up(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, lanes=2, rhythm=Rhythm(late=0.001))
    first = await blocked(work, batcher)
    work.began.clear()
    second = batcher.add(1)
    await work.began.wait()  # although the first is still in flight
    assert work.batches == [[0], [1]]
    work.go.set()
    assert await asyncio.gather(first, second) == [0, 2]


async def test_a_batch_of_callers_that_overlap_waits_for_three_quarters_of_them(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, rhythm=Rhythm(crowd=60))
    first = await blocked(work, batcher)
    rest = [batcher.add(n) for n in range(1, 8)]
    work.go.set()
    await asyncio.gather(first, *rest)  # seven of eight: enough
    again = [batcher.add(n) for n in range(5)]
    await asyncio.sleep(0.01)
    assert len(work.batches) == 2  # the next one waits for more
    again.append(batcher.add(5))
    assert await asyncio.gather(*again) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]]


async def test_two_callers_do_not_wait_for_each_other(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, rhythm=Rhythm(crowd=60))
    first = await blocked(work, batcher)
    second = batcher.add(1)
    work.go.set()
    assert await asyncio.gather(first, second) == [0, 2]
    assert work.batches == [[0], [1]]


async def test_a_full_batch_waits_for_nobody(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, rhythm=Rhythm(crowd=60), max_items=2)
    first = await blocked(work, batcher)
    rest = [batcher.add(n) for n in (1, 2)]
    work.go.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4]


async def test_a_lone_caller_waits_for_nobody_however_often_it_comes(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, rhythm=Rhythm(crowd=60))
    assert [await batcher.do(n) for n in (1, 2, 3)] == [2, 4, 6]
    assert work.batches == [[1], [2], [3]]


async def test_what_waited_for_others_begins_in_time(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, rhythm=Rhythm(crowd=0.01))
    first = await blocked(work, batcher)
    rest = [batcher.add(n) for n in range(1, 8)]
    work.go.set()
    await asyncio.gather(first, *rest)
    assert await asyncio.gather(*(batcher.add(n) for n in (8, 9))) == [16, 18]
    assert work.batches[2:] == [[8, 9]]


@pytest.mark.parametrize(
    ("gap", "begins", "holds"),
    [
        pytest.param(0.002, 0.003, 2, id="few come"),
        pytest.param(0.0006, 0.012, 20, id="many come"),
        pytest.param(0.0001, 0.003, 30, id="more than enough come"),
    ],
)
def test_a_crowd_is_waited_for_as_long_as_it_comes_in_numbers(gap: float, begins: float, holds: int) -> None:
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        began, size = runner.run(_steady_crowd(gap))
    assert began == pytest.approx(begins, abs=0.0005)
    assert abs(size - holds) <= 1


async def _steady_crowd(gap: float) -> tuple[float, int]:
    """When the batch that waited began, by its first caller's clock, and how many it held."""
    loop = asyncio.get_running_loop()
    batches: list[tuple[float, int]] = []

    async def work(items: Sequence[int]) -> Sequence[int]:
        batches.append((loop.time(), len(items)))
        await asyncio.sleep(0.0001)
        return items

    batcher: Batcher[int, int] = Batcher(work, rhythm=Rhythm(crowd=0.003, longest=0.012))
    for _ in range(40):
        batcher.add(0)
    await asyncio.sleep(0.00005)
    first = loop.time()
    while len(batches) < 2:
        batcher.add(1)
        await asyncio.sleep(gap)
    await batcher.drain()
    began, size = batches[1]
    return began - first, size


def test_callers_who_wait_for_their_answers_are_not_waited_for() -> None:
    """Eight that come back one by one, each as soon as it has its answer: most of the time a batch is in flight."""
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        assert runner.run(_eight_callers(rounds=20)) < 2.3 * 0.003


async def _eight_callers(rounds: int) -> float:
    """How long a round of all of them takes, with batches of 3 ms."""
    loop = asyncio.get_running_loop()

    async def work(items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0.003)
        return items

    batcher: Batcher[int, int] = Batcher(work, rhythm=Rhythm(crowd=0.003, longest=0.012))

    async def caller(number: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0.0001 * number)
            await batcher.do(number)

    began = loop.time()
    await asyncio.gather(*(caller(number) for number in range(8)))
    return (loop.time() - began) / rounds


async def test_a_batch_is_bounded_by_items(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, max_items=2)
    await asyncio.gather(*(batcher.do(n) for n in range(5)))
    assert work.batches == [[0, 1], [2, 3], [4]]


async def test_a_batch_is_bounded_by_bytes_and_one_large_item_goes_alone(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, max_bytes=10, size=lambda n: n)
    await asyncio.gather(*(batcher.do(n) for n in (4, 6, 1, 50, 2)))
    assert work.batches == [[4, 6], [1], [50], [2]]


async def test_an_exception_in_place_of_an_answer_reaches_its_caller_alone(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work)
    good, bad, other = await asyncio.gather(*map(batcher.do, (1, -1, 2)), return_exceptions=True)
    assert (good, other) == (2, 4)
    assert isinstance(bad, ValueError)
    assert str(bad) == "-1 is bad"


async def test_all_callers_of_a_failed_batch_get_its_exception_and_the_next_batch_goes_on() -> None:
    calls = 0

    async def fail_once(items: Sequence[int]) -> Sequence[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("away")
        return list(items)

    batcher: Batcher[int, int] = Batcher(fail_once)
    answers = await asyncio.gather(batcher.do(1), batcher.do(2), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["away", "away"]
    assert await batcher.do(3) == 3


async def test_too_few_answers_leave_nobody_waiting() -> None:
    async def forgetful(items: Sequence[int]) -> Sequence[int]:
        return [1]

    batcher: Batcher[int, int] = Batcher(forgetful)
    answers = await asyncio.gather(batcher.do(1), batcher.do(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ValueError, ValueError]


async def test_a_caller_that_goes_away_takes_nobody_along(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work)
    await blocked(work, batcher)
    leaving, staying = asyncio.create_task(batcher.do(1)), asyncio.create_task(batcher.do(2))
    await asyncio.sleep(0)
    leaving.cancel()
    work.go.set()
    assert await staying == 4
    assert leaving.cancelled()
    # Its item is done nevertheless: it may have been half-way through already.
    assert work.batches == [[0], [1, 2]]


async def test_failures_that_nobody_waits_for_are_not_reported_to_the_loop(work: Work) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    batcher: Batcher[int, int] = Batcher(work)
    batcher.add(-1)
    await batcher.drain()
    assert complaints == []


async def test_drain_waits_for_everything_added_so_far(work: Work) -> None:
    batcher: Batcher[int, int] = Batcher(work, max_items=1)
    first = await blocked(work, batcher)
    last = batcher.add(1)
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0.01)
    assert not draining.done()
    work.go.set()
    await draining
    assert (first.result(), last.result()) == (0, 2)
    await batcher.drain()


async def test_a_cancelled_batch_cancels_its_callers() -> None:
    async def cancelled(items: Sequence[int]) -> Sequence[int]:
        raise asyncio.CancelledError

    batcher: Batcher[int, int] = Batcher(cancelled)
    with pytest.raises(asyncio.CancelledError):
        await batcher.do(1)
