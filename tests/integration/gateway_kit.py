"""A tiny pair of services behind both doors, for the gateway's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2, breaker_service_pb2_grpc
from selfheal.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

from jobkit.domain import errors
from jobkit.rpc.door import Door
from jobkit.rpc.gateway import mount
from jobkit.rpc.http import HttpServer
from jobkit.rpc.metrics import RpcMetrics
from jobkit.rpc.openapi import mount_docs
from jobkit.rpc.server import RpcServer
from jobkit.rpc.trace import current_request_id, current_trace

JOBS = "selfheal.jobs.v1.JobService"
BREAKERS = "selfheal.control.v1.BreakerService"

# What GetJob raises, by the job_id that asks for it.
FAILURES: dict[str, Exception] = {
    "invalid": errors.InvalidJob([errors.FieldViolation("job_id", "should not be empty")]),
    "missing": errors.NotFound("job", "missing"),
    "reused": errors.AlreadyExists("used before", reason="REQUEST_ID_REUSED", metadata={"job_id": "1"}),
    "finished": errors.Precondition("job has finished", reason="JOB_NOT_CANCELLABLE"),
    "schema": errors.SchemaMismatch("0001", "0002"),
    "types": errors.Exhausted("too many", reason="TOO_MANY_JOB_TYPES", retry_after=timedelta(seconds=60)),
    "open": errors.Unavailable("breaker is open", reason="BREAKER_OPEN", retry_after=timedelta(seconds=2.5)),
    "away": errors.store_unavailable("database"),
    "bug": RuntimeError("secret"),
}


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    """Echoes; remembers the last request and what came with it."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.metadata: dict[str, Any] = {}
        self.trace = ""
        self.request_id = ""
        self.waiting = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def SubmitJob(self, request: Any, context: Any) -> Message:
        self.seen.append(request)
        self.metadata = dict(context.invocation_metadata())
        self.trace, self.request_id = current_trace().traceparent, current_request_id()
        job = job_pb2.Job(job_id="1", job_type=request.job_type, payload=request.payload)
        return job_service_pb2.SubmitJobResponse(job=job)

    async def BatchSubmitJobs(self, request: Any, context: Any) -> Message:
        self.seen.append(request)
        return job_service_pb2.BatchSubmitJobsResponse()

    async def GetJob(self, request: Any, context: Any) -> Message:
        if request.job_id in FAILURES:
            raise FAILURES[request.job_id]
        return job_service_pb2.GetJobResponse(job=job_pb2.Job(job_id=request.job_id))

    async def ListJobs(self, request: Any, context: Any) -> Message:
        self.seen.append(request)
        return job_service_pb2.ListJobsResponse()

    async def WaitJob(self, request: Any, context: Any) -> Message:
        self.waiting.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return job_service_pb2.WaitJobResponse(job=job_pb2.Job(job_id=request.job_id))


class Breakers(breaker_service_pb2_grpc.BreakerServiceServicer):
    """Echoes the name that it was given."""

    def __init__(self) -> None:
        self.watched = 0
        self.ended = asyncio.Event()

    async def GetBreaker(self, request: Any, context: Any) -> Message:
        return breaker_service_pb2.GetBreakerResponse(breaker=breaker_pb2.Breaker(breaker=request.breaker))

    async def WatchBreakers(self, request: Any, context: Any) -> AsyncIterator[Message]:
        """As many messages as the revision says, as large as the breaker's name says; then what that asks for."""
        try:
            size = int(request.breaker) if request.breaker.isdigit() else 1
            for revision in range(1, request.revision + 1):
                self.watched = revision
                move = breaker_pb2.BreakerTransition(reason="x" * size)
                yield breaker_service_pb2.WatchBreakersResponse(revision=revision, transition=move)
            if request.breaker in FAILURES:
                raise FAILURES[request.breaker]
            if request.breaker == "endless":
                await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def ResetBreaker(self, request: Any, context: Any) -> Message:
        breaker = breaker_pb2.Breaker(breaker=request.breaker, generation=2**60, error_code=request.reason)
        return breaker_service_pb2.ResetBreakerResponse(breaker=breaker)


@dataclass
class Component:
    """Both doors of one component, started."""

    jobs: Jobs
    breakers: Breakers
    rpc: RpcServer
    http: HttpServer
    door: Door
    registry: CollectorRegistry
    channel: grpc.aio.Channel

    @property
    def stub(self) -> Any:
        return job_service_pb2_grpc.JobServiceStub(self.channel)


@asynccontextmanager
async def component(max_in_flight: int = 100) -> AsyncIterator[Component]:
    """On free ports of the loopback."""
    registry = CollectorRegistry()
    metrics = RpcMetrics(registry)
    door = Door(metrics, max_in_flight)
    jobs, breakers = Jobs(), Breakers()
    services = [
        (job_service_pb2_grpc.add_JobServiceServicer_to_server, jobs, JOBS),
        (breaker_service_pb2_grpc.add_BreakerServiceServicer_to_server, breakers, BREAKERS),
    ]
    rpc = RpcServer("127.0.0.1", 0, services, door)
    http = HttpServer("127.0.0.1", 0, metrics)
    mount(http.app, services, door)
    mount_docs(http.app, services, "selfheal", "1.2.3")
    await rpc.start()
    await http.start()
    try:
        async with grpc.aio.insecure_channel(rpc.address) as channel:
            yield Component(jobs, breakers, rpc, http, door, registry, channel)
    finally:
        await http.stop()
        await rpc.stop()
