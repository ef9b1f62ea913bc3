"""PostgreSQL goes away under load: restarted, killed, its connections cut, frozen.

Submits are answered UNAVAILABLE, never a false "accepted"; outcomes wait for it with their token and their slot; and
nothing runs twice because of the wait alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conftest import _STARTING, _leave_out
from tests.faults.database import OwnPostgres
from tests.faults.kit import Servers, until
from tests.faults.standing import Standing, run_alone
from tests.servers import wait_for

# Slow ones run through the fault, and only so many that no backlog of them builds up.
FEW_SLOW = {"good": 0.8, "flaky": 0.1, "held": 0.08, "slow": 0.02}


@pytest.fixture(scope="module")
def postgres(request: pytest.FixtureRequest) -> Iterator[OwnPostgres]:
    """Ours to harm; each test leaves it running."""
    server = OwnPostgres()
    try:
        server.start()
        run_alone(server.make_role())
        yield server
    except _STARTING as error:
        _leave_out(request.config, "a PostgreSQL to be harmed", error)
    finally:
        server.remove()


@pytest.fixture(scope="module")
def fleet(
    fault_servers: Servers, postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Standing]:
    room = fault_servers.room() | {"DATABASE_URL": postgres.app_url}
    standing = Standing.start(tmp_path_factory.mktemp("postgres"), room, workers=2)
    try:
        yield standing
    finally:
        standing.stop()


@pytest.fixture
async def standing(fleet: Standing, postgres: OwnPostgres) -> AsyncIterator[Standing]:
    await fleet.all_say("database", "up")
    await fleet.forget()
    yield fleet
    postgres.resume()
    postgres.start()


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(OwnPostgres.stop, id="stopped"),
        pytest.param(OwnPostgres.kill, id="killed", marks=pytest.mark.short),
    ],
)
async def test_gone_and_back(standing: Standing, postgres: OwnPostgres, strike: object) -> None:
    async with standing.load() as load:
        await load.reach(200)
        await asyncio.to_thread(strike, postgres)  # type: ignore[arg-type]
        await standing.all_say("database", "down")
        for component in ("jobapi", "worker", "controlplane"):
            assert (await standing.health(component))[0] == 503
        before = len(load.accepted)
        await asyncio.sleep(3)  # longer than the lease
        assert len(load.accepted) <= before + 10
        await asyncio.to_thread(postgres.start)
        await load.reach(before + 300)
        figures = await standing.verdict(load)
    print(f"{figures}")
    assert figures.refusals.get("UNAVAILABLE", 0) > 0
    assert figures.reruns == 0


@pytest.mark.short
async def test_all_connections_are_cut_again_and_again(standing: Standing, postgres: OwnPostgres) -> None:
    async with standing.load() as load:
        for round_ in range(1, 6):
            await load.reach(150 * round_)
            await postgres.cut()
        figures = await standing.verdict(load)
    print(f"{figures}")
    assert figures.reruns == 0


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(1.2, id="for a moment"),
        pytest.param(6.0, id="for longer than all timeouts", marks=pytest.mark.short),
    ],
)
async def test_frozen(standing: Standing, postgres: OwnPostgres, seconds: float) -> None:
    """Afterwards every lease looks expired, although their workers live."""
    async with standing.load(mix=FEW_SLOW, payloads={"slow": {"seconds": 3.0}}) as load:
        await load.reach(300)
        postgres.pause()
        frozen_at = time.monotonic()
        if seconds > 3:
            await standing.all_say("database", "down")
        await asyncio.sleep(frozen_at + seconds - time.monotonic())
        postgres.resume()
        await load.reach(len(load.accepted) + 300)
        figures = await standing.verdict(load)
    print(f"{figures}")
    assert figures.reruns == 0


async def test_frozen_while_the_broker_delivers_again(
    standing: Standing, fault_servers: Servers, postgres: OwnPostgres
) -> None:
    """Tokens of running jobs come again, and meet leases that ran out while nobody could renew them."""
    async with standing.load(mix={"slow": 1.0}, payloads={"slow": {"seconds": 9.0}}, rate=30) as load:
        await load.reach(14)
        await load.stop()
        await until(lambda: len(standing.tally().runs()) == len(load.accepted), 5, "all run")
        postgres.pause()
        await asyncio.to_thread(redeliver, fault_servers, standing)
        await asyncio.sleep(2.5)  # leases end; the tokens' claims are under way
        postgres.resume()
        figures = await standing.verdict(load)
    print(f"{figures}")
    assert figures.reruns == 0


def redeliver(servers: Servers, standing: Standing) -> None:
    """Close the connections to the broker, and wait until the workers have the tokens again."""
    vhost = standing.fleet.environ["SELFHEAL_NAMESPACE"]
    servers.rabbit.ctl("close_all_connections", "--vhost", vhost, "a fault test")

    def in_hand() -> bool:
        told = servers.rabbit.ctl(
            "list_queues", "-p", vhost, "--formatter", "json", "messages_unacknowledged"
        )
        return any(queue["messages_unacknowledged"] for queue in json.loads(told))

    wait_for(in_hand, 15, "tokens are delivered again")


async def test_what_ran_when_it_went_is_recorded_when_it_is_back(
    standing: Standing, postgres: OwnPostgres
) -> None:
    async with standing.load(mix={"slow": 1.0}, payloads={"slow": {"seconds": 1.0}}, rate=30) as load:
        await load.reach(40)
        await asyncio.to_thread(postgres.kill)
        started = [run.job_id for run in standing.tally().runs() if not run.end]
        assert started
        await until(
            lambda: all(run.end for run in standing.tally().runs() if run.job_id in started), 10, "they ended"
        )
        await asyncio.sleep(2.5)  # their leases are over
        await asyncio.to_thread(postgres.start)
        figures = await standing.verdict(load)
        starts = standing.tally().by_job()
    assert all(len(starts[job_id]) == 1 for job_id in started)
    print(f"{figures}")
    assert figures.reruns == 0


# -- it answers, and refuses ---------------------------------------------------------------------------------------


async def test_transactions_that_cross_ours(standing: Standing, postgres: OwnPostgres) -> None:
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'app'"
    stop = asyncio.Event()
    async with standing.load() as load:
        others = [asyncio.create_task(postgres.cross(stop)) for _ in range(3)]
        before = await postgres.value(query)
        await load.reach(700)
        stop.set()
        await asyncio.gather(*others)
        figures = await standing.verdict(load)
    await until(lambda: deadlocks(postgres, query, before), 10, "there were deadlocks")
    print(f"{figures}")
    assert figures.reruns == 0


async def deadlocks(postgres: OwnPostgres, query: str, before: int) -> bool:
    return bool(await postgres.value(query) > before)


@pytest.mark.parametrize("what", ["one running row", "the whole table"])
async def test_locked_for_longer_than_all_timeouts(
    standing: Standing, postgres: OwnPostgres, what: str
) -> None:
    """An operator's forgotten transaction. Nobody can renew what is locked, and everybody else sees it."""
    async with standing.load(mix=FEW_SLOW, payloads={"slow": {"seconds": 3.0}}) as load:
        await load.reach(300)
        async with postgres.session() as other:
            if what == "one running row":
                query = "SELECT job_id FROM jobs WHERE state = 'RUNNING' AND job_type LIKE '%slow' LIMIT 1 FOR UPDATE"
                assert await other.fetchval(query)
            else:
                await other.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(5)
        await load.reach(len(load.accepted) + 200)
        figures = await standing.verdict(load)
    print(f"{what}: {figures}")
    assert figures.reruns == 0


@pytest.mark.parametrize(
    "how", ["read_only", "no_connections", pytest.param("full_disk", marks=pytest.mark.short)]
)
async def test_it_refuses(standing: Standing, postgres: OwnPostgres, how: str) -> None:
    async with standing.load(mix=FEW_SLOW, payloads={"slow": {"seconds": 2.0}}) as load:
        await load.reach(200)
        async with getattr(postgres, how)():
            refused = load.refusals.codes["UNAVAILABLE"]
            await until(lambda: load.refusals.codes["UNAVAILABLE"] > refused, 15, "submits are refused")
            await standing.says("jobapi", "database", "down")
            assert (await standing.health("jobapi"))[0] == 503
            await asyncio.sleep(2.5)  # longer than the lease
            assert load.refusals.codes["UNAVAILABLE"] > refused + 20
        await load.reach(len(load.accepted) + 200)
        figures = await standing.verdict(load)
    print(f"{how}: {figures}")
    assert figures.refusals.keys() == {"UNAVAILABLE"}
    assert figures.reruns == 0
