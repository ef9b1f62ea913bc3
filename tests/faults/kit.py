"""What every fault test uses: private servers, components that are restarted when they end, load, and the verdict.

async with Supervisor(fleet) as supervisor:
    keep_all(supervisor)
    await supervisor.ready()
    async with Load(fleet, rate=300) as load:
        await load.reach(500)
        ... do harm ...
        figures = await everything_done(load)
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import redis

from tests.faults.load import MIX, Accepted, Load
from tests.faults.supervisor import Kept, Supervisor, until
from tests.faults.verdict import Figures, Row, Run, Tally, everything_done, query, read_rows, tally_of
from tests.servers import PrivatePostgres, PrivateRabbit, PrivateRedis, PrivateServer
from tests.system.fleet import COMPONENTS, Fleet, Program

__all__ = [
    "MIX",
    "QUICK",
    "Accepted",
    "Figures",
    "Kept",
    "Load",
    "Row",
    "Run",
    "Servers",
    "Supervisor",
    "Tally",
    "everything_done",
    "keep_all",
    "make_fleet",
    "query",
    "read_rows",
    "tally_of",
    "until",
]

HANDLERS = Path(__file__).with_name("fault_handlers.py")
# Recovery in seconds instead of minutes.
QUICK = {
    "JOB_LEASE": "2",
    "LOST_AFTER": "3",
    "ATTEMPT_TIMEOUT": "10",
    "WORKER_HANDLERS": "fault_handlers",
    "LOG_LEVEL": "INFO",
}


class Servers:
    """A private RabbitMQ, Redis and PostgreSQL, started side by side; a fleet gets its own vhost, namespace and
    database on them."""

    def __init__(self) -> None:
        self.rabbit, self.redis, self.postgres = PrivateRabbit(), PrivateRedis(), PrivatePostgres()

    @property
    def all(self) -> tuple[PrivateServer, ...]:
        return (self.rabbit, self.redis, self.postgres)

    def start(self) -> None:
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(lambda server: server.start(), self.all))

    def remove(self) -> None:
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(lambda server: server.remove(), self.all))

    def room(self) -> dict[str, str]:
        """The environment of a fleet that meets no other on these servers: an empty vhost and database."""
        name = f"fault_{uuid.uuid4().hex[:10]}"
        self.rabbit.ctl("add_vhost", name)
        self.rabbit.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        with ThreadPoolExecutor(1) as pool:  # this thread may have a loop of pytest's
            pool.submit(asyncio.run, self._create_database(name)).result()
        return {
            "DATABASE_URL": urlsplit(self.postgres.url)._replace(path=f"/{name}").geturl(),
            "RABBITMQ_URL": urlsplit(self.rabbit.url)._replace(path=f"/{name}").geturl(),
            "REDIS_URL": self.redis.url,
            "SELFHEAL_NAMESPACE": name,
        }

    async def _create_database(self, name: str) -> None:
        connection = await asyncpg.connect(self.postgres.url)
        try:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        finally:
            await connection.close()

    def empty_redis(self) -> None:
        """FLUSHALL, as an operator's slip would."""
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushall()


@contextlib.contextmanager
def running_servers() -> Iterator[Servers]:
    """Private servers for as long as entered. Raises NotAvailable, OSError, TimeoutError."""
    servers = Servers()
    try:
        servers.start()
        yield servers
    finally:
        servers.remove()


def make_fleet(directory: Path, room: dict[str, str] | None = None, **environ: str) -> Fleet:
    """A fleet that runs `fault_handlers.py`, migrated and not yet started: the three components in a `room` of the
    servers, or `selfheal dev` without one."""
    shutil.copy(HANDLERS, directory)
    prefix = f"f{uuid.uuid4().hex[:6]}"
    values = {**QUICK, "FAULT_TALLY": str(directory / "tally"), **(room or {}), **environ}
    fleet = Fleet(directory, values, prefix, dev=room is None)
    if room is not None:
        migration = Program(["migrate"], fleet.environ, directory).start()
        assert migration.await_end() == 0, migration.log
    return fleet


def keep_all(
    supervisor: Supervisor, *, first: Mapping[str, Sequence[str]] | None = None, **environ: str
) -> dict[str, Kept]:
    """One of each component (or `selfheal dev`) on the fleet's ports, kept running. `first` names other commands for
    the first start of some."""
    commands = first or {}
    if supervisor.fleet.dev:
        data = str(supervisor.fleet.directory / "data")
        return {"dev": supervisor.keep("dev", "--data", data, first=commands.get("dev"), environ=environ)}
    return {
        component: supervisor.keep(component, first=commands.get(component), environ=environ)
        for component in COMPONENTS
    }
