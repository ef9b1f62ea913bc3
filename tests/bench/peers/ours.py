"""Our own system as a contender: its three components, and `selfheal dev`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import asyncpg
import orjson

from tests.bench.peers.client import Client
from tests.bench.peers.contender import APPS, ONE_BY_ONE, Contender, Place
from tests.bench.peers.notes import Note

SETTLED_WITHIN = 20.0  # seconds
# Nothing but our tasks: the simulator would work off whatever another measurement has left waiting.
WORKING = {"WORKER_HANDLERS": "selfheal_handlers", "SIMULATE": "0"}
DOORS = (*ONE_BY_ONE, ("own", 32), ("own", 256), ("rest", 32), ("many", 4))


def _our_client(place: Place) -> AbstractContextManager[Client]:
    ports = place.stand.ports
    told = {"BENCH_URL": ports.grpc("jobapi"), "BENCH_REST": ports.http("jobapi")}
    return place.client([sys.executable, str(APPS / "selfheal_client.py")], told)


OUTCOMES = """SELECT payload, started_at, finished_at FROM jobs
              WHERE job_type = $1 AND created_at >= $2 AND state = 'SUCCEEDED'"""
STATES = "SELECT state, count(*) FROM jobs WHERE job_type = $1 AND created_at >= $2 GROUP BY state"


async def _recorded(place: Place, notes: Sequence[Note]) -> list[Note]:
    """From the rows of the jobs that were sent with the first of `notes` or later: all of them, once all are done."""
    connection = await asyncpg.connect(place.urls["postgres"])
    first = int(min(note.sent for note in notes) * 1000)
    job_type, rows = f"{place.prefix}.noop.0", []
    try:
        async with asyncio.timeout(SETTLED_WITHIN):
            while len(rows := await connection.fetch(OUTCOMES, job_type, first)) < len(notes):
                await asyncio.sleep(0.2)
    except TimeoutError:
        states = await connection.fetch(STATES, job_type, first)
        raise AssertionError(f"{len(rows)} of {len(notes)} outcomes are recorded: {states}") from None
    finally:
        await connection.close()
    done = [Note(orjson.loads(row[0])["sent"], row[1] / 1000, row[2] / 1000) for row in rows]
    return sorted(done, key=lambda note: note.ended)


@dataclass(frozen=True, kw_only=True)
class Servers(Contender):
    """jobapi, control plane and worker as processes, on RabbitMQ, PostgreSQL and Redis."""

    workers: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def open(self, place: Place) -> Iterator[Client]:
        running = [place.stand.start(component) for component in ("controlplane", "jobapi")]
        try:
            with _our_client(place) as client:
                yield client
        finally:
            for program in reversed(running):
                place.stand.stop(program)

    @contextlib.contextmanager
    def working(self, place: Place, task: str) -> Iterator[None]:
        settings = {**WORKING, **self.settings, "WORKER_PROCESSES": str(self.workers)}
        worker = place.stand.start("worker", **place.environ, **settings)
        try:
            yield
        finally:
            place.stand.stop(worker)

    def recorded(self, place: Place, notes: Sequence[Note]) -> list[Note]:
        return asyncio.run(_recorded(place, notes))


@dataclass(frozen=True, kw_only=True)
class Embedded(Contender):
    """`selfheal dev` on its file. Without handlers it only takes jobs; it starts again to work them off."""

    settings: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def open(self, place: Place) -> Iterator[Client]:
        self._start(place, {"SIMULATE": "0"})
        try:
            with _our_client(place) as client:
                yield client
        finally:
            self._stop(place)

    @contextlib.contextmanager
    def working(self, place: Place, task: str) -> Iterator[None]:
        self._start(place, {**place.environ, **WORKING, **self.settings})
        yield
        self._start(place, {"SIMULATE": "0"})

    def _start(self, place: Place, environ: Mapping[str, str]) -> None:
        self._stop(place)
        place.dev = place.stand.start("dev", "--data", str(place.stand.directory / "data"), **environ)

    @staticmethod
    def _stop(place: Place) -> None:
        if place.dev is not None:
            place.stand.stop(place.dev)
            place.dev = None
