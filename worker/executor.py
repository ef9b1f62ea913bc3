"""Runs claimed jobs: finds the handler, gives it its context and its deadline, and says what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from jobkit.domain.job import ClaimedJob
from jobkit.domain.outcome import VALIDATION_ERROR, Interrupted, Outcome
from jobkit.handling import Handler, JobContext
from worker.registry import Registry
from worker.run import Plan, Run, TaskRun, ThreadRun
from worker.threads import LaneThreads
from worker.verdict import failed

_log = logging.getLogger(__name__)

ProgressSink = Callable[[ClaimedJob, int, int], None]
"""Called on the loop's thread with (job, processed, total); must not block."""

Around = Callable[[ClaimedJob], AbstractContextManager[Callable[[Outcome], object]]]
"""Entered before a run and left after it, in the context that the handler inherits; what it yields is told the
outcome. What it raises is logged and changes nothing."""

Sabotage = Callable[[ClaimedJob, Handler], Handler]
"""What is to run in the handler's place: itself, or one that fails because an operator wants it to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`concurrency` is the number of threads of a lane with a blocking handler; `grace` is how long a run that was
    told to stop may take to do so before its outcome is given without it."""

    concurrency: int = 16
    attempt_timeout: timedelta = timedelta(seconds=30)
    grace: timedelta = timedelta(seconds=2)


class Executor:
    """One per process, used from its loop only. Call `run` in a task of the job's own.

    It does not admit: a lane must start nothing while `occupied` has reached its limit. `freed` is called with the
    job type whenever a stray ends, for its lane to go on.
    """

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        *,
        progress: ProgressSink,
        around: Around | None = None,
        freed: Callable[[str], None] | None = None,
        sabotage: Sabotage | None = None,
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._progress = progress
        self._around = around
        self._freed = freed
        self._sabotage = sabotage
        self._runs: set[Run] = set()
        self._running: Counter[str] = Counter()
        self._strays: Counter[str] = Counter()
        self._threads: dict[str, LaneThreads] = {}

    @property
    def running(self) -> Mapping[str, int]:
        """Runs whose outcome is awaited, by job type."""
        return +self._running

    @property
    def strays(self) -> Mapping[str, int]:
        """Handlers that go on after their outcome was given, by job type: each still keeps its slot."""
        return +self._strays

    def strays_of(self, job_type: str) -> int:
        """The same for one type, which is asked with each start."""
        return self._strays.get(job_type, 0)

    def occupied(self, job_type: str) -> int:
        """Slots of `job_type` in use: its runs and its strays."""
        return self._running[job_type] + self._strays[job_type]

    async def run(self, job: ClaimedJob) -> Outcome:
        """Run `job` to its outcome. Raises nothing; cancelled, it stops the handler and raises CancelledError."""
        handler = self._registry.find(job.job_type)
        if handler is None:
            _log.error("no handler for job type %s", job.job_type, extra={"job_id": str(job.job_id)})
            return Interrupted.DRAINED
        payload = _decoded(job.payload)
        if payload is None:
            return failed(VALIDATION_ERROR, "payload is not a JSON object", retryable=False, counts=False)
        if self._around is None:
            return await self._execute(job, handler, payload)
        with _observed(self._around, job) as tell:
            outcome = await self._execute(job, handler, payload)
            tell(outcome)
        return outcome

    def cancel(self, job_id: UUID, why: Interrupted, delivery: int | None = None) -> bool:
        """Tell the job's run to stop, of that `delivery` if given; False when none is running."""
        runs = [run for run in self._runs if run.plan.job.job_id == job_id]
        told = [run.interrupt(why) for run in runs if delivery in (None, run.plan.job.delivery)]
        return any(told)

    def cancel_all(self, why: Interrupted) -> None:
        """Tell every run to stop."""
        for run in list(self._runs):
            run.interrupt(why)

    def close(self) -> None:
        """Stop what runs and let go of the threads; strays in threads end with the process. Safe to repeat."""
        self.cancel_all(Interrupted.DRAINED)
        for threads in self._threads.values():
            threads.close()
        self._threads.clear()

    async def _execute(self, job: ClaimedJob, handler: Handler, payload: dict[str, Any]) -> Outcome:
        try:
            run = self._begin(job, handler, payload)
        except Exception:  # no thread to be had, no memory: nothing that the job did
            _log.exception("job could not be started", extra={"job_id": str(job.job_id)})
            return Interrupted.DRAINED
        try:
            return await run.outcome
        except asyncio.CancelledError:
            run.abandon()
            raise

    def _begin(self, job: ClaimedJob, handler: Handler, payload: dict[str, Any]) -> Run:
        if self._sabotage is not None:
            handler = self._sabotage(job, handler)
        timeout = job.attempt_timeout or handler.attempt_timeout or self._limits.attempt_timeout
        context = JobContext(
            job_id=str(job.job_id),
            job_type=job.job_type,
            payload=payload,
            attempt=job.attempts + 1,
            delivery=job.delivery,
            labels=job.labels,
            traceparent=job.trace.traceparent,
            deadline=datetime.now(UTC) + timeout,
        )
        plan = Plan(job, handler, context, timeout, self._limits.grace)
        run: Run
        if handler.blocking:
            run = ThreadRun(plan, self._on_strayed, self._on_ended, self._lane_threads(job.job_type))
        else:
            run = TaskRun(plan, self._on_strayed, self._on_ended)
        context.on_progress = self._progress_of(job, run.outcome)
        run.start()
        self._runs.add(run)
        self._running[job.job_type] += 1
        return run

    def _lane_threads(self, job_type: str) -> LaneThreads:
        if job_type not in self._threads:
            self._threads[job_type] = LaneThreads(job_type, self._limits.concurrency)
        return self._threads[job_type]

    def _progress_of(self, job: ClaimedJob, outcome: asyncio.Future[Outcome]) -> Callable[[int, int], None]:
        """Carries progress from any thread to the sink; a handler that reports in a tight loop wakes the loop
        once for all that it said since the last time. Not given the run, which it would make a reference cycle
        of: at thousands of jobs a second the garbage collector is felt."""
        loop = outcome.get_loop()
        newest = (0, 0)
        pending = False

        def deliver() -> None:
            nonlocal pending
            pending = False  # before the read: what comes between the two is delivered again, never missed
            if not outcome.done():
                self._progress(job, *newest)

        def report(processed: int, total: int) -> None:
            nonlocal newest, pending
            newest = (processed, total)
            if not pending:
                pending = True
                with suppress(RuntimeError):  # the loop is closed: a stray outlived its worker
                    loop.call_soon_threadsafe(deliver)

        return report

    def _on_strayed(self, run: Run) -> None:
        job = run.plan.job
        self._running[job.job_type] -= 1
        self._strays[job.job_type] += 1
        run.plan.context.logger.warning(
            "handler does not stop; its slot stays taken until it does (%d such of %s)",
            self._strays[job.job_type],
            job.job_type,
        )

    def _on_ended(self, run: Run) -> None:
        job_type = run.plan.job.job_type
        self._runs.discard(run)
        if not run.stray:
            self._running[job_type] -= 1
            return
        self._strays[job_type] -= 1
        run.plan.context.logger.info("handler that did not stop has ended; its slot is free")
        if self._freed is not None:
            self._freed(job_type)


def _decoded(payload: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def _observed(around: Around, job: ClaimedJob) -> Iterator[Callable[[Outcome], None]]:
    """`around` entered and left in the caller's context, its exceptions kept from the job."""
    with ExitStack() as stack:
        heard: Callable[[Outcome], object] | None = None
        with _harmless():
            manager = around(job)
            heard = manager.__enter__()
            stack.push(_leave(manager))

        def tell(outcome: Outcome) -> None:
            if heard is not None:
                with _harmless():
                    heard(outcome)

        yield tell


def _leave(manager: AbstractContextManager[Any]) -> Callable[..., bool]:
    def leave(*raised: Any) -> bool:
        with _harmless():
            manager.__exit__(*raised)
        return False  # a hook may look at a cancellation and never swallow it

    return leave


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:
        _log.exception("the hook around runs failed")
