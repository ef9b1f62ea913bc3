"""The load generator of every contender: orders come in as lines of JSON, and a line answers each.

    {"do": "submit", "task": "noop", "door": "one", "total": 8000, "width": 32}
    {"do": "pace", "task": "noop", "door": "one", "total": 2000, "rate": 500.0}

Both are answered with {"jobs": …, "began": …, "ended": …}, Unix seconds. `submit` keeps `width` calls in flight;
the door "many" hands over BATCH jobs a call. `pace` submits on schedule, whether or not those before are through,
and a job's `sent` is the moment that was planned: a client that falls behind can't hide it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

BATCH = 500
THREADS = 32  # at most that many calls in flight without asyncio
SENDERS = 4  # threads with which such a client keeps a schedule

Order = dict[str, Any]
Door = Callable[[str, Any], Any]
"""Submits a job of a task, given when it is sent; "many" is given as many moments as jobs."""


def _orders() -> Iterator[Order]:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        yield json.loads(line)


def _answer(jobs: int, began: float, ended: float) -> None:
    print(json.dumps({"jobs": jobs, "began": began, "ended": ended}), flush=True)


def _calls(doors: dict[str, Door], order: Order) -> tuple[int, Callable[[], Any]]:
    """How many calls, and what each of them does."""
    door, task = doors[order["door"]], order["task"]
    if order["door"] == "many":
        return -(-order["total"] // BATCH), lambda: door(task, [time.time()] * BATCH)
    return order["total"], lambda: door(task, time.time())


def _jobs(order: Order) -> int:
    total: int = order["total"]
    return -(-total // BATCH) * BATCH if order.get("door") == "many" else total


# -- for libraries whose calls block: `width` calls in flight are as many threads


def serve(**doors: Door) -> None:
    """`one` is needed, `many` is not. Threads live as long as the client: libraries keep a connection for each, and
    what a dying thread's connection has not told the server yet is lost."""
    pool = ThreadPoolExecutor(THREADS)
    for order in _orders():
        if order["do"] == "pace":
            began = _pace(pool, doors[order["door"]], order)
        else:
            began = time.time()
            _lanes(pool, *_calls(doors, order), order["width"])
        _answer(_jobs(order), began, time.time())


def _lanes(pool: ThreadPoolExecutor, total: int, call: Callable[[], Any], width: int) -> None:
    numbers = itertools.count()

    def lane() -> None:
        while next(numbers) < total:
            call()

    if width == 1:
        lane()
        return
    for ended in [pool.submit(lane) for _ in range(width)]:
        ended.result()


def _pace(pool: ThreadPoolExecutor, door: Door, order: Order) -> float:
    """When the schedule began."""
    first = time.time() + 0.05
    numbers = itertools.count()

    def sender() -> None:
        while (number := next(numbers)) < order["total"]:
            planned = first + number / order["rate"]
            time.sleep(max(planned - time.time(), 0))
            door(order["task"], planned)

    for ended in [pool.submit(sender) for _ in range(SENDERS)]:
        ended.result()
    return first


# -- for libraries on asyncio: `width` calls in flight are as many coroutines


async def serve_async(**doors: Callable[[str, Any], Coroutine[Any, Any, Any]]) -> None:
    """`one` is needed, others are not."""
    loop = asyncio.get_running_loop()
    orders = _orders()
    while (order := await loop.run_in_executor(None, next, orders, None)) is not None:
        if order["do"] == "pace":
            began = await _pace_async(doors[order["door"]], order)
        else:
            began = time.time()
            await _lanes_async(*_calls(doors, order), order["width"])
        _answer(_jobs(order), began, time.time())


async def _lanes_async(total: int, call: Callable[[], Awaitable[Any]], width: int) -> None:
    numbers = itertools.count()

    async def lane() -> None:
        while next(numbers) < total:
            await call()

    await asyncio.gather(*[lane() for _ in range(width)])


async def due(first: float, total: int, rate: float) -> AsyncIterator[float]:
    """The moments of a schedule, each when it has come. Calls are made then: who makes all of them before the first
    is late for it."""
    for number in range(total):
        planned = first + number / rate
        if (early := planned - time.time()) > 0:
            await asyncio.sleep(early)
        yield planned


async def _pace_async(door: Callable[[str, Any], Coroutine[Any, Any, Any]], order: Order) -> float:
    """When the schedule began. A call that fails ends it."""
    first = time.time() + 0.05
    async with asyncio.TaskGroup() as group:
        async for planned in due(first, order["total"], order["rate"]):
            group.create_task(door(order["task"], planned))
    return first
