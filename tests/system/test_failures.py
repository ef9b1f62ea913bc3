"""The source documentation's three failure scenarios: a timeout outage, bad data, a transient error."""

from __future__ import annotations

import asyncio

from selfheal.control.v1 import breaker_pb2
from selfheal.jobs.v1 import job_pb2

from tests.system.client import QUARANTINED, SUCCEEDED, Client, eventually, simulate
from tests.system.fleet import Fleet

OPEN = breaker_pb2.BREAKER_STATE_OPEN


async def test_an_outage_of_timeouts_opens_the_breaker_and_costs_no_job(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("slow-api")
    hang = simulate(durationMs=60_000)
    jobs = [await client.submit(job_type, hang, timeout=0.1) for _ in range(2)]
    late = await eventually(lambda: client.job(jobs[0]), lambda job: job.attempts >= 1)
    assert late.last_error.code == "API_TIMEOUT"
    assert "longer than 0.1 s" in late.last_error.message

    for job_id in jobs:
        await client.cancel(job_id)
    jobs = await client.submit_many(job_type, 12, simulate(failWith="API_TIMEOUT", failAttempts=1))

    breaker = await eventually(lambda: client.breaker(job_type), lambda found: found.state == OPEN)
    assert (breaker.error_code, breaker.failures["API_TIMEOUT"] >= 5) == ("API_TIMEOUT", True)
    settled = [await client.settled(job_id) for job_id in jobs]
    assert {job.state for job in settled} == {SUCCEEDED}
    # Each failed once, at the most, before the breaker opened; what came behind it lost no attempt.
    assert {job.attempts for job in settled} <= {1, 2}


async def test_bad_data_is_quarantined_at_once_and_says_nothing_about_the_dependency(
    client: Client, fleet: Fleet
) -> None:
    job_type = fleet.job_type("bad-data")
    bad = await client.submit_many(job_type, 12, simulate(failWith="VALIDATION_ERROR"))

    settled = [await client.settled(job_id) for job_id in bad]

    for job in settled:
        assert job.state == QUARANTINED
        assert job.quarantine.reason == job_pb2.QUARANTINE_REASON_NON_RETRYABLE
        assert (job.attempts, job.last_error.code, job.last_error.retryable) == (1, "VALIDATION_ERROR", False)
    assert (await client.shown_breaker(job_type))["state"] == "CLOSED"
    await client.result(await client.submit(job_type))
    failed = await client.get(f"controlplane/queues/{job_type}/failed")
    assert failed["count"] == 12
    assert failed["jobs"][0]["payload"] == simulate(failWith="VALIDATION_ERROR")
    assert failed["jobs"][0]["error"]["code"] == "VALIDATION_ERROR"


async def test_a_transient_error_is_retried_and_the_job_succeeds(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("flaky")
    job_id = await client.submit(job_type, simulate(failWith="NETWORK_ERROR", failAttempts=1))

    job = await client.settled(job_id)

    assert (job.state, job.attempts, job.deliveries, job.holds) == (SUCCEEDED, 2, 2, 0)
    assert [run.error.code for run in job.attempt_history] == ["NETWORK_ERROR", ""]
    assert (await client.shown_breaker(job_type))["state"] == "CLOSED"


async def test_a_job_that_always_fails_uses_up_its_attempts_and_waits_for_a_person(
    client: Client, fleet: Fleet
) -> None:
    job_type = fleet.job_type("hopeless")
    job_id = await client.submit(job_type, simulate(failWith="NETWORK_ERROR"), max_attempts=3)

    job = await client.settled(job_id)

    assert job.quarantine.reason == job_pb2.QUARANTINE_REASON_RETRIES_EXHAUSTED
    assert (job.attempts, len(job.attempt_history)) == (3, 3)
    # A person's retry by the queue route grants three more.
    answer = await client.http("POST", f"controlplane/queues/{job_type}/retry/{job_id}")
    assert (answer.status, answer.json) == (202, {"jobId": job_id})
    again = await eventually(lambda: client.job(job_id), lambda found: found.attempts == 6)
    assert again.job_id == job_id


async def test_random_errors_of_a_fifth_open_nothing(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("noisy")
    jobs = await client.submit_many(job_type, 60, simulate(failWith="NETWORK_ERROR", failureRate=0.2, seed=7))

    settled = await asyncio.gather(*(client.settled(job_id) for job_id in jobs))

    assert sum(job.state == SUCCEEDED for job in settled) >= 58
    assert not (await client.breaker(job_type)).transitions


async def test_a_handler_that_is_told_to_come_back_later_costs_no_attempt(
    client: Client, fleet: Fleet
) -> None:
    job_id = await client.submit(fleet.handled("echo"), {"later": 1})

    told = await client.result(job_id)

    assert (told["attempt"], told["delivery"]) == (1, 2)
    assert (await client.job(job_id)).attempts == 1
