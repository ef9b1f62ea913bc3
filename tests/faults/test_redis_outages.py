"""Redis goes away under load: stopped, emptied, frozen, flushed. Jobs go on, each worker by its own breakers; what
was open stays open, and nothing flaps when Redis is back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from selfheal.jobs.v1 import job_pb2

from tests.conftest import _STARTING, _leave_out
from tests.faults.kit import Load, Servers, query, read_rows, until
from tests.faults.standing import Standing
from tests.servers import PrivateRedis
from tests.system.client import Client
from tests.system.fleet import COMPONENTS

MIX = {"good": 0.6, "flaky": 0.15, "held": 0.15, "plain": 0.1}


class OwnRedis(PrivateRedis):
    """What is done to it. `back` undoes it."""

    def stopped(self) -> None:
        self.stop()

    def emptied(self) -> None:
        self.kill()
        for file in self.directory.glob("appendonlydir/*"):
            file.unlink()

    def frozen(self) -> None:
        self.pause()

    def flushed(self) -> None:
        with closing(redis.Redis.from_url(self.url)) as client:
            client.flushall()

    def back(self) -> None:
        self.resume()
        self.start()

    def get(self, key: str) -> Any:
        with closing(redis.Redis.from_url(self.url)) as client:
            value = client.get(key)
        return json.loads(value) if value else {}


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest) -> Iterator[OwnRedis]:
    server = OwnRedis()
    try:
        server.start()
        yield server
    except _STARTING as error:
        _leave_out(request.config, "a Redis to be harmed", error)
    finally:
        server.remove()


@pytest.fixture(scope="module")
def fleet(
    fault_servers: Servers, own: OwnRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Standing]:
    room = fault_servers.room() | {"REDIS_URL": own.url}
    standing = Standing.start(tmp_path_factory.mktemp("redis"), room, workers=2)
    try:
        yield standing
    finally:
        standing.stop()


@pytest.fixture
async def standing(fleet: Standing, own: OwnRedis) -> AsyncIterator[Standing]:
    await fleet.all_say("redis", "up")
    await fleet.forget()
    yield fleet
    own.back()


async def moves(standing: Standing, name: str) -> list[str]:
    """What the ledger tells of a breaker, in order."""
    where = f"breaker = '{standing.fleet.handled(name)}'"
    statement = f"SELECT to_state FROM breaker_transitions WHERE {where} ORDER BY revision"
    return [state for (state,) in await query(standing.database_url, statement)]


def nothing_held_ran(standing: Standing, load: Load) -> None:
    held = {job.job_id for job in load.accepted.values() if job.name == "held"}
    assert held
    assert not [run for run in standing.tally().runs() if run.job_id in held]


@pytest.mark.parametrize(
    "how",
    [
        "stopped",
        "emptied",
        "frozen",
        pytest.param("flushed", marks=pytest.mark.short),
    ],
)
async def test_jobs_go_on(standing: Standing, own: OwnRedis, how: str) -> None:
    async with standing.load(mix=MIX) as load:
        await load.reach(200)
        before = await moves(standing, "held")
        await asyncio.to_thread(getattr(own, how))
        if how != "flushed":
            await standing.all_say("redis", "down")
            for component in COMPONENTS:
                assert (await standing.health(component))[0] == 200
        await load.reach(len(load.accepted) + 300)
        accepted = [job.job_id for job in load.accepted.values()]
        await until(lambda: good_ones_end(standing, accepted), 10, "they run without Redis")
        nothing_held_ran(standing, load)
        await asyncio.to_thread(own.back)
        await standing.all_say("redis", "up")
        key = f"breaker:{standing.fleet.handled('held')}"
        await until(lambda: own.get(key).get("state") == "OPEN", 5, "its breaker is told again")
        await load.reach(len(load.accepted) + 150)
        nothing_held_ran(standing, load)
        assert await moves(standing, "held") == before  # no flapping
        figures = await standing.verdict(load)
    print(f"{how}: {figures}")
    assert figures.refusals == {}
    assert figures.reruns == 0


async def good_ones_end(standing: Standing, ids: list[str]) -> bool:
    """Those jobs have succeeded, but for the held."""
    rows = await read_rows(standing.database_url, "job_type LIKE '%good' AND state <> 'SUCCEEDED'")
    return not {row.job_id for row in rows} & set(ids)


@pytest.mark.parametrize("how", ["emptied", "frozen"])
async def test_a_breaker_that_opened_without_redis_heals_with_it(
    standing: Standing, own: OwnRedis, how: str, tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    sick.touch()
    before = len(await moves(standing, "sick"))

    async def since() -> list[str]:
        return (await moves(standing, "sick"))[before:]

    await asyncio.to_thread(getattr(own, how))
    await standing.all_say("redis", "down")
    async with standing.load(mix={"sick": 0.5, "good": 0.5}, payloads={"sick": {"while": str(sick)}}) as load:
        await load.reach(120)
        await until(since, 10, "a worker's own breaker opens")
        await asyncio.to_thread(own.back)
        await standing.all_say("redis", "up")
        key = f"breaker:{standing.fleet.handled('sick')}"
        await until(lambda: own.get(key).get("state") in ("OPEN", "HALF_OPEN"), 5, "the fleet's is told")
        await load.reach(len(load.accepted) + 100)
        assert "CLOSED" not in await since()
        await until(lambda: reads_held(standing, "sick"), 10, "its jobs read as held")
        sick.unlink()
        figures = await standing.verdict(load, exact_attempts=False)
    told = await since()
    print(f"{how}: {told} {figures}")
    assert told.count("CLOSED") == 1
    assert told[-1] == "CLOSED"


async def reads_held(standing: Standing, name: str) -> bool:
    """Whether clients see that the jobs of the type wait for its breaker."""
    async with Client(standing.fleet) as client:
        wanted = f'state = QUARANTINED AND job_type = "{standing.fleet.handled(name)}"'
        held = await client.listed(wanted, page_size=1)
    return any(job.quarantine.reason == job_pb2.QUARANTINE_REASON_BREAKER_OPEN for job in held)


async def test_a_worker_that_starts_after_the_wipe_holds_what_is_held(
    standing: Standing, own: OwnRedis
) -> None:
    """Nobody is left who remembers but the ledger, and there is no control plane to rebuild from it."""
    fleet = standing.fleet
    async with standing.load(mix={"held": 0.7, "good": 0.3}) as load:
        await load.reach(100)
        for program in fleet.programs:
            if program.arguments[0] in ("worker", "controlplane") and program.running:
                program.kill()
        own.emptied()
        worker = fleet.spawn("worker").await_ready(f"{fleet.ports.http('worker')}/health/ready")
        await load.reach(len(load.accepted) + 200)
        ids = [job.job_id for job in load.accepted.values()]
        await until(lambda: good_ones_end(standing, ids), 10, "the others run, without Redis")
        nothing_held_ran(standing, load)
        worker.kill()
        own.back()
        worker = fleet.spawn("worker").await_ready(f"{fleet.ports.http('worker')}/health/ready")
        ids = [job.job_id for job in load.accepted.values()]
        await until(lambda: good_ones_end(standing, ids), 15, "the others run, with an empty Redis")
        nothing_held_ran(standing, load)
        fleet.spawn("controlplane").await_ready(f"{fleet.ports.http('controlplane')}/health/ready")
        async with Client(fleet) as client:
            assert (await client.shown_breaker(fleet.handled("held")))["state"] == "OPEN"
        await load.stop()
        await until(lambda: nothing_left(standing), 30, "all done")
        assert worker.running


async def nothing_left(standing: Standing) -> bool:
    return not await read_rows(standing.database_url, "state <> 'SUCCEEDED'")
