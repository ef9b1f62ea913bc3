"""The tour of the README, on the embedded default and on the servers: work flows, fails, is held, heals."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest
import redis
from selfheal.control.v1 import breaker_pb2
from selfheal.jobs.v1 import job_pb2

from tests.system.client import QUARANTINED, SUCCEEDED, Client, eventually, simulate
from tests.system.fleet import Fleet

HELD = job_pb2.QUARANTINE_REASON_BREAKER_OPEN
OUTAGE = simulate(failWith="API_TIMEOUT", failAttempts=1)


async def break_type(client: Client, job_type: str, jobs: int = 12) -> list[str]:
    """Jobs that each fail once, until the breaker of their type is open."""
    failing = await client.submit_many(job_type, jobs, OUTAGE)
    await eventually(
        lambda: client.breaker(job_type), lambda breaker: breaker.state == breaker_pb2.BREAKER_STATE_OPEN
    )
    return failing


async def heal(client: Client, job_type: str, job_ids: list[str]) -> list[job_pb2.Job]:
    """Until all have succeeded and the breaker is closed; touches nothing."""
    jobs = [await client.settled(job_id) for job_id in job_ids]
    assert {job.state for job in jobs} == {SUCCEEDED}, [job for job in jobs if job.state != SUCCEEDED][:2]
    await eventually(
        lambda: client.breaker(job_type), lambda breaker: breaker.state == breaker_pb2.BREAKER_STATE_CLOSED
    )
    return jobs


async def test_a_job_submitted_by_rest_succeeds_and_reads_so_through_every_door(
    client: Client, fleet: Fleet
) -> None:
    job_type = fleet.job_type("email")
    answer = await client.http("POST", "jobapi/jobs", json={"jobType": job_type, "payload": {"to": "a@b.c"}})

    job_id = answer.json["jobId"]
    assert answer.status == 202
    assert list(answer.json) == ["status", "message", "jobType", "jobId"]
    assert answer.json == {
        "status": "accepted",
        "message": "Job queued for processing",
        "jobType": job_type,
        "jobId": job_id,
    }
    assert answer.headers["Location"] == f"/jobs/{job_id}"
    job = await client.settled(job_id)
    assert (job.state, job.attempts, job.deliveries, job.holds) == (SUCCEEDED, 1, 1, 0)
    shown = await client.get(f"jobapi/jobs/{job_id}")
    assert shown | {"createdAt": "", "updatedAt": ""} == {
        "jobId": job_id,
        "jobType": job_type,
        "status": "succeeded",
        "attempts": 1,
        "deliveries": 1,
        "holds": 0,
        "progress": None,
        "result": {"simulated": True},
        "error": None,
        "createdAt": "",
        "updatedAt": "",
    }
    assert all(
        re.fullmatch(r"[-\d]{10}T[:\d]{8}\.\d{3}Z", shown[name]) for name in ("createdAt", "updatedAt")
    )
    canonical = (await client.get(f"jobapi/v1/jobs/{job_id}"))["job"]
    assert (canonical["jobId"], canonical["state"]) == (job_id, "JOB_STATE_SUCCEEDED")


async def test_a_job_submitted_by_grpc_reaches_its_handler_and_tells_its_result(
    client: Client, fleet: Fleet
) -> None:
    job_id = await client.submit(
        fleet.handled("echo"), {"n": 7, "deep": {"list": [1, None, "ä"]}}, labels={"k": "v"}
    )

    told = await client.result(job_id)

    assert told["payload"] == {"n": 7, "deep": {"list": [1, None, "ä"]}}
    assert isinstance(told["payload"]["n"], int)
    assert (told["attempt"], told["labels"]) == (1, {"k": "v"})


async def test_a_failing_type_is_held_while_others_flow_and_then_heals_by_itself(
    client: Client, fleet: Fleet
) -> None:
    job_type, other = fleet.job_type("sms"), fleet.job_type("healthy")
    failing = await break_type(client, job_type)
    held = await client.submit_many(job_type, 5)

    shown = await client.shown_breaker(job_type)
    assert (shown["state"], shown["cooldownElapsed"]) == ("OPEN", False)
    assert list(shown) == ["jobType", "state", "openedAt", "cooldownElapsed"]
    await _assert_held(client, job_type, held)
    await client.result(await client.submit(other))
    assert (await client.job(held[0])).attempts == 0

    jobs = await heal(client, job_type, failing + held)
    assert all(job.holds >= 1 and job.attempts == 1 for job in jobs[-5:])
    assert await client.shown_breaker(job_type) == {"jobType": job_type, "state": "CLOSED"}
    moves = [move.to_state for move in (await client.breaker(job_type)).transitions]
    assert moves[0] == breaker_pb2.BREAKER_STATE_OPEN
    assert moves[-2:] == [breaker_pb2.BREAKER_STATE_HALF_OPEN, breaker_pb2.BREAKER_STATE_CLOSED]


async def _assert_held(client: Client, job_type: str, held: list[str]) -> None:
    """They read as held through GET, ListJobs and the statistics alike."""

    async def counted() -> Any:
        return await client.get(f"controlplane/queues/{job_type}/stats")

    job = await eventually(lambda: client.job(held[0]), lambda job: job.state == QUARANTINED)
    assert (job.quarantine.reason, job.quarantine.breaker, job.attempts) == (HELD, job_type, 0)
    assert (await client.get(f"jobapi/jobs/{held[0]}"))["status"] == "quarantined"
    listed = await client.listed(f'state = QUARANTINED AND job_type = "{job_type}"')
    assert set(held) <= {found.job_id for found in listed}
    assert all(found.quarantine.reason == HELD for found in listed)
    assert not await client.listed(f'state = QUEUED AND job_type = "{job_type}"')
    stats = await counted()
    assert list(stats) == [
        "name",
        "waiting",
        "running",
        "held",
        "retrying",
        "quarantined",
        "oldestSeconds",
        "paused",
    ]
    assert (stats["held"] >= len(held), stats["waiting"]) == (True, 0)
    assert (await client.breaker(job_type)).held_jobs >= len(held)


async def test_an_operator_resets_a_breaker_by_rest(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("reset")
    failing = await break_type(client, job_type)

    answer = await client.http("POST", f"controlplane/breakers/{job_type}/reset")

    expected = f'{{"message":"Circuit breaker for \'{job_type}\' has been reset","jobType":"{job_type}"}}'
    assert (answer.status, answer.body.decode()) == (200, expected)
    assert (await client.shown_breaker(job_type))["state"] == "CLOSED"
    again = await client.http("POST", f"controlplane/breakers/{job_type}/reset")
    assert (again.status, again.body) == (200, answer.body)
    unknown = await client.http("POST", "controlplane/breakers/nobody/reset")
    assert unknown.status == 404
    assert unknown.body == (
        b'{"statusCode":404,"message":"Circuit breaker for jobType \'nobody\' not found","error":"Not Found"}'
    )
    await heal(client, job_type, failing)


async def test_metrics_are_json_for_people_and_text_for_prometheus(client: Client, fleet: Fleet) -> None:
    job_type = fleet.job_type("counted")
    failing = await break_type(client, job_type)

    metrics = await client.get("controlplane/metrics")

    breakers = metrics["circuitBreakers"]
    assert list(breakers) == ["total", "open", "closed"]
    assert breakers["open"] >= 1
    assert breakers["total"] == breakers["open"] + breakers["closed"]
    assert metrics["failures"]["byJobType"][job_type] >= 5
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        answer = await client.http("GET", "controlplane/metrics", headers={"Accept": accept})
        assert answer.headers["Content-Type"].startswith(accept.split(";", maxsplit=1)[0])
        assert b"selfheal_jobs_waiting" in answer.body
    await heal(client, job_type, failing)
    worker = (await client.http("GET", "worker/metrics")).body.decode()
    assert f'selfheal_jobs_finished_total{{job_type="{job_type}",outcome="succeeded"}} 12.0' in worker
    assert (
        f'selfheal_job_attempts_total{{error_code="API_TIMEOUT",job_type="{job_type}",outcome="failed"}}'
        in worker
    )
    api = (await client.http("GET", "jobapi/metrics")).body.decode()
    assert f'selfheal_jobs_submitted_total{{job_type="{job_type}"}} 12.0' in api


async def test_health_names_every_dependency(client: Client) -> None:
    names = {"jobapi": "api", "worker": "worker", "controlplane": "controlPlane"}
    for component, name in names.items():
        for path in ("health", "health/ready", "health/readiness", "readiness"):
            up = {"status": "up"}
            info = {name: up, "database": up, "rabbitmq": up, "redis": up}
            if component == "worker":
                info["controlPlane"] = up
            answer = await client.get(f"{component}/{path}")
            for _ in range(100):  # the worker's stream may be on its way
                if answer["info"] == info:
                    break
                await asyncio.sleep(0.1)
                answer = await client.get(f"{component}/{path}")
            assert answer == {"status": "ok", "info": info}
        assert (await client.get(f"{component}/health/live"))["status"] == "ok"


@pytest.mark.postgres
@pytest.mark.rabbitmq
@pytest.mark.redis
async def test_operators_read_the_outage_in_two_redis_keys(server_fleet: Fleet) -> None:
    job_type = server_fleet.job_type("keys")
    async with Client(server_fleet) as client:
        with redis.Redis.from_url(server_fleet.redis_url, decode_responses=True) as store:
            failing = await break_type(client, job_type)
            record = orjson.loads(store.get(f"breaker:{job_type}"))
            assert record["state"] == "OPEN"
            assert record["openedAt"] == (await client.shown_breaker(job_type))["openedAt"]
            assert abs(record["openedAt"] / 1000 - store.time()[0]) < 30
            counter = f"failure:{job_type}:API_TIMEOUT"
            assert int(store.get(counter)) >= 5
            assert 0 < store.ttl(counter) <= 62  # the window, and one of the slices that it is counted in

            await heal(client, job_type, failing)

            assert orjson.loads(store.get(f"breaker:{job_type}"))["state"] == "CLOSED"
            for _ in range(30):
                if not store.exists(counter):
                    break
                await asyncio.sleep(0.1)
            assert not store.exists(counter)
