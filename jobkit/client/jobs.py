"""JobClient: submitting jobs and following them, from any asyncio program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

import grpc
from selfheal.jobs.v1 import job_service_pb2 as api
from selfheal.jobs.v1 import job_service_pb2_grpc

from jobkit.client.calls import Caller, open_channel, pages, traced
from jobkit.client.errors import InvalidRequest, JobClientError, from_status
from jobkit.client.job import Job, OnOpenChoice, Submission, from_message, to_seconds
from jobkit.client.payload import to_struct
from jobkit.client.shared import Answers, SharedSubmits
from jobkit.client.wait import wait_settled

if TYPE_CHECKING:
    from selfheal.jobs.v1.job_service_pb2_grpc import JobServiceAsyncStub

BATCH_ITEMS = 1_000
BATCH_BYTES = 2_000_000  # a server takes 4 MB a message, and answers with every payload and more


class JobClient:
    """An async context manager over one channel to the job API.

    Every method raises JobClientError for an answer that is an error. Where the server is away or busy, calls
    are repeated with jittered backoff until `timeout` (a timedelta or seconds) is over; a submit always
    carries a `request_id`, so repeating it never makes a second job. Cancel, retry and discard have no such
    key: they are repeated only where the server says that it did nothing and when to come back.
    Submits of concurrent callers share calls, but for those with a trace of their own.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: timedelta | float = 30,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._call = Caller(timeout=to_seconds(timeout), metadata=metadata)
        self._shared = SharedSubmits(
            self._submit_shared, timeout=to_seconds(timeout), max_items=BATCH_ITEMS, max_bytes=BATCH_BYTES
        )
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self._target, self._credentials)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def submit(
        self,
        job_type: str,
        payload: Mapping[str, object],
        *,
        request_id: str | None = None,
        max_attempts: int | None = None,
        attempt_timeout: timedelta | float | None = None,
        labels: Mapping[str, str] | None = None,
        on_open: OnOpenChoice = "hold",
    ) -> Job:
        """When this returns, the job is recorded and will not be lost. Repeat a failed submit with the
        `request_id` in the error's metadata, and it cannot become two jobs."""
        item = Submission(job_type, payload, request_id, max_attempts, attempt_timeout, labels or {}, on_open)
        request = _keyed(item)
        try:
            # A call carries one trace.
            return await (self._submit_alone(request) if traced() else self._shared.submit(request))
        except JobClientError as error:
            raise _copy(error, request) from error

    async def submit_many(self, items: Iterable[Submission]) -> Answers:
        """One answer an item, in order: the job, or why this item was refused. When a whole call fails, its
        items and those after it get that error; each error's metadata holds its item's `request_id`."""
        answers: dict[int, Job | JobClientError] = {}
        keyed: list[tuple[int, api.SubmitJobRequest]] = []
        for index, item in enumerate(items):
            try:
                keyed.append((index, _keyed(item)))
            except InvalidRequest as error:
                answers[index] = error
        down: JobClientError | None = None
        for chunk in _chunks(keyed):
            requests = [request for _, request in chunk]
            if down is None:
                try:
                    results = await self._submit_chunk(requests)
                except JobClientError as error:
                    down = error
            if down is not None:
                results = [_copy(down, request) for request in requests]
            answers.update(zip((index for index, _ in chunk), results, strict=True))
        return [answers[index] for index in range(len(answers))]

    async def get(self, job_id: str) -> Job:
        answer = await self._call(self._stub.GetJob, api.GetJobRequest(job_id=job_id))
        return from_message(answer.job)

    async def wait(self, job_id: str, timeout: timedelta | float = 300) -> Job:
        """The job once it needs no more waiting: finished, or quarantined for a person (look at `state`).
        Raises TimeoutError when that takes longer than `timeout` (a timedelta or seconds)."""
        return from_message(await wait_settled(self._call, self._stub, job_id, to_seconds(timeout)))

    async def list(self, filter: str = "", *, page_size: int = 100) -> AsyncIterator[Job]:
        """All jobs that match, newest first, a page at a time. For example
        `state = QUARANTINED AND job_type = "email"`."""
        request = api.ListJobsRequest(page_size=page_size, filter=filter)
        async for page in pages(self._call, self._stub.ListJobs, request):
            for job in page.jobs:
                yield from_message(job)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job that waits, or ask a running one to stop. Raises WrongState for a finished one."""
        request = api.CancelJobRequest(job_id=job_id)
        answer = await self._call(self._stub.CancelJob, request, repeatable=False)
        return from_message(answer.job)

    async def retry(self, job_id: str, payload: Mapping[str, object] | None = None) -> Job:
        """Send a quarantined job back to work, with a corrected payload where one is given."""
        request = api.RetryJobRequest(job_id=job_id)
        if payload is not None:
            request.payload.CopyFrom(to_struct(payload))
        answer = await self._call(self._stub.RetryJob, request, repeatable=False)
        return from_message(answer.job)

    async def discard(self, job_id: str) -> Job:
        """Give a quarantined or held job up for good."""
        request = api.DiscardJobRequest(job_id=job_id)
        answer = await self._call(self._stub.DiscardJob, request, repeatable=False)
        return from_message(answer.job)

    @property
    def _stub(self) -> JobServiceAsyncStub:
        if self._channel is None:
            raise RuntimeError("use JobClient in an `async with` block")
        return job_service_pb2_grpc.JobServiceStub(self._channel)

    async def _submit_alone(self, request: api.SubmitJobRequest) -> Job:
        answer = await self._call(self._stub.SubmitJob, request)
        return from_message(answer.job, existed=answer.existed)

    async def _submit_shared(self, requests: Sequence[api.SubmitJobRequest]) -> Answers:
        if len(requests) == 1:
            return [await self._submit_alone(requests[0])]
        return await self._submit_chunk(requests)

    async def _submit_chunk(self, chunk: Sequence[api.SubmitJobRequest]) -> Answers:
        answer = await self._call(self._stub.BatchSubmitJobs, api.BatchSubmitJobsRequest(requests=chunk))
        pairs = zip(answer.results, chunk, strict=True)
        return [
            from_message(result.job, existed=result.existed)
            if result.WhichOneof("result") == "job"
            else _copy(from_status(result.status), request)
            for result, request in pairs
        ]


def _keyed(item: Submission) -> api.SubmitJobRequest:
    """The item's request, always with a request_id: that is what makes repeating it safe."""
    request = item.to_request()
    request.request_id = request.request_id or str(uuid4())
    return request


def _chunks(
    keyed: Iterable[tuple[int, api.SubmitJobRequest]],
) -> Iterator[list[tuple[int, api.SubmitJobRequest]]]:
    chunk: list[tuple[int, api.SubmitJobRequest]] = []
    size = 0
    for index, request in keyed:
        length = request.ByteSize()
        if chunk and (len(chunk) == BATCH_ITEMS or size + length > BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append((index, request))
        size += length
    if chunk:
        yield chunk


def _copy(error: JobClientError, request: api.SubmitJobRequest) -> JobClientError:
    """`error` as the answer to one item, naming the item's request_id."""
    return type(error)(
        error.code,
        error.message,
        reason=error.reason,
        violations=error.violations,
        retry_after=error.retry_after,
        metadata={**error.metadata, "request_id": request.request_id},
    )
