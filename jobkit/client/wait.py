"""Waiting for a job for longer than one WaitJob call may take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf import duration_pb2
from selfheal.jobs.v1 import job_pb2
from selfheal.jobs.v1 import job_service_pb2 as api

from jobkit.client.calls import Caller
from jobkit.client.errors import DeadlineExceeded, Unavailable
from jobkit.client.job import is_settled

if TYPE_CHECKING:
    from selfheal.jobs.v1.job_service_pb2_grpc import JobServiceAsyncStub

CHUNK = 30.0  # seconds: how long one call waits at most, so that a dead connection is noticed
SLACK = 5.0  # seconds beyond it that the answer may take
PAUSE = 0.5  # seconds before asking a server again that the call itself has given up on


async def wait_settled(call: Caller, stub: JobServiceAsyncStub, job_id: str, timeout: float) -> job_pb2.Job:
    """The job once it is settled. A server that is away meanwhile only costs time. Raises TimeoutError after
    `timeout` seconds, JobClientError for what no waiting mends."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                job = await wait_once(call, stub, job_id, min(max(deadline - loop.time(), 0.001), CHUNK))
                if job is not None and is_settled(job):
                    return job
    except TimeoutError:
        raise TimeoutError(f"job {job_id} has not settled within {timeout:g} s") from None


async def wait_once(
    call: Caller, stub: JobServiceAsyncStub, job_id: str, seconds: float
) -> job_pb2.Job | None:
    """The job once it is settled, or as it is after `seconds`; None while the server cannot say."""
    request = api.WaitJobRequest(job_id=job_id, timeout=duration_pb2.Duration())
    request.timeout.FromNanoseconds(int(seconds * 1e9))
    try:
        return (await call(stub.WaitJob, request, timeout=seconds + SLACK)).job
    except DeadlineExceeded:
        return None
    except Unavailable:
        await asyncio.sleep(PAUSE)
        return None
