"""Celery as its documentation recommends it for work that must not be lost, in an environment and processes of its
own: it comes near no requirement of this project."""

from __future__ import annotations

import asyncio
import os
import subprocess
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers.environments import CELERY_PINS, python_environment

APP = Path(__file__).parent / "peer"
READY_SECONDS = 60.0


def environment() -> Path:
    """The folder with Celery's programs, made when it is first asked for. Raises NotInstalled."""
    return python_environment("celery", CELERY_PINS)


@dataclass(frozen=True, slots=True)
class Retries:
    """`most` retries of a job (None: as many as it takes), doubling delays of up to `longest` seconds, each drawn
    from zero to that."""

    most: int | None
    longest: int


class CeleryFleet:
    """Workers with a broker and the dependency's URL; `submit` gives them jobs."""

    def __init__(self, programs: Path, environ: Mapping[str, str]) -> None:
        self._programs = programs
        self._environ = {**os.environ, **environ}
        self._workers: list[Process] = []

    async def start(self, workers: int, slots: int) -> None:
        """Returns once all of them are ready."""
        for number in range(workers):
            name = ("-n", f"w{number}@%h", "--without-gossip", "--without-mingle", "--loglevel", "INFO")
            program = str(self._programs / "celery")
            # Greenlets acknowledge with the next message, or after two seconds (`synloop`): 40 calls a second in all.
            pool = ("-P", "threads", "-c", str(slots))
            self._workers.append(await self._run(program, "-A", "celery_app", "worker", *name, *pool))
        async with asyncio.timeout(READY_SECONDS):
            await asyncio.gather(*(_ready(worker) for worker in self._workers))

    async def submit(self, count: int, seconds: float) -> None:
        """`count` jobs, spread evenly over so many seconds."""
        program = str(self._programs / "python")
        client = await self._run(program, "celery_app.py", str(count), str(seconds))
        said, _ = await client.communicate()
        if client.returncode:
            raise RuntimeError(f"nothing was submitted: {said.decode()[-500:]}")

    async def stop(self) -> None:
        """At once: what is left of its jobs goes with the broker's vhost."""
        for worker in self._workers:
            if worker.returncode is None:
                worker.kill()
        await asyncio.gather(*(worker.wait() for worker in self._workers))

    async def _run(self, *command: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=APP,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


async def _ready(worker: Process) -> None:
    """Reads on afterwards: a full pipe would stop it."""
    assert worker.stdout is not None
    said = []
    while line := await worker.stdout.readline():
        said.append(line.decode())
        if " ready." in said[-1]:
            _DRAINS.add(task := asyncio.create_task(_discard(worker.stdout)))
            task.add_done_callback(_DRAINS.discard)
            return
    raise RuntimeError(f"a worker of Celery ended: {''.join(said)[-500:]}")


_DRAINS: set[asyncio.Task[None]] = set()


async def _discard(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


@asynccontextmanager
async def celery_fleet(broker: str, url: str, retries: Retries) -> AsyncIterator[CeleryFleet]:
    """A fleet without workers, that works for the dependency at `url` once it is started."""
    environ = {
        "DRILL_BROKER": broker,
        "DRILL_URL": url,
        "DRILL_RETRIES": "unbounded" if retries.most is None else str(retries.most),
        "DRILL_BACKOFF_MAX": str(retries.longest),
    }
    fleet = CeleryFleet(environment(), environ)
    try:
        yield fleet
    finally:
        await fleet.stop()
