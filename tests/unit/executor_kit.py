"""A job, a bench to run it on, and handlers in both colours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from jobkit.domain.job import ClaimedJob, TraceContext
from jobkit.domain.outcome import Failed, Outcome
from jobkit.handling import Handler, JobContext
from worker.executor import Around, Executor, Limits
from worker.registry import Registry

SHORT = timedelta(milliseconds=50)
QUICK = Limits(concurrency=2, attempt_timeout=timedelta(seconds=5), grace=timedelta(milliseconds=80))
Run = Callable[[JobContext], Any]


def claimed(
    job_type: str = "t", payload: bytes = b"{}", timeout: timedelta | None = None, job_id: UUID | None = None
) -> ClaimedJob:
    now = datetime.now(UTC)
    return ClaimedJob(
        job_id=job_id or uuid4(),
        job_type=job_type,
        payload=payload,
        delivery=3,
        attempts=1,
        attempts_base=0,
        losses=0,
        losses_alone=0,
        max_attempts=None,
        attempt_timeout=timeout,
        labels={"a": "b"},
        start_time=now,
        due_time=now,
        create_time=now,
        history=(),
        trace=TraceContext("00-1-2-01"),
    )


class Bench:
    """An executor for one handler, and what it told its surroundings."""

    def __init__(
        self, run: Run, limits: Limits = QUICK, around: Around | None = None, **handler: Any
    ) -> None:
        self.progress: list[tuple[int, int]] = []
        self.freed: asyncio.Queue[str] = asyncio.Queue()
        self.executor = Executor(
            Registry([Handler("t", run, **handler)]),
            limits,
            progress=lambda job, processed, total: self.progress.append((processed, total)),
            around=around,
            freed=self.freed.put_nowait,
        )

    async def run(self, job: ClaimedJob | None = None) -> Outcome:
        return await self.executor.run(job or claimed())

    @property
    def counts(self) -> tuple[int, int, int]:
        """Running, strays, occupied."""
        executor = self.executor
        return executor.running.get("t", 0), executor.strays.get("t", 0), executor.occupied("t")


def both(plain: Run) -> list[Any]:
    """The same handler as `def` and as `async def`."""

    async def awaited(job: JobContext) -> Any:
        return plain(job)

    return [pytest.param(plain, id="def"), pytest.param(awaited, id="async")]


def raising(error: BaseException) -> Run:
    async def handler(job: JobContext) -> None:
        raise error

    return handler


@pytest.fixture
async def release() -> AsyncIterator[threading.Event]:
    """Lets threads that hang go, at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def code_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed), outcome
    return outcome.error.code


def describe(job: JobContext) -> dict[str, Any]:
    left = (job.deadline - datetime.now(UTC)).total_seconds()
    return {
        "payload": job.payload, "type": job.job_type, "attempt": job.attempt, "delivery": job.delivery,
        "labels": dict(job.labels), "traceparent": job.traceparent, "id": job.job_id, "left": round(left),
        "cancelled": job.cancelled,
    }  # fmt: skip
