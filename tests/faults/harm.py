"""The faults of the soak: each strikes once and, where it took something away, gives it back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import asyncpg

from tests.faults.kit import Kept, Servers
from tests.servers import PrivateServer

AWAY_SECONDS = (1.0, 4.0)  # on both sides of leases and timeouts
CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()"""


@dataclass
class Harm:
    """Everything that can be harmed, and a seeded die. `struck` counts by name."""

    servers: Servers
    database_url: str
    vhost: str
    kept: Mapping[str, list[Kept]]
    dice: random.Random
    struck: dict[str, int] = field(default_factory=dict)

    async def strike(self, name: str) -> None:
        """One fault, until what it took away is back."""
        self.struck[name] = self.struck.get(name, 0) + 1
        await FAULTS[name](self)

    async def away(self) -> None:
        await asyncio.sleep(self.dice.uniform(*AWAY_SECONDS))

    def one(self, component: str) -> Kept:
        return self.dice.choice(self.kept[component])

    async def stopped(self, server: PrivateServer) -> None:
        await asyncio.to_thread(server.stop)
        await self.away()
        await asyncio.to_thread(server.start)

    async def killed(self, server: PrivateServer) -> None:
        await asyncio.to_thread(server.kill)
        await self.away()
        await asyncio.to_thread(server.start)

    async def frozen(self, server: PrivateServer) -> None:
        await asyncio.to_thread(server.pause)
        try:
            await self.away()
        finally:
            await asyncio.to_thread(server.resume)


Fault = Callable[[Harm], Awaitable[None]]


def _kill(component: str) -> Fault:
    async def fault(harm: Harm) -> None:
        harm.one(component).kill()

    return fault


def _drain(component: str) -> Fault:
    async def fault(harm: Harm) -> None:
        harm.one(component).terminate()

    return fault


async def _kill_everything(harm: Harm) -> None:
    for kept in (one for many in harm.kept.values() for one in many):
        kept.kill()


async def _freeze_worker(harm: Harm) -> None:
    victim = harm.one("worker")
    victim.freeze()
    try:
        await harm.away()
    finally:
        victim.thaw()


async def _cut_database(harm: Harm) -> None:
    connection = await asyncpg.connect(harm.database_url)
    try:
        await connection.execute(CUT)
    finally:
        await connection.close()


async def _cut_broker(harm: Harm) -> None:
    ctl = harm.servers.rabbit.ctl
    await asyncio.to_thread(ctl, "close_all_connections", "--vhost", harm.vhost, "a soak")


async def _flush_redis(harm: Harm) -> None:
    await asyncio.to_thread(harm.servers.empty_redis)


FAULTS: Mapping[str, Fault] = {
    "worker killed": _kill("worker"),
    "jobapi killed": _kill("jobapi"),
    "controlplane killed": _kill("controlplane"),
    "everything killed": _kill_everything,
    "worker drained": _drain("worker"),
    "jobapi drained": _drain("jobapi"),
    "controlplane drained": _drain("controlplane"),
    "worker frozen": _freeze_worker,
    "postgres connections cut": _cut_database,
    "postgres stopped": lambda harm: harm.stopped(harm.servers.postgres),
    "postgres killed": lambda harm: harm.killed(harm.servers.postgres),
    "postgres frozen": lambda harm: harm.frozen(harm.servers.postgres),
    "redis stopped": lambda harm: harm.stopped(harm.servers.redis),
    "redis killed": lambda harm: harm.killed(harm.servers.redis),
    "redis frozen": lambda harm: harm.frozen(harm.servers.redis),
    "redis flushed": _flush_redis,
    "rabbitmq connections cut": _cut_broker,
    "rabbitmq stopped": lambda harm: harm.stopped(harm.servers.rabbit),
    "rabbitmq killed": lambda harm: harm.killed(harm.servers.rabbit),
    "rabbitmq frozen": lambda harm: harm.frozen(harm.servers.rabbit),
}


def room_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """Where a fleet lives: its database's URL, its vhost."""
    return environ["DATABASE_URL"], urlsplit(environ["RABBITMQ_URL"]).path[1:]
