"""What the fleet saw of one breaker within its window, kept in memory: for the embedded default, for a worker without
Redis, and for replays. Redis keeps the same in report.lua."""

from __future__ import annotations

from collections import Counter, deque

from jobkit.domain.breaker import (
    JOBS_KEPT,
    MAX_CODES,
    NOBODY,
    OTHER_CODE,
    WINDOW_SLICES,
    BreakerRecord,
    Evidence,
    Seen,
    Window,
    outcomes_kept,
)


class Sightings:
    """The evidence of one breaker: what report.lua keeps, in the same slices and under the same bounds."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, Seen]] = deque()
        self._workers: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._jobs: dict[str, dict[object, int]] = {}
        self._attempts: dict[tuple[str, int], tuple[int, int]] = {}
        self._window = 0
        self._pruned = (0, 0)

    def add(self, evidence: Evidence, now: int, sample: int, window: int) -> None:
        self._window = window
        self._prune(now)
        slice_start = now - now % self._slice
        counted = evidence.counted
        if counted:
            self._workers[evidence.worker] = now
        for outcome in counted:
            code = self._bounded(outcome.code)
            job = outcome.job_id if code and outcome.job_id != NOBODY else None
            trace = outcome.trace if code else ""
            seen = Seen(code, evidence.worker, outcome.source, job, trace, now)
            self._recent.appendleft((now, seen))
            self._sources[outcome.source] = now
            if code:
                jobs = self._jobs.setdefault(code, {})
                job_key = job or object()  # one that is not known is one of its own
                jobs.pop(job_key, None)  # so that the order is that of the last failure
                jobs[job_key] = now
                if len(jobs) > JOBS_KEPT:
                    del jobs[next(iter(jobs))]
                count, first = self._attempts.get((code, slice_start), (0, now))
                self._attempts[code, slice_start] = (count + 1, first)
        while len(self._recent) > outcomes_kept(sample):
            self._recent.pop()

    def seen(self, record: BreakerRecord, now: int, sample: int, window: int) -> Window:
        self._window = window
        self._prune(now)
        oldest = now - window
        recent = [outcome for at, outcome in self._recent if at > oldest][: outcomes_kept(sample)]
        firsts = [first for (code, _), (_, first) in self._attempts.items() if code in self._jobs]
        return Window(
            now=now,
            record=record,
            distinct_jobs={code: len(jobs) for code, jobs in self._jobs.items()},
            failures=self.failures(now),
            seen=tuple(recent[:sample]),
            before=Counter(outcome.code for outcome in recent[sample:]) if self._jobs else {},
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
        if self._pruned == (now, self._window):
            return  # what came since is of this very moment
        self._pruned = (now, self._window)
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
