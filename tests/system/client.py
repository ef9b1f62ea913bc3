"""What a user of a running fleet has at hand: REST, gRPC, and patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
import grpc
import orjson
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2, breaker_service_pb2_grpc
from selfheal.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

from jobkit.client.payload import to_struct
from jobkit.rpc.convert import struct_to_dict
from tests.system.fleet import Fleet

if TYPE_CHECKING:
    from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceAsyncStub
    from selfheal.jobs.v1.job_service_pb2_grpc import JobServiceAsyncStub

T = TypeVar("T")
PATIENCE = 60.0

SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
QUARANTINED = job_pb2.JOB_STATE_QUARANTINED
RUNNING = job_pb2.JOB_STATE_RUNNING
CANCELLED = job_pb2.JOB_STATE_CANCELLED


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a gRPC error tells its caller."""

    code: grpc.StatusCode
    message: str
    info: ErrorInfo
    retry: RetryInfo | None
    fields: dict[str, str]


def simulate(**script: Any) -> dict[str, Any]:
    """A payload for the simulator."""
    return {"simulate": script}


class Client:
    """Talks to one fleet; one per test."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        self._channels = [
            grpc.aio.insecure_channel(self.fleet.ports.grpc(p)) for p in ("jobapi", "controlplane")
        ]
        self.jobs: JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(self._channels[0])
        self.breakers: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(
            self._channels[1]
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        for channel in self._channels:
            await channel.close()

    async def http(self, method: str, url: str, **options: Any) -> Answer:
        """`url` as a whole, or from its component on: "jobapi/jobs"."""
        if not url.startswith("http"):
            component, _, path = url.partition("/")
            url = f"{self.fleet.ports.http(component)}/{path}"
        async with self._session.request(method, url, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, url: str, **options: Any) -> Any:
        """The JSON of a 200."""
        answer = await self.http("GET", url, **options)
        assert answer.status == 200, answer
        return answer.json

    async def post_job(self, job_type: str, payload: Mapping[str, Any], **fields: Any) -> str:
        """`POST /jobs`; the job's id."""
        body = {"jobType": job_type, "payload": payload, **fields}
        answer = await self.http("POST", "jobapi/jobs", json=body)
        assert answer.status == 202, answer
        return str(answer.json["jobId"])

    async def submit(self, job_type: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> str:
        """SubmitJob; the job's id."""
        request = submission(job_type, payload, **fields)
        return (await self.jobs.SubmitJob(request)).job.job_id

    async def submit_many(
        self, job_type: str, number: int, payload: Mapping[str, Any] | None = None
    ) -> list[str]:
        """One BatchSubmitJobs; all must be accepted."""
        requests = [submission(job_type, payload) for _ in range(number)]
        answer = await self.jobs.BatchSubmitJobs(job_service_pb2.BatchSubmitJobsRequest(requests=requests))
        assert all(result.HasField("job") for result in answer.results), answer.results
        return [result.job.job_id for result in answer.results]

    async def job(self, job_id: str) -> job_pb2.Job:
        return (await self.jobs.GetJob(job_service_pb2.GetJobRequest(job_id=job_id))).job

    async def settled(self, job_id: str) -> job_pb2.Job:
        """The job once it needs no more waiting."""
        request = job_service_pb2.WaitJobRequest(job_id=job_id)
        request.timeout.FromSeconds(round(PATIENCE))
        return (await self.jobs.WaitJob(request)).job

    async def result(self, job_id: str) -> dict[str, Any]:
        """The result of a job that is to succeed."""
        job = await self.settled(job_id)
        assert job.state == SUCCEEDED, job
        return struct_to_dict(job.result)

    async def cancel(self, job_id: str) -> job_pb2.Job:
        return (await self.jobs.CancelJob(job_service_pb2.CancelJobRequest(job_id=job_id))).job

    async def listed(self, query: str, page_size: int = 1000) -> list[job_pb2.Job]:
        """One page."""
        request = job_service_pb2.ListJobsRequest(filter=query, page_size=page_size)
        return list((await self.jobs.ListJobs(request)).jobs)

    async def breaker(self, name: str) -> breaker_pb2.Breaker:
        return (await self.breakers.GetBreaker(breaker_service_pb2.GetBreakerRequest(breaker=name))).breaker

    async def shown_breaker(self, name: str) -> dict[str, Any]:
        """As `GET /breakers` shows it; {} for none."""
        listed = (await self.get("controlplane/breakers"))["breakers"]
        return next((breaker for breaker in listed if breaker["jobType"] == name), {})


def submission(
    job_type: str, payload: Mapping[str, Any] | None = None, *, timeout: float | None = None, **fields: Any
) -> job_service_pb2.SubmitJobRequest:
    """`timeout` is that of an attempt, in seconds."""
    request = job_service_pb2.SubmitJobRequest(job_type=job_type, payload=to_struct(payload or {}), **fields)
    if timeout is not None:
        request.attempt_timeout.FromNanoseconds(round(timeout * 1e9))
    return request


async def refused(call: Awaitable[Any]) -> Refusal:
    """The error that a call must end in."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        return read_status(status or Status(), error.code())
    raise AssertionError(f"not refused: {answer}")


def read_status(status: Status, code: grpc.StatusCode) -> Refusal:
    info, retry, fields = ErrorInfo(), RetryInfo(), BadRequest()
    has_retry = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(fields)
        has_retry = detail.Unpack(retry) or has_retry
    wrong = {violation.field: violation.description for violation in fields.field_violations}
    return Refusal(code, status.message, info, retry if has_retry else None, wrong)


async def eventually(
    ask: Callable[[], Awaitable[T]], holds: Callable[[T], object], timeout: float = PATIENCE
) -> T:
    """Ask until the answer `holds`, and return it; AssertionError with the last answer after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not holds(answer := await ask()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s, last seen: {answer}"
        await asyncio.sleep(0.05)
    return answer
