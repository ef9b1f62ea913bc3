"""`selfheal.jobs.v1.JobService`."""

from __future__ import annotations

from typing import Any

from google.protobuf.struct_pb2 import Struct
from selfheal.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

from jobapi.convert import (
    job_to_wire,
    page_token_from_wire,
    page_token_to_wire,
    payload_from_wire,
    refuse_unknown,
    submit_from_wire,
)
from jobapi.jobs import Jobs
from jobkit.domain.asked import parse_id
from jobkit.domain.errors import InvalidJob
from jobkit.domain.filter import parse_filter
from jobkit.domain.job import Job
from jobkit.domain.submit import Submit
from jobkit.rpc.convert import from_duration
from jobkit.rpc.status import to_status
from jobkit.rpc.trace import current_trace, trace_id


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    """Converts, calls, converts back; errors are translated at the door."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def SubmitJob(
        self, request: job_service_pb2.SubmitJobRequest, context: Any
    ) -> job_service_pb2.SubmitJobResponse:
        job, existed = await self._jobs.submit(submit_from_wire(request, current_trace()))
        return job_service_pb2.SubmitJobResponse(
            job=self._wire(job, None if existed else request.payload), existed=existed
        )

    async def BatchSubmitJobs(
        self, request: job_service_pb2.BatchSubmitJobsRequest, context: Any
    ) -> job_service_pb2.BatchSubmitJobsResponse:
        refuse_unknown(request)
        answers = await self._jobs.submit_many([_read(item) for item in request.requests])
        trace = trace_id(current_trace())
        return job_service_pb2.BatchSubmitJobsResponse(
            results=[
                job_service_pb2.BatchSubmitJobsResult(status=to_status(answer, trace))
                if isinstance(answer, Exception)
                else job_service_pb2.BatchSubmitJobsResult(
                    job=self._wire(answer[0], None if answer[1] else item.payload), existed=answer[1]
                )
                for item, answer in zip(request.requests, answers, strict=True)
            ]
        )

    async def GetJob(
        self, request: job_service_pb2.GetJobRequest, context: Any
    ) -> job_service_pb2.GetJobResponse:
        job = await self._jobs.get(parse_id("job", request.job_id))
        return job_service_pb2.GetJobResponse(job=self._wire(job))

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: Any
    ) -> job_service_pb2.ListJobsResponse:
        jobs, after = await self._jobs.list(
            parse_filter(request.filter), request.page_size, page_token_from_wire(request.page_token)
        )
        return job_service_pb2.ListJobsResponse(
            jobs=[self._wire(job) for job in jobs], next_page_token=page_token_to_wire(after)
        )

    async def WaitJob(
        self, request: job_service_pb2.WaitJobRequest, context: Any
    ) -> job_service_pb2.WaitJobResponse:
        timeout = from_duration(request.timeout) if request.HasField("timeout") else None
        job = await self._jobs.wait(parse_id("job", request.job_id), timeout)
        return job_service_pb2.WaitJobResponse(job=self._wire(job))

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, context: Any
    ) -> job_service_pb2.CancelJobResponse:
        job = await self._jobs.cancel(parse_id("job", request.job_id))
        return job_service_pb2.CancelJobResponse(job=self._wire(job))

    async def RetryJob(
        self, request: job_service_pb2.RetryJobRequest, context: Any
    ) -> job_service_pb2.RetryJobResponse:
        payload = payload_from_wire(request.payload) if request.HasField("payload") else None
        job = await self._jobs.retry(parse_id("job", request.job_id), payload)
        return job_service_pb2.RetryJobResponse(job=self._wire(job))

    async def DiscardJob(
        self, request: job_service_pb2.DiscardJobRequest, context: Any
    ) -> job_service_pb2.DiscardJobResponse:
        job = await self._jobs.discard(parse_id("job", request.job_id))
        return job_service_pb2.DiscardJobResponse(job=self._wire(job))

    def _wire(self, job: Job, payload: Struct | None = None) -> job_pb2.Job:
        return job_to_wire(job, self._jobs.note(job), payload)


def _read(item: job_service_pb2.SubmitJobRequest) -> Submit | Exception:
    try:
        return submit_from_wire(item, current_trace())
    except InvalidJob as error:
        return error
