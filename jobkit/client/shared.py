"""Submits of concurrent callers share calls: while one is on its way those who come wait for the next, and a lone
caller waits for nobody. A call costs a server more than the job in it does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

from selfheal.jobs.v1 import job_service_pb2 as api

from jobkit.client.calls import pause_before_retry
from jobkit.client.errors import DeadlineExceeded, JobClientError
from jobkit.client.job import Job
from jobkit.runtime.batcher import Batcher

Answers = list[Job | JobClientError]
SubmitAll = Callable[[Sequence[api.SubmitJobRequest]], Awaitable[Answers]]

CALLS_IN_FLIGHT = 4
# A call ends by its own deadline; only who had to wait for others before it is told here.
SLACK_SECONDS = 0.1


class SharedSubmits:
    """`submit_all` makes one call for its requests and has an answer for each, or raises for all of them. `timeout`
    (seconds) bounds a submit with all its repetitions."""

    def __init__(self, submit_all: SubmitAll, *, timeout: float, max_items: int, max_bytes: int) -> None:
        self._timeout = timeout
        self._submit_all = submit_all
        self._calls: Batcher[api.SubmitJobRequest, tuple[Job | JobClientError]] = Batcher(
            self._call,
            max_items=max_items,
            max_bytes=max_bytes,
            size=lambda request: request.ByteSize(),
            lanes=CALLS_IN_FLIGHT,
        )

    async def _call(
        self, requests: Sequence[api.SubmitJobRequest]
    ) -> Sequence[tuple[Job | JobClientError] | Exception]:
        """In tuples: what is refused within a call is another matter than a call that failed."""
        return [(answer,) for answer in await self._submit_all(requests)]

    async def submit(self, request: api.SubmitJobRequest) -> Job:
        """Raises JobClientError. What a call refuses for now is tried again; a call that fails has been repeated."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline + SLACK_SECONDS):
                for failures in count(1):
                    (answer,) = await self._calls.do(request)
                    if isinstance(answer, Job):
                        return answer
                    pause = pause_before_retry(answer, failures, random.random())  # noqa: S311 - jitter
                    if pause is None or loop.time() + pause >= deadline:
                        raise answer
                    await asyncio.sleep(pause)
        except TimeoutError as late:
            if isinstance(late, JobClientError):
                raise
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "no answer in time") from late
        raise AssertionError("count() ended")
