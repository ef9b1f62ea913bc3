"""A fleet that stands through a whole module while the stores under it are harmed. No component may end: each has to
live through the fault, so that nobody restarts them here."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.faults.kit import Figures, Load, Tally, everything_done, make_fleet, tally_of, until
from tests.system.fleet import COMPONENTS, Fleet, Ports, Program

RATE = 200.0
# Timeouts shorter than the tests' freezes, and a lease shorter than both.
IMPATIENT = {"DATABASE_TIMEOUT": "1.5", "JOB_LEASE": "2", "LOST_AFTER": "5"}


@dataclass
class Standing:
    """`workers` run beside the fleet's own one, on ports of their own."""

    fleet: Fleet
    extra: list[tuple[Program, Ports]] = field(default_factory=list)

    @classmethod
    def start(cls, directory: Path, room: Mapping[str, str], *, workers: int = 1, **environ: str) -> Standing:
        """All components, ready."""
        fleet = make_fleet(directory, dict(room), **{**IMPATIENT, **environ})
        return cls(fleet.start(), [fleet.worker() for _ in range(workers - 1)])

    def stop(self) -> None:
        self.fleet.stop()

    @property
    def database_url(self) -> str:
        return self.fleet.environ["DATABASE_URL"]

    async def forget(self) -> None:
        """What earlier tests left: their jobs, and what their handlers wrote down."""
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute("TRUNCATE jobs, job_labels, request_keys")
        finally:
            await connection.close()
        self.tally().path.unlink(missing_ok=True)

    def tally(self) -> Tally:
        """What the handlers wrote down since `forget`."""
        return tally_of(Load(self.fleet))

    def load(self, **how: Any) -> Load:
        return Load(self.fleet, **{"rate": RATE, **how})

    async def verdict(self, load: Load, **how: Any) -> Figures:
        """`everything_done`, and no component ended meanwhile."""
        figures = await everything_done(load, **how)
        ended = [
            p.arguments[0] for p in self.fleet.programs if p.arguments[0] in COMPONENTS and not p.running
        ]
        assert not ended, [p.log[-3000:] for p in self.fleet.programs if not p.running]
        return figures

    async def health(self, component: str) -> tuple[int, dict[str, Any]]:
        """What its /health says: the HTTP status and `info`."""
        url = f"{self.fleet.ports.http(component)}/health"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, (await answer.json())["info"]

    async def says(self, component: str, dependency: str, status: str, within: float = 15.0) -> None:
        """Until the component's health says so of the dependency."""

        async def told() -> bool:
            info = (await self.health(component))[1]
            return bool(info[dependency]["status"] == status)

        await until(told, within, f"{component} says that {dependency} is {status}")

    async def all_say(self, dependency: str, status: str, within: float = 15.0) -> None:
        await asyncio.gather(*(self.says(component, dependency, status, within) for component in COMPONENTS))


def run_alone(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end from a plain fixture: its thread may have a loop of pytest's."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def keep_logs(standing: Standing, at: Path) -> None:
    """For a person who wants to know what happened."""
    at.mkdir(parents=True, exist_ok=True)
    for log in standing.fleet.directory.glob("*.log"):
        shutil.copy(log, at)
