"""A fleet that drains a backlog through a dependency of limited capacity, in virtual time: the real algorithm, the
real (embedded) store, the real pacer; modelled are the workers' loops and the dependency."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from jobkit.adapters.embedded.limits import MemoryLimitStore
from worker.exchange import exchange
from worker.quota import Quota

REPORT_SECONDS = 0.5
OVERHEAD = 0.03  # seconds that a slot is taken beside the call: claim, settle, ack


class Dependency(Protocol):
    def call(self, now: float) -> tuple[bool, float]:
        """Whether it is served, and how long until the answer (seconds)."""


@dataclass
class Bucket:
    """Serves `capacity` a second, with bursts of up to `burst`; refuses the rest at once, or after `refuses_in`."""

    capacity: Callable[[float], float]
    latency: float
    burst: float = 15.0
    refuses_in: float = 0.001
    noise: float = 0.0
    tokens: float = 15.0
    at: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def call(self, now: float) -> tuple[bool, float]:
        self.tokens = min(self.tokens + (now - self.at) * self.capacity(now), self.burst)
        self.at = now
        if self.tokens < 1:
            return False, self.refuses_in
        self.tokens -= 1
        return self.dice.random() >= self.noise, self.latency


@dataclass
class Window:
    """Serves `capacity` calls in any second, and refuses the rest at once."""

    capacity: int
    latency: float
    seen: deque[float] = field(default_factory=deque)

    def call(self, now: float) -> tuple[bool, float]:
        while self.seen and self.seen[0] <= now - 1:
            self.seen.popleft()
        if len(self.seen) >= self.capacity:
            return False, 0.001
        self.seen.append(now)
        return True, self.latency


@dataclass
class Queue:
    """Serves one after the other and lets the rest wait: it shows overload by latency only."""

    capacity: float
    latency: float
    free: float = 0.0

    def call(self, now: float) -> tuple[bool, float]:
        self.free = max(self.free, now) + 1 / self.capacity
        return True, self.free - now + self.latency


@dataclass
class Cap:
    """So many at once, each for `latency`; refuses the rest at once."""

    places: int
    latency: float
    busy: list[float] = field(default_factory=list)

    def call(self, now: float) -> tuple[bool, float]:
        self.busy = [end for end in self.busy if end > now]
        if len(self.busy) >= self.places:
            return False, 0.001
        self.busy.append(now + self.latency)
        return True, self.latency


@dataclass
class BrownOut:
    """So many at once, each for `latency`; others wait in line. A share of them fails, after its time."""

    places: int
    latency: float
    errors: float
    seed: int = 1

    def __post_init__(self) -> None:
        self.free = [0.0] * self.places
        self.dice = random.Random(self.seed)

    def call(self, now: float) -> tuple[bool, float]:
        ends = max(heapq.heappop(self.free), now) + self.latency
        heapq.heappush(self.free, ends)
        return self.dice.random() >= self.errors, ends - now


@dataclass
class Figures:
    seconds: float = 0.0
    refused: int = 0
    most_leased: int = 0
    rates: list[float] = field(default_factory=list)
    by_worker: dict[str, int] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    unlimited_at: float | None = None


class Worker:
    """One quota, of the breaker that closed, for the lanes of all types behind it."""

    def __init__(self, name: str, types: Sequence[str], now: float) -> None:
        self.name = name
        self.quota = Quota()
        self.quota.limit(now)
        self.lanes = [Lane(self, kind) for kind in types]

    @property
    def in_use(self) -> int:
        return sum(lane.in_use for lane in self.lanes)


@dataclass
class Lane:
    worker: Worker
    job_type: str
    in_use: int = 0
    waiting: bool = False


class Fleet:
    """Refused jobs go back to the backlog; it is drained once every job was served. `parts` says which part of it is
    of which type."""

    def __init__(
        self,
        dependency: Dependency,
        workers: int = 2,
        backlog: int = 10_000,
        per_type: int = 250,
        seed: int = 3,
        parts: Sequence[float] = (1.0,),
    ) -> None:
        self.now = 1000.0
        self.dependency = dependency
        self.backlog = {f"type-{n}": round(backlog * part) for n, part in enumerate(parts)}
        self.left = sum(self.backlog.values())
        self.per_type = per_type
        self.dice = random.Random(seed)
        self.store = MemoryLimitStore(lambda: round(self.now * 1000))
        self.workers = [Worker(f"w{n}", list(self.backlog), self.now) for n in range(workers)]
        self.figures = Figures(by_worker={worker.name: 0 for worker in self.workers})
        self._events: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._order = count()

    def at(self, when: float, what: Callable[..., Any], *args: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, args))

    async def drain(self, patience: float = 400.0) -> Figures:
        started = self.now
        for worker in self.workers:
            self.at(self.now + self.dice.uniform(0, 0.5), self.report, worker)
        while self.left and self._events:
            self.now, _, what, args = heapq.heappop(self._events)
            if self.now - started > patience:
                break
            done = what(*args)
            if done is not None:
                await done
        self.figures.seconds = self.now - started
        return self.figures

    async def report(self, worker: Worker) -> None:
        quota = worker.quota
        if not quota.limited:
            return
        self.at(self.now + REPORT_SECONDS + self.dice.uniform(0, 0.01), self.report, worker)
        sent = quota.report(worker.in_use, self.per_type, (None, 0), 7, self.now)
        share = (await exchange(self.store, worker.name, {"@smtp": sent}))["@smtp"]
        if share is None:
            self.figures.unlimited_at = self.figures.unlimited_at or self.now
            quota.unlimit()
        else:
            quota.grant(share, self.now)
        held = sum(max(w.quota.slots or 0, w.in_use) for w in self.workers)
        self.figures.most_leased = max(self.figures.most_leased, held)
        self.figures.rates.append(sum(w.quota.rate or 0.0 for w in self.workers))
        for lane in worker.lanes:
            self.pump(lane)

    def wake(self, lane: Lane) -> None:
        lane.waiting = False
        self.pump(lane)

    def pump(self, lane: Lane) -> None:
        quota = lane.worker.quota
        while self.backlog[lane.job_type] and lane.in_use < self.per_type:
            wait = quota.wait(lane.worker.in_use, self.now)
            if wait:
                if not lane.waiting and wait < 10:
                    lane.waiting = True
                    self.at(self.now + wait + self.dice.uniform(0, 0.002), self.wake, lane)
                return
            quota.on_start(self.now)
            lane.in_use += 1
            self.backlog[lane.job_type] -= 1
            self.at(self.now + self.dice.uniform(0.002, 0.008), self.call, lane)

    def call(self, lane: Lane) -> None:
        served, takes = self.dependency.call(self.now)
        settles = self.dice.uniform(0, OVERHEAD)
        self.at(self.now + takes + settles, self.done, lane, served, takes)

    def done(self, lane: Lane, served: bool, took: float) -> None:
        lane.in_use -= 1
        lane.worker.quota.on_end(served, took, self.now)
        if served:
            self.left -= 1
            self.figures.by_worker[lane.worker.name] += 1
        else:
            self.figures.refused += 1
            self.backlog[lane.job_type] += 1
        for one in self.dice.sample(lane.worker.lanes, len(lane.worker.lanes)):
            self.pump(one)
