"""Breakers in this process: the embedded default, and what a worker goes by while Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from weakref import WeakSet

from jobkit.adapters import tape
from jobkit.domain.attempts import FIRST, LOG_KEPT, Position, Raw
from jobkit.domain.breaker import BreakerRecord, BreakerState, Evidence, Outcome, Window
from jobkit.domain.sightings import Sightings


def steady_clock() -> Callable[[], int]:
    """Milliseconds since the epoch as of now, that go on evenly whatever is done to the machine's clock:
    setting it back by an hour must not keep a breaker open for an hour more."""
    anchor = time.time_ns() - time.monotonic_ns()
    return lambda: (anchor + time.monotonic_ns()) // 1_000_000


class Watch(AsyncIterator[str]):
    """Names that changed, each at most once until it is taken, however slow the reader."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._ready = asyncio.Event()
        self._closed = False

    def tell(self, name: str) -> None:
        self._names[name] = None
        self._ready.set()

    def close(self) -> None:
        self._closed = True
        self._ready.set()

    async def __anext__(self) -> str:
        while not self._names:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        name = next(iter(self._names))
        del self._names[name]
        return name


class Watchers:
    """Everyone who iterates over changes now. A dropped iterator is forgotten by itself."""

    def __init__(self) -> None:
        self._watches: WeakSet[Watch] = WeakSet()
        self._closed = False

    def watch(self) -> Watch:
        """An iterator over what is told from now on."""
        watch = Watch()
        if self._closed:
            watch.close()
        self._watches.add(watch)
        return watch

    def tell(self, name: str) -> None:
        for watch in self._watches:
            watch.tell(name)

    def close(self) -> None:
        """End every iteration once it has taken what it was told."""
        self._closed = True
        for watch in self._watches:
            watch.close()


class MemoryBreakerStore:
    """`ports.BreakerStore` in this process. `clock` gives milliseconds; `steady_clock` by default."""

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or steady_clock()
        self._records: dict[str, BreakerRecord] = {}
        self._tallies: dict[str, Sightings] = {}
        self._permits: dict[str, dict[str, int]] = {}
        self._ejected: dict[str, dict[str, int]] = {}
        self._logs: dict[str, deque[Raw]] = {}
        self._noted: dict[str, Position] = {}
        self._version = 0
        self._watchers = Watchers()

    async def now(self) -> int:
        return self._clock()

    async def read(self, names: Sequence[str]) -> dict[str, BreakerRecord]:
        return {name: self._records[name] for name in names if name in self._records}

    async def create(self, name: str) -> None:
        if name not in self._records:
            self._records[name] = BreakerRecord(name)
            self._changed(name)

    async def report(self, name: str, evidence: Evidence, sample: int, window: int) -> Window:
        now, record = self._clock(), self._record(name)
        tally = self._tallies.setdefault(name, Sightings())
        if evidence.generation == record.generation:
            tally.add(evidence, now, sample, window)
            self._note(name, now, tape.of_report(evidence))
        return self._seen(tally, record, now, sample, window)

    async def window(self, name: str, sample: int, window: int) -> Window:
        tally = self._tallies.get(name) or Sightings()
        return self._seen(tally, self._record(name), self._clock(), sample, window)

    def _seen(self, tally: Sightings, record: BreakerRecord, now: int, sample: int, window: int) -> Window:
        out = {w: until for w, until in self._ejected.get(record.name, {}).items() if until > now}
        return replace(tally.seen(record, now, sample, window), ejected=out)

    async def swap(
        self, name: str, generation: int, record: BreakerRecord, probe: Outcome | None = None
    ) -> bool:
        current = self._record(name)
        grown = (record.generation, record.successes) > (current.generation, current.successes)
        if current.generation != generation or not grown:
            return False
        self._records[name] = record
        self._note(name, self._clock(), tape.of_swap(generation, record, probe))
        if record.generation != generation:
            self._permits.pop(name, None)
        if record.state is BreakerState.CLOSED:
            self._tallies.pop(name, None)
        self._changed(name)
        return True

    async def take_permit(
        self, name: str, generation: int, holder: str, permits: int, lease: timedelta
    ) -> bool:
        return self._take(self._permits, name, generation, (holder, permits, lease))

    def _take(
        self, kind: dict[str, dict[str, int]], name: str, generation: int, wanted: tuple[str, int, timedelta]
    ) -> bool:
        holder, permits, lease = wanted
        if self._record(name).generation != generation:
            return False
        now, held = self._clock(), kind.setdefault(name, {})
        for other, until in list(held.items()):
            if until <= now:
                del held[other]
        if holder not in held and len(held) >= permits:
            return False
        held[holder] = now + round(lease / timedelta(milliseconds=1))
        return True

    async def return_permit(self, name: str, generation: int, holder: str) -> None:
        if self._record(name).generation == generation:
            self._permits.get(name, {}).pop(holder, None)

    async def eject(self, name: str, generation: int, worker: str, limit: int, lease: timedelta) -> bool:
        return limit > 0 and self._take(self._ejected, name, generation, (worker, limit, lease))

    async def readmit(self, name: str, worker: str, trial: Outcome | None = None) -> None:
        self._ejected.get(name, {}).pop(worker, None)
        self._note(name, self._clock(), tape.of_return(worker, trial))
        if name in self._tallies:
            self._tallies[name].forget(worker)

    async def version(self) -> int:
        return self._version

    async def failures(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        now = self._clock()
        found = {name: self._tallies[name].failures(now) for name in names if name in self._tallies}
        return {name: totals for name, totals in found.items() if totals}

    async def repair(self, names: Sequence[str]) -> None:
        """There are no copies in memory."""

    async def log(self, name: str, limit: int) -> list[Raw]:
        return list(islice(self._logs.get(name, ()), limit))

    async def forget_log(self, name: str, upto: Position) -> None:
        log = self._logs.get(name)
        while log and log[0].position <= upto:
            log.popleft()

    def _note(self, name: str, now: int, text: str) -> None:
        log = self._logs.setdefault(name, deque(maxlen=LOG_KEPT))
        before = self._noted.get(name, FIRST)
        self._noted[name] = position = (now, before[1] + 1)
        log.append(Raw(position, now, text, before))

    def changes(self) -> AsyncIterator[str]:
        return self._watchers.watch()

    async def close(self) -> None:
        self._watchers.close()

    def _record(self, name: str) -> BreakerRecord:
        return self._records.get(name) or BreakerRecord(name)

    def _changed(self, name: str) -> None:
        self._version += 1
        self._watchers.tell(name)
