"""`selfheal dev` is durable: a kill -9 under load loses nothing that was accepted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from selfheal.control.v1 import breaker_pb2
from selfheal.jobs.v1 import job_pb2

from tests.system.client import SUCCEEDED, Client, eventually, simulate
from tests.system.fleet import COMPONENTS, Fleet, Program

OPEN = breaker_pb2.BREAKER_STATE_OPEN
LOADED = {"JOB_STATE_QUEUED", "JOB_STATE_RUNNING", "JOB_STATE_RETRYING", "JOB_STATE_QUARANTINED"}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    slower = {
        "COOLDOWN_PERIOD": "6",
        "MAX_COOLDOWN": "6",
        "RETRY_DELAY_MS": "1000",
        "MAX_RETRY_DELAY_MS": "2000",
    }
    made = Fleet(tmp_path, {"SIMULATE": "1", **slower}, "k", dev=True)
    try:
        yield made
    finally:
        made.stop()


def start_timed(fleet: Fleet) -> tuple[Program, float]:
    """A `selfheal dev` on the fleet's folder, and the seconds until all three components were ready."""
    began = time.monotonic()
    program = fleet.spawn("dev", "--data", "data")
    program.await_ready(*(f"{fleet.ports.http(part)}/health/ready" for part in COMPONENTS))
    return program, time.monotonic() - began


async def load(client: Client) -> list[str]:
    """Three hundred jobs: some run, some wait, some are between two attempts, some are held."""
    jobs = await client.submit_many("broken", 14, simulate(failWith="API_TIMEOUT", failAttempts=1))
    await eventually(lambda: client.breaker("broken"), lambda breaker: breaker.state == OPEN)
    jobs += await client.submit_many("broken", 26)
    jobs += await client.submit_many("flaky", 4, simulate(failWith="NETWORK_ERROR", failAttempts=2))
    # The first are long: whoever sees one run has time to kill before it ends.
    jobs += await client.submit_many("steady", 8, simulate(durationMs=5000))
    jobs += await client.submit_many("steady", 248, simulate(durationMs=300))
    return jobs


async def states(client: Client) -> Counter[tuple[str, str]]:
    return Counter((job.job_type, job_pb2.JobState.Name(job.state)) for job in await client.listed(""))


def loaded(seen: Counter[tuple[str, str]]) -> bool:
    """Whether jobs are in every state, and one of those runs that a kill makes run again."""
    return {state for _, state in seen} >= LOADED and ("steady", "JOB_STATE_RUNNING") in seen


async def test_a_kill_under_load_loses_nothing(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    program, cold = start_timed(fleet)
    async with Client(fleet) as client:
        jobs = await load(client)
        before = await eventually(lambda: states(client), loaded)
        program.kill()
    assert before.total() == len(jobs) == 300

    _, warm = start_timed(fleet)
    with capsys.disabled():
        print(
            f"\nselfheal dev was ready after {cold:.2f} s, and after {warm:.2f} s with 300 jobs; killed at {before}"
        )
    assert max(cold, warm) < 20  # three seconds on an idle machine

    async with Client(fleet) as client:
        assert (await client.breaker("broken")).state != breaker_pb2.BREAKER_STATE_CLOSED
        settled = {job_id: await client.settled(job_id) for job_id in jobs}
        unsettled = [job for job in settled.values() if job.state != SUCCEEDED]
        assert not unsettled, f"{len(unsettled)} such as {unsettled[0]}"
        rerun = [job for job in settled.values() if job.job_type == "steady" and job.deliveries > 1]
        assert 1 <= len(rerun) <= 16  # what was running, and nothing else
        assert all(job.attempts == 1 for job in rerun)


async def test_a_second_dev_on_the_same_folder_is_refused_with_a_message(fleet: Fleet) -> None:
    first, _ = start_timed(fleet)

    second = fleet.spawn("dev", "--data", "data")

    assert second.await_end() == 1
    assert second.log.strip() == (
        "selfheal dev: another selfheal dev uses data: stop it, or give --data another folder"
    )
    assert first.running
