"""JobService in a running system: what is submitted twice, in bulk, waited for, cancelled, corrected, given up."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
from google.rpc.code_pb2 import INVALID_ARGUMENT
from selfheal.control.v1 import breaker_service_pb2
from selfheal.jobs.v1 import job_pb2, job_service_pb2

from tests.system.client import (
    CANCELLED,
    QUARANTINED,
    RUNNING,
    SUCCEEDED,
    Client,
    eventually,
    read_status,
    refused,
    simulate,
    submission,
)
from tests.system.fleet import Fleet


async def test_a_request_id_makes_one_job_however_often_it_is_sent(client: Client, fleet: Fleet) -> None:
    request = submission(fleet.job_type("once"), {"n": 1}, request_id=fleet.job_type("key"))
    answers = await asyncio.gather(*(client.jobs.SubmitJob(request) for _ in range(20)))

    assert len({answer.job.job_id for answer in answers}) == 1
    assert sorted(answer.existed for answer in answers) == [False] + [True] * 19
    assert (await client.settled(answers[0].job.job_id)).deliveries == 1
    request.payload["n"] = 2
    refusal = await refused(client.jobs.SubmitJob(request))
    assert (refusal.code, refusal.info.domain) == (grpc.StatusCode.ALREADY_EXISTS, "selfheal")
    assert refusal.info.reason.startswith("REQUEST_ID")
    assert refusal.info.metadata["trace_id"]


async def test_a_batch_of_two_thousand_is_answered_item_by_item(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("bulk")
    requests = [submission(job_type, {"n": number}) for number in range(2000)]
    wrong = {7: "job_type", 1000: "labels.a b", 1001: "on_open", 1999: "payload"}
    requests[7].job_type = "*"
    requests[1000].labels["a b"] = "x"
    requests[1001].on_open = 9  # type: ignore[assignment]
    requests[1999].ClearField("payload")

    answer = await client.jobs.BatchSubmitJobs(job_service_pb2.BatchSubmitJobsRequest(requests=requests))

    assert len(answer.results) == 2000
    for index, result in enumerate(answer.results):
        if index in wrong:
            assert result.status.code == INVALID_ARGUMENT
            assert list(read_status(result.status, grpc.StatusCode.INVALID_ARGUMENT).fields) == [wrong[index]]
        else:
            assert result.job.payload["n"] == index
    ids = [result.job.job_id for result in answer.results if result.HasField("job")]
    assert len(set(ids)) == 1996
    # In the middle of a drain of 1996 jobs nothing is lost and nothing runs twice.
    await eventually(
        lambda: client.get(f"controlplane/queues/{job_type}/stats"),
        lambda stats: not (stats["waiting"] or stats["running"]),
        timeout=60,
    )
    done = await client.listed(f'job_type = "{job_type}" AND state = SUCCEEDED', page_size=5000)
    assert len(done) == 1000
    assert {job.deliveries for job in done} == {1}


async def test_a_wait_ends_with_its_job_or_tells_how_it_stands(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("waited")
    quick = await client.submit(job_type, simulate(durationMs=300))
    began = time.monotonic()
    assert (await client.settled(quick)).state == SUCCEEDED
    assert time.monotonic() - began < 5

    slow = await client.submit(job_type, simulate(durationMs=20_000))
    await eventually(lambda: client.job(slow), lambda job: job.state == RUNNING)
    request = job_service_pb2.WaitJobRequest(job_id=slow)
    request.timeout.FromMilliseconds(200)
    assert (await client.jobs.WaitJob(request)).job.state == RUNNING
    shim = await client.http("POST", f"jobapi/v1/jobs/{slow}:wait", json={"timeout": "0.1s"})
    assert (shim.status, shim.json["job"]["state"]) == (200, "JOB_STATE_RUNNING")
    await client.cancel(slow)


async def test_jobs_are_listed_in_pages_newest_first_by_what_they_carry(client: Client, fleet: Fleet) -> None:
    job_type, label = fleet.job_type("listed"), fleet.job_type("label")
    ids = [await client.submit(job_type, {"n": n}, labels={"batch": label}) for n in range(25)]
    bad = await client.submit(job_type, simulate(failWith="VALIDATION_ERROR"), labels={"batch": label})
    for job_id in [*ids, bad]:
        await client.settled(job_id)

    pages, token = [], ""
    while True:
        request = job_service_pb2.ListJobsRequest(
            filter=f'labels.batch = "{label}"', page_size=10, page_token=token
        )
        page = await client.jobs.ListJobs(request)
        pages.append([job.job_id for job in page.jobs])
        token = page.next_page_token
        if not token:
            break
    assert [len(page) for page in pages] == [10, 10, 6]
    assert [job_id for page in pages for job_id in page] == [bad, *reversed(ids)]
    failed = await client.listed(f'error.code = VALIDATION_ERROR AND job_type = "{job_type}"')
    assert [job.job_id for job in failed] == [bad]
    middle = (await client.job(ids[12])).create_time.ToJsonString()
    later = await client.listed(f'job_type = "{job_type}" AND create_time > "{middle}"')
    assert {job.job_id for job in later} >= set(ids[13:]) | {bad}
    assert ids[0] not in {job.job_id for job in later}
    shown = await client.get(
        "jobapi/v1/jobs", params={"filter": f'labels.batch = "{label}"', "pageSize": "3"}
    )
    assert [job["jobId"] for job in shown["jobs"]] == [bad, ids[-1], ids[-2]]


async def test_a_bad_filter_page_or_id_is_named(client: Client) -> None:
    for query in ("state = LOUD", "color = red", "state QUEUED", 'job_type = "a" OR state = QUEUED'):
        refusal = await refused(client.jobs.ListJobs(job_service_pb2.ListJobsRequest(filter=query)))
        assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["filter"])
    refusal = await refused(client.jobs.ListJobs(job_service_pb2.ListJobsRequest(page_token="nonsense")))
    assert list(refusal.fields) == ["page_token"]
    for job_id in ("", "x", "00000000-0000-0000-0000-000000000000"):
        refusal = await refused(client.job(job_id))
        assert (refusal.code, refusal.info.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        refusal = await refused(client.cancel(job_id))
        assert refusal.code == grpc.StatusCode.NOT_FOUND


async def test_a_waiting_job_is_cancelled_at_once_and_a_finished_one_not_at_all(
    client: Client, fleet: Fleet
) -> None:
    job_type = fleet.job_type("cancelled")
    await client.result(await client.submit(job_type))
    await client.breakers.OpenBreaker(breaker_service_pb2.OpenBreakerRequest(breaker=job_type))
    waiting = await client.submit(job_type)

    assert (await client.cancel(waiting)).state == CANCELLED
    assert (await client.cancel(waiting)).state == CANCELLED

    await client.breakers.ResetBreaker(breaker_service_pb2.ResetBreakerRequest(breaker=job_type))
    done = await client.submit(job_type)
    await client.result(done)
    refusal = await refused(client.cancel(done))
    assert (refusal.code, refusal.info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_CANCELLABLE")
    assert (await client.job(waiting)).deliveries == 0


async def test_a_running_handler_is_told_that_its_job_was_cancelled(
    client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    for handler in ("patient", "blocking"):
        payload = {key: str(tmp_path / f"{handler}-{key}") for key in ("begun", "release", "told")}
        job_id = await client.submit(fleet.handled(handler), payload)
        await eventually(lambda path=payload["begun"]: _exists(path), bool)  # type: ignore[misc]

        await client.cancel(job_id)

        job = await client.settled(job_id)
        assert (job.state, job.attempts, job.deliveries) == (CANCELLED, 0, 1)
        assert await _exists(payload["told"])


async def _exists(path: str) -> bool:
    return await asyncio.to_thread(Path(path).exists)


async def test_a_corrected_payload_gives_a_quarantined_job_another_life(client: Client, fleet: Fleet) -> None:
    job_id = await client.submit(fleet.handled("picky"), {"good": False})
    assert (await client.settled(job_id)).state == QUARANTINED
    request = job_service_pb2.RetryJobRequest(job_id=job_id)
    request.payload["good"] = True

    await client.jobs.RetryJob(request)

    job = await client.settled(job_id)
    assert (job.state, job.attempts, job.payload["good"]) == (SUCCEEDED, 2, True)
    assert not job.HasField("quarantine")
    refusal = await refused(client.jobs.RetryJob(request))
    assert (refusal.code, refusal.info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_QUARANTINED")


async def test_a_held_job_can_be_corrected_and_discarded(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("corrected")
    await client.result(await client.submit(job_type))
    await client.breakers.OpenBreaker(
        breaker_service_pb2.OpenBreakerRequest(breaker=job_type, reason="a test")
    )
    kept = await client.submit(job_type, simulate(failWith="VALIDATION_ERROR"))
    given_up = await client.submit(job_type)
    await eventually(lambda: client.job(kept), lambda job: job.state == QUARANTINED)
    request = job_service_pb2.RetryJobRequest(job_id=kept)
    request.payload.update({"n": 1})

    still_held = (await client.jobs.RetryJob(request)).job
    discarded = (await client.jobs.DiscardJob(job_service_pb2.DiscardJobRequest(job_id=given_up))).job

    assert still_held.quarantine.reason == job_pb2.QUARANTINE_REASON_BREAKER_OPEN
    assert discarded.state == job_pb2.JOB_STATE_DISCARDED
    await client.breakers.ResetBreaker(breaker_service_pb2.ResetBreakerRequest(breaker=job_type))
    assert (await client.settled(kept)).state == SUCCEEDED
    assert (await client.job(given_up)).deliveries == 0
    refusal = await refused(client.jobs.DiscardJob(job_service_pb2.DiscardJobRequest(job_id=kept)))
    assert refusal.code == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_submit_may_ask_to_be_refused_while_the_breaker_is_open(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("rejected")
    await client.result(await client.submit(job_type))
    await client.breakers.OpenBreaker(breaker_service_pb2.OpenBreakerRequest(breaker=job_type))
    request = submission(job_type, on_open=job_pb2.ON_OPEN_REJECT)

    async def code() -> grpc.StatusCode:
        try:
            await client.jobs.SubmitJob(request)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    await eventually(code, lambda seen: seen == grpc.StatusCode.UNAVAILABLE)
    refusal = await refused(client.jobs.SubmitJob(request))
    assert (refusal.info.reason, refusal.info.metadata["breaker"]) == ("BREAKER_OPEN", job_type)
    assert refusal.retry is not None
    assert refusal.retry.retry_delay.seconds >= 1
    body = {"jobType": job_type, "payload": {}, "onOpen": "ON_OPEN_REJECT"}
    rest = await client.http("POST", "jobapi/v1/jobs", json=body)
    assert (rest.status, int(rest.headers["Retry-After"]) >= 1) == (503, True)
    assert rest.json["error"]["status"] == "UNAVAILABLE"
    await client.breakers.ResetBreaker(breaker_service_pb2.ResetBreakerRequest(breaker=job_type))
    await eventually(code, lambda seen: seen == grpc.StatusCode.OK)


async def test_one_job_type_too_many_is_refused(few_types: Fleet) -> None:
    async with Client(few_types) as client:
        for name in ("fax", "one", "two", "three"):
            try:
                await client.submit(name)
            except grpc.aio.AioRpcError:
                refusal = await refused(client.submit(name))
                break
        else:
            raise AssertionError("never refused")
        assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (refusal.info.reason, refusal.info.metadata["jobType"]) == ("TOO_MANY_JOB_TYPES", name)
        assert refusal.retry is not None
        assert refusal.retry.retry_delay.seconds >= 1
        shim = await client.http("POST", "jobapi/jobs", json={"jobType": name, "payload": {}})
        assert (shim.status, "Retry-After" in shim.headers) == (429, True)
        await client.submit("fax")  # known types go on
