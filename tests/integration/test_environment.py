"""Settings that do what the documentation says of them: from the environment to what can be seen."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
import sqlalchemy as sa

from jobkit import JobContext, TransientError
from jobkit.adapters.sql.tables import jobs
from jobkit.domain.breaker import BreakerRecord, BreakerState
from jobkit.domain.errors import InvalidJob
from jobkit.domain.job import Job, JobState, QuarantineReason
from jobkit.domain.tripping import decide_evidence, decide_probe
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.servers import free_port
from tests.unit.breaker_kit import HALF_OPEN, NOW, window
from worker.handlers.simulator import draw

NOBODY = "127.0.0.1:1"


async def port(stage: Stage) -> None:
    number = free_port()
    environ = {
        **os.environ,
        **stage.place.environ,
        "RABBITMQ_URL": f"amqp://{NOBODY}",
        "REDIS_URL": f"redis://{NOBODY}",
        "JOBAPI_GRPC_PORT": "0",
        "PORT": str(number),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "jobapi", env=environ)

    async def alive() -> int:
        try:
            async with stage.http.get(f"http://127.0.0.1:{number}/health/live") as answer:
                return answer.status
        except aiohttp.ClientConnectionError:
            return 0

    try:
        await eventually(alive, lambda status: status == 200)
    finally:
        process.terminate()
        assert await process.wait() == 0


async def smtp_host(stage: Stage) -> None:
    without = await stage.worker()
    assert "email" not in without.organs.lanes.serves
    await stage.leave(without)
    await stage.worker(SMTP_HOST="127.0.0.1", SMTP_PORT="1", MAX_RETRIES="0")
    mail = {"to": "ada@example.com", "subject": "hi", "body": "hello"}
    job = await stage.reaches(await stage.submit("email", mail), JobState.QUARANTINED)
    assert code_of(job) == "NETWORK_ERROR"


async def webhook_allow(stage: Stage) -> None:
    for allowed, code in (("", "ADDRESS_REFUSED"), ("10.0.0.1,127.0.0.0/8", "NETWORK_ERROR")):
        worker = await stage.worker(WEBHOOK_ALLOW=allowed, MAX_RETRIES="0")
        job_id = await stage.submit("webhook", {"url": f"http://{NOBODY}/", "body": {}})
        assert code_of(await stage.reaches(job_id, JobState.QUARANTINED)) == code
        await stage.leave(worker)


async def max_losses(stage: Stage) -> None:
    email = Trade("email")
    for most, end in (("3", JobState.SUCCEEDED), ("2", JobState.QUARANTINED)):
        job_id = await stage.submit("email")
        lost = sa.update(jobs).where(jobs.c.job_id == job_id).values(losses=3, losses_alone=2)
        await stage.world.database.write(lambda connection, lost=lost: connection.execute(lost))
        worker = await stage.worker(email, MAX_LOSSES=most)
        job = await stage.reaches(job_id, JobState.SUCCEEDED, JobState.QUARANTINED)
        assert job.state is end
        await stage.leave(worker)
    assert job.quarantine is not None
    assert job.quarantine.reason is QuarantineReason.POISON


async def failure_sample(stage: Stage) -> None:
    seen = window("A" * 8 + "." * 42)
    for sample, opens in (("50", False), ("10", True)):
        worker = await stage.worker(Trade("email"), FAILURE_SAMPLE=sample)
        policy = worker.organs.breakers.of("email").policy
        assert isinstance(decide_evidence(policy, seen, 0.5), BreakerRecord) is opens
        await stage.leave(worker)


async def failure_window(stage: Stage) -> None:
    for seconds, end in (("0.5", BreakerState.CLOSED), ("60", BreakerState.OPEN)):
        email = Trade(f"email-{end.value}", max_attempts=1)
        email.fail(lambda: TransientError("API_TIMEOUT"))
        worker = await stage.worker(email, FAILURE_WINDOW=seconds, MAX_RETRIES="0")
        for _ in range(2):
            await stage.all_reach(await stage.submit_many(email.job_type, 3), JobState.QUARANTINED)
            await asyncio.sleep(0.6)  # longer than the shorter window
        records = await stage.world.breakers.read([email.job_type])
        assert records.get(email.job_type, BreakerRecord(email.job_type)).state is end
        await stage.leave(worker)


async def success_threshold(stage: Stage) -> None:
    for threshold, state in (("1", BreakerState.CLOSED), ("2", BreakerState.HALF_OPEN)):
        worker = await stage.worker(Trade("email"), SUCCESS_THRESHOLD=threshold)
        policy = worker.organs.breakers.of("email").policy
        decided = decide_probe(replace(HALF_OPEN), policy, HALF_OPEN.generation, True, "", NOW, 0.5)
        assert decided is not None
        assert decided.state is state
        await stage.leave(worker)


async def simulated_seed(stage: Stage) -> None:
    await stage.worker(
        SIMULATE="1",
        SIMULATED_FAILURE_RATE="0.5",
        SIMULATED_SEED="7",
        MAX_RETRIES="0",
        FAILURE_THRESHOLD="1000",
    )
    ended = (JobState.SUCCEEDED, JobState.QUARANTINED)
    for job_id in await stage.submit_many("anything", 20):
        drawn = draw(7, cast("JobContext", SimpleNamespace(job_id=str(job_id), delivery=1)))
        job = await stage.reaches(job_id, *ended)
        assert (job.state is JobState.QUARANTINED) is (drawn < 0.5)


async def max_payload_bytes(stage: Stage) -> None:
    await stage.jobapi(MAX_PAYLOAD_BYTES="1024")
    text = "x" * (1024 - len('{"a":""}'))
    await stage.submit("email", {"a": text})
    with pytest.raises(InvalidJob) as refused:
        await stage.submit("email", {"a": text + "x"})
    assert refused.value.reason == "PAYLOAD_TOO_LARGE"


def code_of(job: Job) -> str:
    assert job.last_error is not None
    return job.last_error.code


SETTINGS: list[Callable[[Stage], Awaitable[Any]]] = [
    port,
    smtp_host,
    webhook_allow,
    max_losses,
    failure_sample,
    failure_window,
    success_threshold,
    simulated_seed,
    max_payload_bytes,
]


@pytest.mark.parametrize("does_what_it_says", SETTINGS, ids=lambda setting: setting.__name__.upper())
async def test_a_setting_does_what_it_says(
    embedded: Place, does_what_it_says: Callable[[Stage], Awaitable[Any]]
) -> None:
    async with Stage(embedded) as stage:
        await stage.jobapi()
        await does_what_it_says(stage)
