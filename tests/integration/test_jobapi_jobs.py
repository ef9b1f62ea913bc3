"""What can be asked of jobs, over gRPC and the shim; waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from selfheal.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

from jobapi import waiting
from jobapi.app import JobApiApp
from jobkit import Permanent, TransientError
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import NotFound, Unavailable, store_unavailable
from jobkit.domain.job import JobState
from jobkit.domain.tripping import open_by_hand
from jobkit.host.channels import ENDED
from jobkit.host.world import new_id
from tests.integration.stage import Place, Stage, Trade, eventually, succeed

SubmitJobRequest = job_service_pb2.SubmitJobRequest


@asynccontextmanager
async def service_of(api: JobApiApp) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(api.front.rpc.address) as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


def payload(**fields: Any) -> Struct:
    made = Struct()
    made.update(fields)
    return made


def request(job_type: str, **fields: Any) -> SubmitJobRequest:
    return SubmitJobRequest(job_type=job_type, payload=payload(n=1), **fields)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info.reason


async def test_the_life_of_a_job_over_grpc(place: Place) -> None:
    email = Trade(place.type("email"), max_attempts=2)
    email.fail(lambda: TransientError("API_TIMEOUT", "slow"))
    async with Stage(place) as stage:
        api = await stage.jobapi()
        await stage.worker(email)
        async with service_of(api) as service:
            answer = await service.SubmitJob(request(email.job_type, request_id="r-1", labels={"a": "b"}))
            assert (answer.existed, answer.job.job_type) == (False, email.job_type)
            job_id = answer.job.job_id
            waited = await service.WaitJob(job_service_pb2.WaitJobRequest(job_id=job_id))
            job = waited.job
            assert job.state == job_pb2.JOB_STATE_QUARANTINED
            assert job.quarantine.reason == job_pb2.QUARANTINE_REASON_RETRIES_EXHAUSTED
            assert (job.attempts, job.last_error.code, len(job.attempt_history)) == (2, "API_TIMEOUT", 2)

            again = await service.SubmitJob(request(email.job_type, request_id="r-1", labels={"a": "b"}))
            assert (again.existed, again.job.job_id) == (True, job_id)
            assert again.job.state == job_pb2.JOB_STATE_QUARANTINED
            with pytest.raises(grpc.aio.AioRpcError) as reused:
                await service.SubmitJob(request(email.job_type, request_id="r-1", labels={"a": "c"}))
            assert (reused.value.code(), reason_of(reused.value)) == (
                grpc.StatusCode.ALREADY_EXISTS,
                "REQUEST_ID_REUSED",
            )

            async def act(job: Any) -> dict[str, Any]:
                return dict(job.payload)

            email.act = act
            retried = await service.RetryJob(
                job_service_pb2.RetryJobRequest(job_id=job_id, payload=payload(n=2))
            )
            assert retried.job.state == job_pb2.JOB_STATE_QUEUED
            done = (await service.WaitJob(job_service_pb2.WaitJobRequest(job_id=job_id))).job
            assert (done.state, done.result["n"], done.attempts) == (job_pb2.JOB_STATE_SUCCEEDED, 2, 3)
            with pytest.raises(grpc.aio.AioRpcError) as finished:
                await service.CancelJob(job_service_pb2.CancelJobRequest(job_id=job_id))
            assert finished.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_batches_answer_item_by_item(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        api = await stage.jobapi(MAX_JOB_TYPES="1")
        async with service_of(api) as service:
            batch = [
                request("email"),
                request(""),
                request("sms"),
                request("email", on_open=99),
                request("email", request_id="x"),
                request("email", request_id="x"),
            ]
            answer = await service.BatchSubmitJobs(job_service_pb2.BatchSubmitJobsRequest(requests=batch))
            kinds = [result.WhichOneof("result") for result in answer.results]
            assert kinds == ["job", "status", "status", "status", "job", "job"]
            codes = [
                result.status.code for result in answer.results if result.WhichOneof("result") == "status"
            ]
            assert codes == [3, 8, 3]
            assert [result.existed for result in answer.results] == [False] * 5 + [True]
            assert answer.results[4].job.job_id == answer.results[5].job.job_id
            with pytest.raises(grpc.aio.AioRpcError) as empty:
                await service.BatchSubmitJobs(job_service_pb2.BatchSubmitJobsRequest())
            assert empty.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_thousands_in_one_call(place: Place) -> None:
    async with Stage(place) as stage:
        api = await stage.jobapi()
        async with service_of(api) as service:
            batch = [request(place.type("email")) for _ in range(3000)]
            answer = await service.BatchSubmitJobs(job_service_pb2.BatchSubmitJobsRequest(requests=batch))
        ids = [UUID(result.job.job_id) for result in answer.results]
        assert len(set(ids)) == 3000
        assert len(await stage.world.reader.get(ids)) == 3000


async def test_lists_are_filtered_and_paged(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        ids = [str(await stage.submit("email" if n % 2 else "sms")) for n in range(7)]
        async with service_of(api) as service:
            seen: list[str] = []
            token = ""
            while True:
                page = await service.ListJobs(
                    job_service_pb2.ListJobsRequest(filter='job_type = "sms"', page_size=3, page_token=token)
                )
                seen += [job.job_id for job in page.jobs]
                token = page.next_page_token
                if not token:
                    break
            assert seen == ids[::-2]
            assert len((await service.ListJobs(job_service_pb2.ListJobsRequest())).jobs) == 7
            for bad in ({"page_size": -1}, {"page_token": "x"}, {"filter": "nonsense"}):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await service.ListJobs(job_service_pb2.ListJobsRequest(**bad))
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_cancel_discard_and_what_is_not_there(embedded: Place) -> None:
    email = Trade("email")
    email.fail(lambda: Permanent("VALIDATION_ERROR"))
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        async with service_of(api) as service:
            first = str(await stage.submit("email"))
            for _ in range(2):
                cancelled = await service.CancelJob(job_service_pb2.CancelJobRequest(job_id=first))
                assert cancelled.job.state == job_pb2.JOB_STATE_CANCELLED
            await stage.worker(email)
            second = await stage.submit("email")
            await stage.reaches(second, JobState.QUARANTINED)
            for _ in range(2):
                discarded = await service.DiscardJob(job_service_pb2.DiscardJobRequest(job_id=str(second)))
                assert discarded.job.state == job_pb2.JOB_STATE_DISCARDED
            assert email.ids == [second]
            metrics, finished = await stage.metrics(api), "selfheal_jobs_finished_total"
            for outcome in ("cancelled", "discarded"):
                assert metrics[f'{finished}{{job_type="email",outcome="{outcome}"}}'] == 1
            for job_id in ("nonsense", first.replace("-", ""), str(new_id())):
                with pytest.raises(grpc.aio.AioRpcError) as missing:
                    await service.GetJob(job_service_pb2.GetJobRequest(job_id=job_id))
                assert (missing.value.code(), reason_of(missing.value)) == (
                    grpc.StatusCode.NOT_FOUND,
                    "JOB_NOT_FOUND",
                )


async def test_a_field_of_a_later_release_is_refused_by_its_number(embedded: Place) -> None:
    later = SubmitJobRequest.FromString(request("email").SerializeToString() + b"\xa2\x06\x03new")
    batch = job_service_pb2.BatchSubmitJobsRequest
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        async with service_of(api) as service:
            for call, message in (
                (service.SubmitJob, later),
                (service.BatchSubmitJobs, batch.FromString(b"\xa2\x06\x03new")),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(message)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert reason_of(refused.value) == "UNKNOWN_FIELD"
                assert "#100: should not exist" in refused.value.details()
            answer = await service.BatchSubmitJobs(batch(requests=[later, request("email")]))
        assert [item.WhichOneof("result") for item in answer.results] == ["status", "job"]


async def test_a_type_that_nobody_serves_says_so(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        async with service_of(api) as service:
            job_id = str(await stage.submit("email"))
            get = job_service_pb2.GetJobRequest(job_id=job_id)

            async def note() -> str:
                return str((await service.GetJob(get)).job.note)

            await eventually(note, lambda text: text == "no live worker serves job type 'email'")


async def test_the_shim_takes_a_job_and_shows_it(place: Place) -> None:
    email = Trade(place.type("email"))

    async def act(job: Any) -> dict[str, Any]:
        job.progress(1, 2)
        return {"sent": True}

    email.act = act
    async with Stage(place) as stage:
        api = await stage.jobapi()
        await stage.worker(email)
        body = {"jobType": email.job_type, "payload": {"to": "you"}, "labels": {"a": "b"}, "maxAttempts": 2}
        status, accepted = await stage.post(api, "/jobs", json=body)
        job_id = accepted["jobId"]
        assert (status, accepted) == (
            202,
            {
                "status": "accepted",
                "message": "Job queued for processing",
                "jobType": email.job_type,
                "jobId": job_id,
            },
        )
        await stage.reaches(UUID(job_id), JobState.SUCCEEDED)
        status, shown = await stage.get(api, f"/jobs/{job_id}")
        times = shown.pop("createdAt"), shown.pop("updatedAt")
        assert all(time.endswith("Z") for time in times)
        assert shown == {
            "jobId": job_id,
            "jobType": email.job_type,
            "status": "succeeded",
            "attempts": 1,
            "deliveries": 1,
            "holds": 0,
            "progress": {"processed": 1, "total": 2},
            "result": {"sent": True},
            "error": None,
        }
        assert await stage.get(api, "/jobs/x") == (
            404,
            {"statusCode": 404, "message": "Job 'x' not found", "error": "Not Found"},
        )
        assert (await stage.get(api, "/health"))[1]["info"]["api"] == {"status": "up"}


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({}, ["jobType should not be empty", "jobType must be a string", "payload must be an object"]),
        ({"jobType": " ", "payload": []}, ["jobType should not be empty", "payload must be an object"]),
        ({"jobType": 5, "payload": {}}, ["jobType must be a string"]),
        ({"jobType": "a", "payload": {}, "x": 1}, ["property x should not exist"]),
        ({"jobType": "a", "payload": {}, "requestId": ""}, ["requestId must be a string and not empty"]),
        ({"jobType": "a", "payload": {}, "maxAttempts": True}, ["maxAttempts must be a whole number"]),
        ({"jobType": "a", "payload": {}, "labels": {"x": 1}}, ["labels must be an object of strings"]),
    ],
)
async def test_bad_bodies_are_told_everything_at_once(
    embedded: Place, body: Any, messages: list[str]
) -> None:
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        status, answer = await stage.post(api, "/jobs", json=body)
    assert status == 400
    assert answer == {"statusCode": 400, "message": messages, "error": "Bad Request"}


async def test_a_submit_to_a_held_type_says_so_or_is_refused(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        await stage.submit("email")
        now = await stage.world.breakers.now()
        await stage.world.ledger.record(open_by_hand(BreakerRecord("email"), now, now + 60_000, "", ""))
        await api.jobs._submitter.types.refresh()
        async with service_of(api) as service:
            held = (await service.SubmitJob(request("email"))).job
            assert held.state == job_pb2.JOB_STATE_QUARANTINED
            assert held.quarantine.reason == job_pb2.QUARANTINE_REASON_BREAKER_OPEN
            read = await service.GetJob(job_service_pb2.GetJobRequest(job_id=held.job_id))
            assert (read.job.state, read.job.holds) == (held.state, held.holds)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await service.SubmitJob(request("email", on_open=job_pb2.ON_OPEN_REJECT))
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(refused.value) == "BREAKER_OPEN"


# -- waiting -----------------------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters that would look only after half a minute: whatever ends a wait sooner was told."""
    monkeypatch.setattr(waiting, "FIRST_LOOK", 30.0)


@pytest.mark.usefixtures("patient")
async def test_a_wait_returns_as_soon_as_the_job_ends(place: Place) -> None:
    email = Trade(place.type("email"))
    go = email.hang()
    async with Stage(place) as stage:
        api = await stage.jobapi()
        await stage.worker(email)
        ids = [await stage.submit(email.job_type) for _ in range(5)]
        waits = [asyncio.create_task(api.jobs.wait(job_id, timedelta(seconds=20))) for job_id in ids]
        await email.began(5)
        await asyncio.sleep(0.2)  # until the worker has heard who waits
        go.set()
        jobs = await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}


async def test_a_wait_that_is_over_returns_the_job_as_it_is(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        job_id = await stage.submit("email")
        assert (await api.jobs.wait(job_id, timedelta(seconds=0.1))).state is JobState.QUEUED
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with service_of(api) as service:
            now = job_service_pb2.WaitJobRequest(job_id=str(job_id), timeout=Duration())
            assert (await service.WaitJob(now)).job.state == job_pb2.JOB_STATE_QUEUED
        assert loop.time() - started < 10  # a timeout of zero is not the default one
        with pytest.raises(NotFound):
            await api.jobs.wait(new_id(), timedelta(seconds=1))


@pytest.mark.usefixtures("patient")
async def test_a_wait_sees_a_cancellation_through_another_replica(real: Place) -> None:
    async with Stage(real) as stage:
        first = await stage.jobapi()
        second = await stage.jobapi()
        job_id = await stage.submit(real.type("email"))
        waiter = asyncio.create_task(first.jobs.wait(job_id, timedelta(seconds=20)))
        await asyncio.sleep(0.2)
        await second.jobs.cancel(job_id)
        assert (await asyncio.wait_for(waiter, 10)).state is JobState.CANCELLED


async def test_a_wait_outlives_a_database_that_is_away(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    email = Trade("email")
    email.act = succeed
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        job_id = await stage.submit("email")
        waiter = asyncio.create_task(api.jobs.wait(job_id, timedelta(seconds=20)))
        await asyncio.sleep(0.02)
        calls = 0

        async def away(ids: object) -> object:
            nonlocal calls
            calls += 1
            raise store_unavailable("database")

        async def called() -> int:
            return calls

        with monkeypatch.context() as outage:
            outage.setattr(stage.world.reader, "get", away)
            await stage.world.signals.send(ENDED, [job_id])
            await eventually(called, bool)
            with pytest.raises(Unavailable):
                await api.jobs.get(job_id)
        await stage.worker(email)
        assert (await waiter).state is JobState.SUCCEEDED
