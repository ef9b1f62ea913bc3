"""SIGTERM drains: nothing is cut off that can finish, nothing is burned that cannot."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from selfheal.jobs.v1 import job_pb2

from tests.system.client import RUNNING, SUCCEEDED, Client, eventually
from tests.system.fleet import Fleet, Ports

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis]


def told_to_wait(folder: Path, name: str) -> dict[str, Any]:
    """A payload for the handler `patient` or `blocking`."""
    return {key: str(folder / f"{name}-{key}") for key in ("begun", "release", "told")}


async def ready_status(ports: Ports) -> int:
    """What the worker's readiness answers; 0 when nothing does."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{ports.http('worker')}/health/ready") as answer,
        ):
            return answer.status
    except aiohttp.ClientError:
        return 0


async def exists(path: str) -> bool:
    return await asyncio.to_thread(Path(path).exists)


async def test_a_draining_worker_finishes_what_runs_and_gives_back_the_rest(
    headless: Fleet, headless_client: Client, tmp_path: Path
) -> None:
    client, job_type = headless_client, headless.handled("patient")
    worker, ports = headless.worker(WORKER_CONCURRENCY="2", SHUTDOWN_GRACE="20")
    payloads = [told_to_wait(tmp_path, str(number)) for number in range(6)]
    for payload in payloads:
        await client.submit(job_type, payload)
    running = await eventually(
        lambda: client.listed(f'state = RUNNING AND job_type = "{job_type}"'), lambda found: len(found) == 2
    )

    worker.terminate()

    await eventually(lambda: ready_status(ports), lambda status: status == 503, timeout=5)
    assert worker.running
    waiting = await eventually(
        lambda: client.listed(f'state = QUEUED AND job_type = "{job_type}"'), lambda found: len(found) == 4
    )
    assert {(job.attempts, job.deliveries) for job in waiting} == {(0, 0)}
    for payload in payloads:
        Path(payload["release"]).touch()
    assert worker.await_end() == 0, worker.log
    for job in [await client.job(job.job_id) for job in running]:
        assert (job.state, job.attempts, job.deliveries) == (SUCCEEDED, 1, 1)

    second, _ = headless.worker()

    for job in [await client.settled(job.job_id) for job in waiting]:
        assert (job.state, job.attempts, job.deliveries) == (SUCCEEDED, 1, 1)
    second.stop()


async def test_a_run_that_outlasts_the_grace_goes_back_unburned(
    headless: Fleet, headless_client: Client, tmp_path: Path
) -> None:
    client = headless_client
    worker, _ = headless.worker(SHUTDOWN_GRACE="1")
    payload = told_to_wait(tmp_path, "long")
    job_id = await client.submit(headless.handled("patient"), payload)
    await eventually(
        lambda: client.job(job_id), lambda job: job.state == RUNNING and job.HasField("progress")
    )

    began = time.monotonic()
    worker.terminate()

    assert worker.await_end() == 0, worker.log
    assert time.monotonic() - began < 10
    assert await exists(payload["told"])  # the handler was cancelled, not cut off
    job = await client.job(job_id)
    assert (job.state, job.attempts, job.deliveries) == (job_pb2.JOB_STATE_QUEUED, 0, 1)
    Path(payload["release"]).touch()
    second, _ = headless.worker()
    job = await client.settled(job_id)
    assert (job.state, job.attempts, job.deliveries) == (SUCCEEDED, 1, 2)
    second.stop()


async def test_a_killed_workers_job_runs_elsewhere(
    headless: Fleet, headless_client: Client, tmp_path: Path
) -> None:
    client = headless_client
    first, _ = headless.worker()
    payload = told_to_wait(tmp_path, "killed")
    job_id = await client.submit(headless.handled("patient"), payload)
    await eventually(lambda: exists(payload["begun"]), bool)

    first.kill()
    Path(payload["release"]).touch()
    second, _ = headless.worker()

    job = await client.settled(job_id)
    assert (job.state, job.attempts, job.deliveries) == (SUCCEEDED, 1, 2)
    second.stop()


async def test_the_job_api_and_the_control_plane_end_cleanly(headless: Fleet) -> None:
    """Beside the shared ones: in production both have replicas."""
    ports = Ports()
    replicas = {component: headless.spawn(component, ports=ports) for component in ("jobapi", "controlplane")}
    for component, replica in replicas.items():
        replica.await_ready(f"{ports.http(component)}/health/ready")
        replica.terminate()
    for replica in replicas.values():
        assert replica.await_end() == 0, replica.log
        assert "Traceback" not in replica.log
