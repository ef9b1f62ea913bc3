"""Load as a client makes it: a bounded number of calls in flight, on one connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import grpc
import orjson
from selfheal.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

from jobkit.rpc.convert import dict_to_struct
from tests.bench.figures import Span
from tests.bench.peers.apps.client import due

if TYPE_CHECKING:
    from selfheal.jobs.v1.job_service_pb2_grpc import JobServiceAsyncStub

PAYLOAD = {"to": "someone@example.com", "subject": "Your order", "body": "It is on its way.", "order": 4711}
WIDTHS = (1, 32, 256)  # calls in flight
BATCH = 1000
BATCHES_IN_FLIGHT = 4

Travel = Callable[[], Awaitable[tuple[float, ...]]]


def submission(job_type: str) -> job_service_pb2.SubmitJobRequest:
    return job_service_pb2.SubmitJobRequest(job_type=job_type, payload=dict_to_struct(PAYLOAD))


@asynccontextmanager
async def job_stub(address: str) -> AsyncIterator[JobServiceAsyncStub]:
    """Connected, so that nobody measures the handshake."""
    options = [("grpc.max_receive_message_length", 64 << 20)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        await channel.channel_ready()
        yield job_service_pb2_grpc.JobServiceStub(channel)


async def in_flight(total: int, width: int, call: Callable[[int], Awaitable[None]]) -> Span:
    """`call(n)` for n from 0 to `total`, `width` of them at a time."""
    latencies: list[float] = []
    numbers = iter(range(total))

    async def lane() -> None:
        for number in numbers:
            started = time.perf_counter()
            await call(number)
            latencies.append(time.perf_counter() - started)

    began = time.time()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(width, total)):
            group.create_task(lane())
    return Span(total, began, time.time(), latencies)


async def travel(call: Travel, total: int, per_second: float, warm: int = 0) -> list[Span]:
    """`total` calls, each of which returns the Unix times when its stages were over; a span for each stage, from
    which the first `warm` calls are left out.

    With a rate of 0 one call follows the other. Else they start on schedule, whether or not those before have
    ended, and count from the moment that was planned: a late start is not the job's luck.
    """
    first = time.time() + 0.05

    async def one(began: float) -> tuple[float, ...]:
        return tuple(moment - began for moment in await call())

    if per_second:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(began)) async for began in due(first, total, per_second)]
        travels = [task.result() for task in tasks]
        first += warm / per_second
    else:
        travels = [await one(time.time()) for _ in range(total)]
    ended = time.time()
    return [Span(total - warm, first, ended, stage) for stage in zip(*travels[warm:], strict=True)]


async def submit_batches(
    address: str, job_type: str, total: int, size: int = BATCH, width: int = BATCHES_IN_FLIGHT
) -> Span:
    """BatchSubmitJobs of `size` jobs; every item must be accepted."""
    batch = job_service_pb2.BatchSubmitJobsRequest(requests=[submission(job_type)] * size)
    async with job_stub(address) as jobs:

        async def call(_: int) -> None:
            answer = await jobs.BatchSubmitJobs(batch)
            assert all(result.HasField("job") for result in answer.results)

        span = await in_flight(-(-total // size), width, call)
    return Span(span.jobs * size, span.began, span.ended)


async def submit_singly(address: str, job_type: str, total: int, width: int) -> Span:
    """SubmitJob."""
    request = submission(job_type)
    async with job_stub(address) as jobs:

        async def call(_: int) -> None:
            await jobs.SubmitJob(request)

        await in_flight(width, width, call)  # the type is known, connections are open
        return await in_flight(total, width, call)


async def post_jobs(url: str, job_type: str, total: int, width: int) -> Span:
    """`POST /jobs`; every one must be accepted."""
    body = orjson.dumps({"jobType": job_type, "payload": PAYLOAD})
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=width)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def call(_: int) -> None:
            async with session.post(f"{url}/jobs", data=body, headers=headers) as answer:
                await answer.read()
                assert answer.status == 202, answer

        return await in_flight(total, width, call)


def round_trip(jobs: JobServiceAsyncStub, job_type: str) -> Travel:
    """Submits one job and waits for its end: when the caller knew, and when the database says that it was (to the
    millisecond)."""
    request = submission(job_type)

    async def call() -> tuple[float, float]:
        told = await jobs.SubmitJob(request)
        answer = await jobs.WaitJob(job_service_pb2.WaitJobRequest(job_id=told.job.job_id))
        knew = time.time()
        assert answer.job.state == job_pb2.JOB_STATE_SUCCEEDED, answer.job
        return knew, answer.job.finish_time.ToNanoseconds() / 1e9

    return call
