"""The `/queues/…` routes, which the control plane and the workers answer alike; and undecodable messages."""

from __future__ import annotations

from typing import Any

import aio_pika
import pytest
import sqlalchemy as sa

from jobkit import Permanent
from jobkit.adapters.sql.tables import undecodable
from jobkit.domain.job import JobState
from tests.integration.stage import Place, Stage, Trade, eventually, succeed


@pytest.mark.parametrize("component", ["controlplane", "worker"])
async def test_failed_jobs_are_listed_and_retried(embedded: Place, component: str) -> None:
    email = Trade("email")
    email.fail(lambda: Permanent("VALIDATION_ERROR", "no such address"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        worker = await stage.worker(email)
        app: Any = plane if component == "controlplane" else worker
        ids = [await stage.submit("email", {"n": n}) for n in range(5)]
        await stage.all_reach(ids, JobState.QUARANTINED)

        assert await stage.get(app, "/queues/email/stats") == (
            200,
            {
                "name": "email",
                "waiting": 0,
                "running": 0,
                "held": 0,
                "retrying": 0,
                "quarantined": 5,
                "oldestSeconds": 0,
                "paused": False,
            },
        )
        _, page = await stage.get(app, "/queues/jobs.main.email/failed?limit=2")
        assert [job["payload"]["n"] for job in page["jobs"]] == [4, 3]
        assert page["jobs"][0]["error"] == {"code": "VALIDATION_ERROR", "message": "no such address"}
        _, rest = await stage.get(app, f"/queues/jobs.quarantine/failed?pageToken={page['nextPageToken']}")
        assert ([job["payload"]["n"] for job in rest["jobs"]], "nextPageToken" in rest) == ([2, 1, 0], False)

        email.act = succeed
        assert await stage.post(app, f"/queues/email/retry/{ids[0]}") == (202, {"jobId": str(ids[0])})
        await stage.reaches(ids[0], JobState.SUCCEEDED)
        status, body = await stage.post(app, f"/queues/email/retry/{ids[0]}")
        assert (status, body["error"]) == (409, "Conflict")
        assert await stage.post(app, "/queues/jobs.main/retry-failed") == (202, {"retried": 4})
        await stage.all_reach(ids, JobState.SUCCEEDED)
        assert await stage.post(app, "/queues/email/retry-failed") == (202, {"retried": 0})


async def test_more_than_a_page_is_retried(embedded: Place) -> None:
    email = Trade("email", max_attempts=1)
    email.fail(lambda: Permanent("VALIDATION_ERROR"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.worker(email)
        ids = await stage.submit_many("email", 130)
        await stage.all_reach(ids, JobState.QUARANTINED)
        email.act = succeed
        assert await stage.post(plane, "/queues/email/retry-failed") == (202, {"retried": 130})
        await stage.all_reach(ids, JobState.SUCCEEDED)


async def test_stats_tell_held_and_waiting_apart(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        await stage.submit("email")
        await stage.submit("sms")
        async with stage.http.post(
            f"{plane.front.http.url}/v1/breakers/sms:open", json={"reason": "a test", "actor": "ops"}
        ) as response:
            assert response.status == 200
        _, all_of_it = await stage.get(plane, "/queues/jobs.main/stats")
        assert (all_of_it["waiting"], all_of_it["held"]) == (1, 1)
        _, email = await stage.get(plane, "/queues/email/stats")
        assert (email["waiting"], email["held"]) == (1, 0)
        assert 0 <= email["oldestSeconds"] < 10


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/queues/x/stats", 404, "queue 'x' not found"),
        ("GET", "/queues/x/failed", 404, "queue 'x' not found"),
        ("POST", "/queues/x/retry-failed", 404, "queue 'x' not found"),
        ("POST", "/queues/email/retry/nonsense", 404, "Job 'nonsense' not found"),
        ("POST", "/queues/email/retry/01900000-0000-7000-8000-000000000000", 404, None),
        ("GET", "/queues/email/failed?limit=0", 400, ["limit must be a whole number from 1 to 1000"]),
        ("GET", "/queues/email/failed?limit=x", 400, ["limit must be a whole number from 1 to 1000"]),
        ("GET", "/queues/email/failed?pageToken=x", 400, ["pageToken is not one that this service gave out"]),
    ],
)
async def test_bad_requests(embedded: Place, method: str, path: str, status: int, message: object) -> None:
    async with Stage(embedded) as stage:
        plane = await stage.controlplane()
        await stage.world.types.ensure(["email"], 10)
        found, body = await (stage.get if method == "GET" else stage.post)(plane, path)
    assert found == status
    assert body["statusCode"] == status
    assert message in (None, body["message"])


async def test_a_job_of_another_queue_is_not_retried_through_this_one(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        await stage.jobapi()
        plane = await stage.controlplane()
        job_id = await stage.submit("email")
        await stage.submit("sms")
        status, _ = await stage.post(plane, f"/queues/sms/retry/{job_id}")
        assert status == 404


async def test_what_does_not_decode_is_filed_and_blocks_nobody(real: Place) -> None:
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        await stage.worker(email)
        await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)
        connection = await aio_pika.connect(real.environ["RABBITMQ_URL"])
        async with connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange("jobs")
            message = aio_pika.Message(b"\xff not a token", headers={"x-job-id": "?"})
            await exchange.publish(message, email.job_type)
        await stage.reaches(await stage.submit(email.job_type), JobState.SUCCEEDED)
        await stage.controlplane()

        async def filed() -> list[bytes]:
            async def work(connection):  # type: ignore[no-untyped-def]
                return list((await connection.execute(sa.select(undecodable.c.body))).scalars())

            return await stage.world.database.read(work)

        assert await eventually(filed, bool) == [b"\xff not a token"]
