"""Breakers in this process: the embedded default, and what a worker goes by while Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID
from weakref import WeakSet

from jobkit.domain.breaker import (
    JOBS_KEPT,
    MAX_CODES,
    OTHER_CODE,
    WINDOW_SLICES,
    BreakerRecord,
    BreakerState,
    Evidence,
    Seen,
    Window,
)


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


class _Tally:
    """The evidence of one breaker: what report.lua keeps, in the same slices and under the same bounds."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, Seen]] = deque()
        self._workers: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._jobs: dict[str, dict[UUID, int]] = {}
        self._attempts: dict[tuple[str, int], tuple[int, int]] = {}
        self._window = 0

    def add(self, evidence: Evidence, now: int, sample: int, window: int) -> None:
        self._window = window
        self._prune(now)
        slice_start = now - now % self._slice
        if evidence.outcomes:
            self._workers[evidence.worker] = now
        for outcome in evidence.outcomes:
            job_id, code = outcome.job_id, self._bounded(outcome.code)
            job, trace = (job_id, outcome.trace) if code else (None, "")
            seen = Seen(code, evidence.worker, outcome.source, job, trace, now)
            self._recent.appendleft((now, seen))
            self._sources[outcome.source] = now
            if code:
                jobs = self._jobs.setdefault(code, {})
                jobs.pop(job_id, None)  # so that the order is that of the last failure
                jobs[job_id] = now
                if len(jobs) > JOBS_KEPT:
                    del jobs[next(iter(jobs))]
                count, first = self._attempts.get((code, slice_start), (0, now))
                self._attempts[code, slice_start] = (count + 1, first)
        while len(self._recent) > sample:
            self._recent.pop()

    def seen(self, record: BreakerRecord, now: int, sample: int, window: int) -> Window:
        self._window = window
        self._prune(now)
        oldest = now - window
        recent = [outcome for at, outcome in self._recent if at > oldest]
        firsts = [first for (code, _), (_, first) in self._attempts.items() if code in self._jobs]
        return Window(
            now=now,
            record=record,
            distinct_jobs={code: len(jobs) for code, jobs in self._jobs.items()},
            failures=self.failures(now),
            seen=tuple(recent[:sample]),
            first_failure_at=max(min(firsts), oldest) if firsts else None,
            workers=sum(at > oldest for at in self._workers.values()),
            sources=sum(at > oldest for at in self._sources.values()),
        )

    def forget(self, worker: str) -> None:
        """Leave a worker's part out of the recent outcomes."""
        self._recent = deque(entry for entry in self._recent if entry[1].worker != worker)

    def failures(self, now: int) -> dict[str, int]:
        self._prune(now)
        totals: dict[str, int] = {}
        for (code, _), (count, _) in self._attempts.items():
            if code in self._jobs:
                totals[code] = totals.get(code, 0) + count
        return totals

    @property
    def _slice(self) -> int:
        return max(self._window // WINDOW_SLICES, 1)

    def _bounded(self, code: str) -> str:
        if not code or code in self._jobs or len(self._jobs) < MAX_CODES:
            return code
        return OTHER_CODE

    def _prune(self, now: int) -> None:
        oldest = now - self._window
        for code, jobs in list(self._jobs.items()):
            for job_id, at in list(jobs.items()):
                if at > oldest:
                    break
                del jobs[job_id]
            if not jobs:
                del self._jobs[code]
        for last in (self._workers, self._sources):
            for name in [name for name, at in last.items() if at <= oldest]:
                del last[name]
        for code, start in list(self._attempts):
            if start + self._slice <= oldest:
                del self._attempts[code, start]


class MemoryBreakerStore:
    """`ports.BreakerStore` in this process. `clock` gives milliseconds; `steady_clock` by default."""

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or steady_clock()
        self._records: dict[str, BreakerRecord] = {}
        self._tallies: dict[str, _Tally] = {}
        self._permits: dict[str, dict[str, int]] = {}
        self._ejected: dict[str, dict[str, int]] = {}
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
        tally = self._tallies.setdefault(name, _Tally())
        if evidence.generation == record.generation:
            tally.add(evidence, now, sample, window)
        return self._seen(tally, record, sample, window)

    async def window(self, name: str, sample: int, window: int) -> Window:
        tally = self._tallies.get(name) or _Tally()
        return self._seen(tally, self._record(name), sample, window)

    def _seen(self, tally: _Tally, record: BreakerRecord, sample: int, window: int) -> Window:
        now = self._clock()
        out = {w: until for w, until in self._ejected.get(record.name, {}).items() if until > now}
        return replace(tally.seen(record, now, sample, window), ejected=out)

    async def swap(self, name: str, generation: int, record: BreakerRecord) -> bool:
        current = self._record(name)
        grown = (record.generation, record.successes) > (current.generation, current.successes)
        if current.generation != generation or not grown:
            return False
        self._records[name] = record
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

    async def readmit(self, name: str, worker: str) -> None:
        self._ejected.get(name, {}).pop(worker, None)
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

    def changes(self) -> AsyncIterator[str]:
        return self._watchers.watch()

    async def close(self) -> None:
        self._watchers.close()

    def _record(self, name: str) -> BreakerRecord:
        return self._records.get(name) or BreakerRecord(name)

    def _changed(self, name: str) -> None:
        self._version += 1
        self._watchers.tell(name)
