"""Trip to quiet: from the failure that decides until no worker of a hundred starts another job of the type.

The workers are simulated by what matters here: each has breakers of its own, over a connection of its own to a real
Redis, and runs jobs one after the other as long as its gate admits them."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from uuid import uuid4

from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.adapters.redis.breakers import RedisBreakerStore
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Outcome
from tests.drills.dependency import Call, Dependency, Refused, Weather, bad
from tests.drills.figures import Drill, percentile
from tests.drills.traffic import until
from worker.breakers import Breakers
from worker.fallback import FallbackStore
from worker.gate import Answer

WORKERS = 100
# Attempts a second of the whole fleet: what a worker does besides is nothing to do with the time that is measured.
RATE = 400.0


class NoLedger:
    """The drill has no database."""

    async def record(self, record: BreakerRecord) -> int:
        return 0

    async def latest(self, names: object = None) -> dict[str, BreakerRecord]:
        return {}


class Simulated:
    """One worker. `heard_at`: Unix time at which its gate was shut."""

    def __init__(self, number: int, url: str, namespace: str, job_type: str, dependency: Dependency) -> None:
        self.name = f"w{number:03}"
        self.starts: list[float] = []
        self.heard_at = 0.0
        self._dependency = dependency
        self._store = RedisBreakerStore(url, namespace)
        fallback = FallbackStore(self._store, MemoryBreakerStore, self.name)
        self.breakers = Breakers(fallback, NoLedger(), BreakerPolicy(), self.name, self._changed)  # type: ignore[arg-type]
        self.gate = self.breakers.gate(job_type)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.breakers.refresh_gates([self.gate.job_type])
        self.breakers.start()
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.breakers.stop()
        await self._store.close()

    def _changed(self, name: str, record: BreakerRecord) -> None:
        if record.state is BreakerState.OPEN and not self.heard_at:
            self.heard_at = time.time()

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0, 2 * WORKERS / RATE))
            await self.gate.turn()
            if not self.gate.admits:
                continue
            began, job_id, job_type = self.gate.generations, uuid4(), self.gate.job_type
            self.starts.append(time.time())
            code = ""
            with self.gate.attempt():
                try:
                    await self._dependency.call(self.name, str(job_id))
                except Refused as refusal:
                    code = refusal.code
                self.breakers.finished(began, Answer({job_type: Outcome(job_id, code, job_type)}))


async def test_trip_to_quiet_of_100_workers(
    redis_url: str, namespace: str, drill: Drill, scale: float
) -> None:
    job_type = f"{namespace}-email"
    numbers = range(max(round(5 * scale), 1))
    rounds = [await trip(redis_url, namespace, f"{job_type}-{number}") for number in numbers]
    quiet = [quiet for quiet, _, _ in rounds]
    drill.at_most(f"failure that decides until quiet, worst of {len(rounds)}", max(quiet), 0.5, " s")
    drill.tell("the same, median", f"{percentile(quiet, 50):.3f} s")
    drill.tell("openings heard by the last worker, worst", f"{max(heard for _, heard, _ in rounds):.3f} s")
    drill.tell("calls that failed, worst", max(failed for _, _, failed in rounds))
    drill.judge()


async def trip(url: str, namespace: str, job_type: str) -> tuple[float, float, int]:
    """Seconds from the deciding failure to the last start, to the last worker's hearing of it, and failed calls. What
    decides is the failure by which as many attempts in a row as open a breaker had failed: not before somebody has
    been told, but in the order in which they ended, wherever that was."""
    dependency = Dependency(Weather(latency=0.01))
    workers = [Simulated(number, url, namespace, job_type, dependency) for number in range(WORKERS)]
    for start in range(0, WORKERS, 10):
        await asyncio.gather(*(worker.start() for worker in workers[start : start + 10]))
    try:
        await asyncio.sleep(4)
        dependency.weather = Weather(down=True, fails_in=0.001)
        opened = await until(lambda: all(worker.heard_at for worker in workers), 10)
        await asyncio.sleep(1)
    finally:
        for start in range(0, WORKERS, 10):
            await asyncio.gather(*(worker.stop() for worker in workers[start : start + 10]))
    assert opened, "not every worker heard of it"
    decided = streak_complete(dependency.calls, BreakerPolicy().streak_needed)
    last = max(start for worker in workers for start in worker.starts)
    return max(last - decided, 0.0), max(w.heard_at for w in workers) - decided, len(bad(dependency.calls))


def streak_complete(calls: Sequence[Call], needed: int) -> float:
    """When the first streak of `needed` failures was complete; Unix time."""
    ended = sorted((call for call in calls if call.ended < math.inf), key=lambda call: call.ended)
    streak = 0
    for call in ended:
        streak = streak + 1 if call.code else 0
        if streak == needed:
            return call.ended
    raise AssertionError(f"never {needed} failures in a row")
