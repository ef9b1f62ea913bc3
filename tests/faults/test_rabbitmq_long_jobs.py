"""Attempts that take longer than a token may stay unacknowledged: it is let go, and the claim guards the job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.broker import Vhost
from tests.faults.kit import Row, Servers, Tally, make_fleet, read_rows, until
from tests.system.client import SUCCEEDED, Client
from tests.system.fleet import Fleet, Program

LONG = {"seconds": 7}
SHORT = {"seconds": 0.1}
SLOTS = 4
TIGHT = {"ACK_AFTER": "1.5", "SHUTDOWN_GRACE": "1", "WORKER_CONCURRENCY": str(SLOTS), "ATTEMPT_TIMEOUT": "30"}


@pytest.fixture
def fleet(fault_servers: Servers, vhost: Vhost, tmp_path: Path) -> Iterator[Fleet]:
    """A job API and a control plane; tests start the workers."""
    room = {**fault_servers.room(), "RABBITMQ_URL": vhost.url}
    made = make_fleet(tmp_path, room, **TIGHT)
    try:
        for component in ("jobapi", "controlplane"):
            made.spawn(component).await_ready(f"{made.ports.http(component)}/health/ready")
        yield made
    finally:
        made.stop()


@pytest.fixture
def patient(vhost: Vhost) -> Iterator[Vhost]:
    """A broker that closes channels with tokens older than 4 s, looking every second."""
    for name, value in (("consumer_timeout", 4000), ("channel_tick_interval", 1000)):
        vhost.rabbit.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")
    yield vhost
    for name, value in (("consumer_timeout", 1_800_000), ("channel_tick_interval", 60_000)):
        vhost.rabbit.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")


def unacknowledged(vhost: Vhost, fleet: Fleet) -> int:
    queues = vhost.listed("list_queues", "name", "messages_unacknowledged")
    mine = f"jobs.main.{fleet.prefix}"
    return sum(queue["messages_unacknowledged"] for queue in queues if queue["name"].startswith(mine))


def worker(fleet: Fleet, **environ: str) -> Program:
    return fleet.worker(**environ)[0]


async def rows(fleet: Fleet) -> dict[str, Row]:
    return {row.job_id: row for row in await read_rows(fleet.environ["DATABASE_URL"])}


async def run_and_let_go(client: Client, fleet: Fleet, first: Program) -> list[str]:
    """Fill the worker with long jobs, and wait until their tokens are let go."""
    jobs = await client.submit_many(fleet.handled("slow"), SLOTS, LONG)
    await until(lambda: first.log.count("runs on without its token") == SLOTS, 15, "tokens are let go")
    return jobs


async def test_no_token_stays_unacknowledged_and_none_is_fetched_for_a_taken_slot(
    fleet: Fleet, vhost: Vhost
) -> None:
    first = worker(fleet)
    async with Client(fleet) as client:
        long = await run_and_let_go(client, fleet, first)
        waiting = await client.submit_many(fleet.handled("slow"), 3, SHORT)
        assert await vhost.depth(f"jobs.main.{fleet.handled('slow')}") == 3
        assert unacknowledged(vhost, fleet) == 0
        worker(fleet)
        for job in waiting:  # by the worker that has room, at once
            assert (await client.settled(job)).state == SUCCEEDED
        states = await rows(fleet)
        assert {states[job].state for job in long} == {"RUNNING"}
        for job in long:
            assert (await client.settled(job)).state == SUCCEEDED
    assert {row.deliveries for row in (await rows(fleet)).values()} == {1}


@pytest.mark.parametrize("end", ["terminate", "kill"])
async def test_a_job_whose_token_is_gone_survives_its_worker(fleet: Fleet, vhost: Vhost, end: str) -> None:
    first = worker(fleet)
    async with Client(fleet) as client:
        jobs = await run_and_let_go(client, fleet, first)
        getattr(first, end)()
        first.await_end()
        if end == "terminate":  # released at once, nobody's
            states = await rows(fleet)
            assert {states[job].state for job in jobs} <= {"QUEUED"}
        worker(fleet)
        for job in jobs:
            assert (await client.settled(job)).state == SUCCEEDED
    ended = await rows(fleet)
    assert {(ended[job].deliveries, ended[job].attempts) for job in jobs} == {(2, 1)}
    assert {ended[job].losses for job in jobs} == {0}
    runs = Tally(Path(fleet.environ["FAULT_TALLY"])).by_job()
    assert {len(runs[job]) for job in jobs} == {2}


@pytest.mark.parametrize(
    ("ack_after", "timed_out"), [pytest.param("1.5", False, marks=pytest.mark.short), ("600", True)]
)
async def test_consumer_timeout(fleet: Fleet, patient: Vhost, ack_after: str, timed_out: bool) -> None:
    """In time it never comes to it; and where it does, the job runs on, once, and the lane comes back."""
    first = worker(fleet, ACK_AFTER=ack_after)
    async with Client(fleet) as client:
        jobs = await client.submit_many(fleet.handled("slow"), SLOTS, LONG)
        for job in jobs:
            assert (await client.settled(job)).state == SUCCEEDED
        after = await client.submit(fleet.handled("slow"), SHORT)
        assert (await client.settled(after)).state == SUCCEEDED
    assert ("its channel was closed: PRECONDITION_FAILED" in first.log) == timed_out, first.log
    assert {row.deliveries for row in (await rows(fleet)).values()} == {1}
