"""What the worker tells the world about its work: metrics, spans, and who waits for an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from uuid import UUID

from prometheus_client import CollectorRegistry, Gauge

from jobkit.domain.job import ClaimedJob
from jobkit.domain.outcome import Convicted, Deferred, Failed, Interrupted, Outcome, Succeeded
from jobkit.domain.retry import Cancel, Complete, Decision, Isolate, Retry
from jobkit.runtime.finished import finished
from jobkit.runtime.messaging import MessagingMetrics
from jobkit.runtime.tracing import Tracing
from jobkit.tally import Counts, Durations, Level

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# A watch lapses by itself: the waiter's jobapi repeats it while it waits.
WATCH_SECONDS = 60.0
ENDS: Mapping[type[Decision], str] = {Complete: "succeeded", Isolate: "quarantined", Cancel: "cancelled"}


class Watch:
    """Observes attempts and settles. `tell_ended` gets the ids of ended jobs that somebody waits for,
    `ended` each attempt's type and outcome."""

    def __init__(
        self,
        registry: CollectorRegistry,
        messaging: MessagingMetrics,
        tracing: Tracing,
        tell_ended: Callable[[Sequence[UUID]], None],
        ended: Callable[[str, str], None] = lambda job_type, outcome: None,
    ) -> None:
        self._tracing = tracing
        self._tell_ended = tell_ended
        self._attempt_ended = ended
        self._ended: list[UUID] = []
        self._watched: dict[UUID, float] = {}
        self._attempts = Counts(
            "selfheal_job_attempts_total",
            "Runs of handlers.",
            ["job_type", "outcome", "error_code"],
            registry=registry,
        )
        self._duration = Durations(
            "selfheal_job_duration_seconds",
            "How long handlers ran.",
            ["job_type"],
            registry=registry,
            buckets=SECONDS,
        )
        messaging.tell_processing(self._duration)
        self._queued = Durations(
            "selfheal_job_queue_seconds",
            "From submit to start of the first run.",
            ["job_type"],
            registry=registry,
            buckets=SECONDS,
        )
        self._running = Level(
            Gauge("selfheal_jobs_running", "Attempts running now.", ["job_type"], registry=registry)
        )
        self._finished = finished(registry)

    def attempt(self, job: ClaimedJob) -> AbstractContextManager[Callable[[Outcome], None]]:
        """Around one run; what it yields is told the outcome."""
        return _Attempt(self, job, self._tracing.process(job))

    def began(self, job: ClaimedJob) -> None:
        """A run has begun."""
        if job.delivery == 1:
            self._queued.labels(job.job_type).observe(
                max((job.start_time - job.create_time).total_seconds(), 0)
            )
        self._running.up(job.job_type)

    def over(self, job: ClaimedJob, took: float, outcome: Outcome | None) -> None:
        """It is over after so many seconds; without an outcome when it was given up."""
        self._running.down(job.job_type)
        self._duration.labels(job.job_type).observe(took)
        if outcome is not None:
            name, code = _labels(outcome)
            self._attempts.labels(job.job_type, name, code).inc()
            self._attempt_ended(job.job_type, name)

    def settled(self, job: ClaimedJob, outcome: Outcome, decision: Decision) -> None:
        """The decision stands in the database."""
        if isinstance(decision, Retry):
            return
        end = ENDS.get(type(decision))
        if end is not None:
            self._finished.labels(job.job_type, end).inc()
            if self._watched.pop(job.job_id, None) is not None:
                self._ended.append(job.job_id)
                if len(self._ended) == 1:
                    # The rest of the settle batch ends in this same turn of the loop: one message for all.
                    asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        self._tell_ended(ended)

    def watched(self, ids: Sequence[UUID]) -> None:
        """Somebody waits for these."""
        now = time.monotonic()
        if len(self._watched) > 100_000:
            self._watched = {i: until for i, until in self._watched.items() if until > now}
        for job_id in ids:
            self._watched[job_id] = now + WATCH_SECONDS


class _Attempt:
    """Not a generator: every run of every job goes through one."""

    __slots__ = ("_job", "_outcome", "_span", "_started", "_tell_span", "_watch")

    def __init__(
        self, watch: Watch, job: ClaimedJob, span: AbstractContextManager[Callable[[Outcome], None]]
    ) -> None:
        self._watch = watch
        self._job = job
        self._span = span
        self._outcome: Outcome | None = None

    def __enter__(self) -> Callable[[Outcome], None]:
        self._tell_span = self._span.__enter__()
        self._watch.began(self._job)
        self._started = time.perf_counter()
        return self._told

    def _told(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._tell_span(outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._span.__exit__(kind, error, trace)
        finally:
            self._watch.over(self._job, time.perf_counter() - self._started, self._outcome)


def _labels(outcome: Outcome) -> tuple[str, str]:
    match outcome:
        case Succeeded():
            return "succeeded", ""
        case Failed(error):
            return "failed", error.code
        case Deferred():
            return "deferred", ""
        case Convicted():
            return "convicted", ""
        case Interrupted():
            return outcome.value.lower(), ""
