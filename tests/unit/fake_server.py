"""JobService, BreakerService and QuarantineService in memory, over a real socket: what clients and the CLI are tested
against.

A job of type `slow` never settles, one of type `steps` takes a step with each look at it, one of type `broken`, or
with `simulate` in its payload, ends in quarantine, any other succeeds when waited for.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status
from selfheal.control.v1 import (
    breaker_pb2,
    breaker_policy_pb2,
    breaker_service_pb2_grpc,
    incident_pb2,
    quarantine_service_pb2_grpc,
)
from selfheal.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

from jobkit.domain.errors import (
    AlreadyExists,
    FieldViolation,
    InvalidJob,
    NotFound,
    Precondition,
    SelfhealError,
    Unavailable,
)
from jobkit.rpc.status import to_status
from tests.unit.fake_breakers import FakeBreakerService, now
from tests.unit.fake_quarantine import FakeQuarantineService

M = TypeVar("M", bound=Message)

FINISHED = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_DISCARDED}


class Memory:
    """What the services know. `failures` are raised one call after another before anything is done; with
    `lose_answers` the next calls do their work and then fail with UNAVAILABLE, as when a connection breaks."""

    def __init__(self) -> None:
        self.jobs: dict[str, job_pb2.Job] = {}
        self.breakers = {
            "email": breaker_pb2.Breaker(breaker="email", state=breaker_pb2.BREAKER_STATE_CLOSED)
        }
        self.policies: dict[str, breaker_policy_pb2.BreakerPolicy] = {}
        self.failures: deque[SelfhealError | grpc.StatusCode] = deque()
        self.history: list[breaker_pb2.BreakerTransition] = []
        self.incidents: list[incident_pb2.Incident] = []
        self.lose_answers = 0
        self.requests: list[Message] = []
        self.metadata: list[dict[str, str | bytes]] = []

    def serve(self, context: grpc.ServicerContext, request: Message, work: Callable[[], M]) -> M:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            if self.failures:
                failure = self.failures.popleft()
                if isinstance(failure, grpc.StatusCode):
                    context.abort(failure, "as the test asked")
                raise failure
            answer = work()
        except SelfhealError as error:
            context.abort_with_status(rpc_status.to_status(to_status(error)))
        if self.lose_answers:
            self.lose_answers -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return answer

    def job(self, job_id: str) -> job_pb2.Job:
        if job_id not in self.jobs:
            raise NotFound("job", job_id)
        return self.jobs[job_id]

    def breaker(self, name: str) -> breaker_pb2.Breaker:
        if name not in self.breakers:
            raise NotFound("breaker", name)
        return self.breakers[name]

    def submit(self, request: job_service_pb2.SubmitJobRequest) -> tuple[job_pb2.Job, bool]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", request.job_type):
            raise InvalidJob([FieldViolation("job_type", "must be letters, digits, . _ : - only")])
        for job in self.jobs.values():
            if request.request_id and job.request_id == request.request_id:
                if job.payload != request.payload:
                    raise AlreadyExists("request_id was used with other content", reason="REQUEST_ID_REUSED")
                return job, True
        breaker = self.breakers.get(request.job_type)
        held = breaker is not None and breaker.state == breaker_pb2.BREAKER_STATE_OPEN
        if held and request.on_open == job_pb2.ON_OPEN_REJECT:
            raise Unavailable(
                "breaker is open", reason="BREAKER_OPEN", retry_after=timedelta(milliseconds=50)
            )
        job = job_pb2.Job(
            job_id=str(uuid.uuid4()),
            job_type=request.job_type,
            payload=request.payload,
            state=job_pb2.JOB_STATE_QUEUED,
            labels=request.labels,
            request_id=request.request_id,
            max_attempts=request.max_attempts,
            create_time=now(),
        )
        if held:
            quarantine(job, job_pb2.QUARANTINE_REASON_BREAKER_OPEN)
        self.jobs[job.job_id] = job
        return job, False


def quarantine(job: job_pb2.Job, reason: job_pb2.QuarantineReason.ValueType) -> None:
    job.state = job_pb2.JOB_STATE_QUARANTINED
    job.quarantine.reason = reason
    job.quarantine.since.CopyFrom(now())


def settle(job: job_pb2.Job) -> None:
    """What a worker would have done by now."""
    if job.job_type == "slow" or job.state in FINISHED or job.HasField("quarantine"):
        return
    if job.job_type == "steps" and job.progress.processed < 2:
        job.state = job_pb2.JOB_STATE_RUNNING
        job.progress.processed, job.progress.total = job.progress.processed + 1, 2
        return
    job.attempts, job.deliveries = job.attempts + 1, job.deliveries + 1
    attempt = job.attempt_history.add(delivery=job.deliveries, worker_id="worker-1", start_time=now())
    attempt.finish_time.CopyFrom(now())
    if job.job_type == "broken" or "simulate" in job.payload:
        attempt.error.CopyFrom(
            job_pb2.JobError(code="API_TIMEOUT", message="no answer\x1b[31m", retryable=True)
        )
        job.last_error.CopyFrom(attempt.error)
        quarantine(job, job_pb2.QUARANTINE_REASON_RETRIES_EXHAUSTED)
        return
    job.state = job_pb2.JOB_STATE_SUCCEEDED
    job.result.update({"sent": 1})
    job.finish_time.CopyFrom(now())


def parse_term(term: str) -> tuple[str, str]:
    match = re.fullmatch(r'(state|job_type|labels\.\w+) = "?(\w+)"?', term)
    if match is None:
        raise InvalidJob([FieldViolation("filter", "cannot be read")])
    return match[1], match[2]


def field_of(job: job_pb2.Job, name: str) -> str:
    if name == "state":
        return job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
    return job.job_type if name == "job_type" else job.labels.get(name.removeprefix("labels."), "")


class FakeJobService(job_service_pb2_grpc.JobServiceServicer):
    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def SubmitJob(self, request, context):
        def work():
            job, existed = self.memory.submit(request)
            return job_service_pb2.SubmitJobResponse(job=job, existed=existed)

        return self.memory.serve(context, request, work)

    def BatchSubmitJobs(self, request, context):
        def work():
            response = job_service_pb2.BatchSubmitJobsResponse()
            for item in request.requests:
                try:
                    job, existed = self.memory.submit(item)
                    response.results.add(job=job, existed=existed)
                except SelfhealError as error:
                    response.results.add(status=to_status(error))
            return response

        return self.memory.serve(context, request, work)

    def GetJob(self, request, context):
        return self.memory.serve(
            context, request, lambda: job_service_pb2.GetJobResponse(job=self.memory.job(request.job_id))
        )

    def ListJobs(self, request, context):
        def work():
            terms = [parse_term(term) for term in request.filter.split(" AND ") if term]
            jobs = [
                job
                for job in reversed(self.memory.jobs.values())
                if all(field_of(job, name) == value for name, value in terms)
            ]
            start = int(request.page_token or 0)
            end = start + (request.page_size or 50)
            token = str(end) if end < len(jobs) else ""
            return job_service_pb2.ListJobsResponse(jobs=jobs[start:end], next_page_token=token)

        return self.memory.serve(context, request, work)

    def WaitJob(self, request, context):
        def work():
            job = self.memory.job(request.job_id)
            settle(job)
            if job.job_type == "slow":
                threading.Event().wait(min(request.timeout.ToTimedelta().total_seconds(), 0.2))
            return job_service_pb2.WaitJobResponse(job=job)

        return self.memory.serve(context, request, work)

    def CancelJob(self, request, context):
        def work():
            job = self.memory.job(request.job_id)
            if job.state in FINISHED:
                raise Precondition("job is finished", reason="JOB_FINISHED")
            job.state = job_pb2.JOB_STATE_CANCELLED
            return job_service_pb2.CancelJobResponse(job=job)

        return self.memory.serve(context, request, work)

    def RetryJob(self, request, context):
        def work():
            job = self.memory.job(request.job_id)
            if job.state != job_pb2.JOB_STATE_QUARANTINED:
                raise Precondition("job is not quarantined", reason="JOB_NOT_QUARANTINED")
            if request.HasField("payload"):
                job.payload.CopyFrom(request.payload)
            job.state = job_pb2.JOB_STATE_QUEUED
            job.ClearField("quarantine")
            return job_service_pb2.RetryJobResponse(job=job)

        return self.memory.serve(context, request, work)

    def DiscardJob(self, request, context):
        def work():
            job = self.memory.job(request.job_id)
            job.state = job_pb2.JOB_STATE_DISCARDED
            job.ClearField("quarantine")
            return job_service_pb2.DiscardJobResponse(job=job)

        return self.memory.serve(context, request, work)


class FakeServer:
    """All services on one port. A `port` of 0 takes a free one."""

    def __init__(self, port: int = 0) -> None:
        self.memory = Memory()
        self._server = grpc.server(ThreadPoolExecutor(8))
        job_service_pb2_grpc.add_JobServiceServicer_to_server(FakeJobService(self.memory), self._server)
        breaker_service_pb2_grpc.add_BreakerServiceServicer_to_server(
            FakeBreakerService(self.memory), self._server
        )
        quarantine_service_pb2_grpc.add_QuarantineServiceServicer_to_server(
            FakeQuarantineService(self.memory), self._server
        )
        self.target = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"

    def __enter__(self) -> FakeServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()
