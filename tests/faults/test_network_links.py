"""Links between the components and their servers that stall, lose one direction, reset and crawl, under load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults.broker import Vhost
from tests.faults.kit import Load, Servers, everything_done, make_fleet
from tests.faults.proxy import Proxy
from tests.system.fleet import Fleet

RATE = 120.0
MIX = {"good": 0.7, "flaky": 0.15, "held": 0.05, "slow": 0.05, "plain": 0.05}
SERVERS = ("rabbitmq", "postgres", "redis")
# Patience of seconds instead of half a minute.
IMPATIENT = {"DATABASE_TIMEOUT": "1.5"}
HEARTBEAT = "?heartbeat=1"


@dataclass(frozen=True)
class Network:
    """A fleet that reaches each server by a proxy."""

    fleet: Fleet
    links: dict[str, Proxy]


@pytest.fixture(scope="module")
def network(
    fault_servers: Servers, battered_vhost: Vhost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Network]:
    room = {**fault_servers.room(), "RABBITMQ_URL": battered_vhost.url + HEARTBEAT}
    urls = {"rabbitmq": "RABBITMQ_URL", "postgres": "DATABASE_URL", "redis": "REDIS_URL"}
    with contextlib.ExitStack() as stack:
        links = {name: stack.enter_context(Proxy(room[key])) for name, key in urls.items()}
        through = {key: links[name].url for name, key in urls.items()}
        fleet = make_fleet(tmp_path_factory.mktemp("network"), {**room, **through}, **IMPATIENT)
        stack.callback(fleet.stop)
        yield Network(fleet.start(), links)
        assert all(program.running for program in fleet.programs)


@pytest.mark.parametrize(
    ("name", "shut", "seconds"),
    [
        ("rabbitmq", "both", 9.0),  # more than heartbeats allow
        pytest.param(
            "rabbitmq", "down", 9.0, marks=pytest.mark.short
        ),  # confirmations and deliveries are lost
        ("postgres", "both", 5.0),
        pytest.param("postgres", "down", 5.0, marks=pytest.mark.short),  # replies are lost after their commit
        ("redis", "both", 4.0),
    ],
)
async def test_a_link_that_neither_answers_nor_closes(
    network: Network, name: str, shut: str, seconds: float
) -> None:
    link = network.links[name]
    async with Load(network.fleet, rate=RATE, mix=MIX) as load:
        await load.reach(100)
        link.stall() if shut == "both" else link.half_open(shut)
        before = len(load.accepted)
        await asyncio.sleep(seconds)
        during = len(load.accepted) - before
        link.heal()
        figures = await everything_done(load)
    print(f"{name} stalled {shut}: {during} accepted meanwhile: {figures}")
    assert set(figures.refusals) <= ({"UNAVAILABLE", "DEADLINE_EXCEEDED"} if name == "postgres" else set())
    assert (during > RATE * seconds / 4) == (name != "postgres")
    assert figures.reruns == 0


@pytest.mark.short
async def test_connections_that_are_reset_again_and_again(network: Network) -> None:
    async with Load(network.fleet, rate=RATE, mix=MIX) as load:
        await load.reach(100)
        for turn in range(9):
            network.links[SERVERS[turn % 3]].reset()
            await asyncio.sleep(0.4)
        figures = await everything_done(load)
    print(f"reset: {figures}")
    assert set(figures.refusals) <= {"UNAVAILABLE"}


@pytest.mark.short
async def test_links_that_crawl(network: Network) -> None:
    async with Load(network.fleet, rate=RATE, mix=MIX) as load:
        await load.reach(100)
        for link in network.links.values():
            link.slow(delay=0.05, rate=2_000_000)
        await asyncio.sleep(4)
        during = len(load.accepted)
        for link in network.links.values():
            link.heal()
        figures = await everything_done(load)
    print(f"slow: {during} accepted: {figures}")
    assert not figures.refusals
    assert figures.reruns == 0
