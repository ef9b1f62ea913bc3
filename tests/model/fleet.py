"""A whole fleet on one event loop: the real submitter, workers and reconcilers, over the real SQL store and the
embedded queues, in processes that may die at every await. Modelled are the clients and whatever restarts what died.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from controlplane.reconcilers.overdue import Overdue
from jobapi.submit import Submitter
from jobkit import JobContext, Permanent, TransientError
from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.adapters.embedded.dispatcher import EmbeddedDispatcher
from jobkit.adapters.embedded.limits import MemoryLimitStore
from jobkit.adapters.sql.tables import jobs
from jobkit.domain.errors import Precondition, Unavailable
from jobkit.domain.job import NewJob
from jobkit.handling import Handler
from jobkit.ports import TypeInfo
from jobkit.runtime.finished import finished
from jobkit.runtime.lifecycle import Loops
from jobkit.runtime.messaging import MessagingMetrics
from jobkit.runtime.publisher import Publisher
from jobkit.runtime.settings import load
from jobkit.runtime.tracing import Tracing
from tests.contract.store_contract import Store
from tests.model.processes import CURRENT, Outside, OutsideDispatcher, Process, factory
from tests.model.timeless import Ids, TimelessClock, TimelessDatabase, TimelessLoop
from worker.organs import Organs
from worker.registry import Registry
from worker.settings import WorkerSettings
from worker.sight import Sight

TYPES = ("email", "sms")
WORKERS = ("worker 1", "worker 2")
LEASE = 8.0
LOST_AFTER = 12.0
RESTART_SECONDS = 0.5
ENVIRON = {"JOB_LEASE": f"{LEASE:g}", "RETRY_DELAY_MS": "250", "FAILURE_THRESHOLD": "1000"}
FINAL = ("SUCCEEDED", "QUARANTINED", "CANCELLED")
# How often what costs statements is done: seldom enough to simulate many minutes.
BEAT, RENEW, LOOK = 2.0, LEASE / 4, 2.0
AUDIT = """
CREATE TABLE audit (job_id, was, now, delivery_was, delivery_now, settled);
CREATE TRIGGER audited AFTER UPDATE ON jobs BEGIN
INSERT INTO audit VALUES
(OLD.job_id, OLD.state, NEW.state, OLD.deliveries, NEW.deliveries, NEW.settled_delivery); END"""


@dataclass(frozen=True)
class Change:
    """One write to a job's row."""

    job_id: UUID
    was: str
    now: str
    delivery_was: int
    delivery_now: int
    settled: int | None


class Catalog:
    """The types, which are not what is modelled here."""

    async def all(self) -> dict[str, TypeInfo]:
        return {name: TypeInfo(name) for name in TYPES}

    async def ensure(self, names: Sequence[str], limit: int) -> list[str]:
        return []

    async def need(self, needs: object) -> None:
        """Nothing depends on anything."""


class Doorman:
    """Lets everybody in, as `Admission` where nothing is bounded or held."""

    types = SimpleNamespace(mark=lambda name: 0)
    backlog = SimpleNamespace(came=lambda name, ended, accepted: None)

    async def prepare(self, names: Collection[str]) -> dict[str, int]:
        return {}

    def check(self, job: NewJob, unfit: dict[str, int]) -> None:
        """It may come in."""


class Fleet:
    """`accepted` holds what clients were told, by job: the kind of each. `problems` must stay empty."""

    def __init__(self, loop: TimelessLoop, folder: Path) -> None:
        self.loop = loop
        self.store = Store(TimelessDatabase(folder / "jobs.db", loop))
        self.broker = EmbeddedDispatcher()
        self.accepted: dict[UUID, str] = {}
        self.problems: list[str] = []
        self.processes: dict[str, Process] = {}
        self.starts: list[tuple[UUID, Process]] = []
        self._new_id = Ids(loop)
        self._clock = TimelessClock(loop)
        self._breakers = MemoryBreakerStore(lambda: loop.millis)
        self._limits = MemoryLimitStore(lambda: loop.millis)
        self._clients: set[asyncio.Task[None]] = set()
        self._running: dict[str, Process] = {}
        self._organs: dict[Process, Organs] = {}
        self._submitter: Submitter

    async def open(self) -> None:
        self.loop.set_task_factory(factory)  # type: ignore[arg-type]
        self._outside = contextvars.copy_context()
        await self.store.types.ensure(TYPES, len(TYPES))
        table, trigger = AUDIT.split(";", 1)
        await self.store.execute(sa.text(table))
        await self.store.execute(sa.text(trigger))
        await self.broker.start()
        for name in ("jobapi", "controlplane", *WORKERS):
            self._start(name)

    async def close(self) -> None:
        self.processes, running = {}, self.processes
        for process in running.values():
            process.crash()
        for client in self._clients:
            client.cancel()
        await asyncio.sleep(1)
        await self.broker.close()
        await self.store.database.close()

    # -- processes

    def _start(self, name: str) -> None:
        process = self.processes[name] = Process(name)
        process.died = lambda: self._restart_soon(name)
        build = {"jobapi": self._jobapi, "controlplane": self._controlplane}.get(name, self._worker)
        process.within(build, process)

    def _restart_soon(self, name: str) -> None:
        self.loop.call_later(RESTART_SECONDS, self._restart, name, context=self._outside)

    def _restart(self, name: str) -> None:
        if name in self.processes:
            self._start(name)

    def _publisher(self, process: Process) -> Publisher:
        dispatcher: Any = OutsideDispatcher(process, self.broker)
        sessions: Any = Outside(process, self.store.sessions)
        return Publisher(process.name, dispatcher, sessions, self._clock, self._new_id)

    def _jobapi(self, process: Process) -> None:
        publisher = self._publisher(process)
        Loops().every(BEAT, "beat", publisher.beat, max_backoff=BEAT)
        intake: Any = Outside(process, self.store.intake)
        doorman: Any = Doorman()
        self._submitter = Submitter(
            intake, doorman, publisher, self._clock, Tracing(None), CollectorRegistry()
        )

    def _controlplane(self, process: Process) -> None:
        publisher, loops = self._publisher(process), Loops()
        loops.every(BEAT, "beat", publisher.beat, max_backoff=BEAT)
        world: Any = SimpleNamespace(
            recovery=Outside(process, self.store.recovery),
            database=Outside(process, self.store.database),
            types=Catalog(),
            dispatcher=OutsideDispatcher(process, self.broker),
        )
        overdue = Overdue(world, publisher, finished(CollectorRegistry()), LOST_AFTER, LEASE)
        loops.every(LOOK, "overdue", overdue.publish_nobodys)
        loops.every(LOOK * 2, "orphaned", overdue.publish_orphaned)
        loops.every(LOOK * 2, "lost", overdue.publish_lost)
        loops.every(LEASE / 4, "rescue", overdue.rescue)

    def _worker(self, process: Process) -> None:
        ledger = SimpleNamespace(record=_nothing, heads=_nothing, latest=_nothing)
        dispatcher: Any = OutsideDispatcher(process, self.broker)
        sessions: Any = Outside(process, self.store.sessions)
        world: Any = SimpleNamespace(
            messaging=lambda registry: MessagingMetrics(registry, embedded=True),
            publisher=lambda name, clock, messaging: Publisher(
                name, dispatcher, sessions, clock, self._new_id, messaging
            ),
            work=Outside(process, self.store.work),
            sessions=sessions,
            presence=Outside(process, self.store.presence),
            dispatcher=dispatcher,
            types=Catalog(), breakers=self._breakers, limits=self._limits, ledger=ledger,
            policies=None, faults=None, signals=None, tracing=Tracing(None),
        )  # fmt: skip
        settings = load(WorkerSettings, {**ENVIRON, "WORKER_NAME": process.name}, embedded=True)
        handlers = Registry([Handler(name, self._handle) for name in TYPES])
        with patch("worker.organs.new_id", self._new_id):
            organs = Organs(settings, world, handlers, CollectorRegistry())
        organs.claimer.sight = Sight(timedelta(seconds=LEASE), self.loop.time)
        organs.loops.every(BEAT, "beat", organs.beat, max_backoff=BEAT)
        organs.loops.every(RENEW, "renew", organs.renew, max_backoff=RENEW)
        for organ in (organs.breakers, organs.budgets, organs.limits, organs.lanes):
            organ.start()
        self._organs[process] = organs

    # -- what jobs do

    async def _handle(self, job: JobContext) -> dict[str, int]:
        process = CURRENT.get()
        assert process is not None
        other = self._running.get(job.job_id)
        self.starts.append((UUID(job.job_id), process))
        if other is not None and other.unsound_since is None:
            self.problems.append(f"{job.job_id} runs in {process.name} and in {other.name} at once")
        self._running[job.job_id] = process
        try:
            await process.try_call("execute", _nothing, _nothing, _nothing)
            await self._perform(job, process)
        finally:
            if process.unsound_since is None:
                del self._running[job.job_id]
        return {"delivery": job.delivery}

    async def _perform(self, job: JobContext, process: Process) -> None:
        match job.payload["kind"]:
            case "long":
                await asyncio.sleep(LEASE * 3)
            case "flaky" if job.attempt == 1:
                raise TransientError("FLAKY")
            case "bad":
                raise Permanent("BAD")
            case "deadly":
                process.crash()
                await asyncio.sleep(0)

    # -- what happens to the fleet

    def submit(self, job_type: str, kind: str) -> None:
        """A client that repeats itself until it is told that its job is accepted."""
        client = self.loop.create_task(self._insist(job_type, kind))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _insist(self, job_type: str, kind: str) -> None:
        payload, request_id = json.dumps({"kind": kind}).encode(), self._new_id().hex
        while True:
            job = NewJob(self._new_id(), job_type, payload, request_id, content_hash=payload)
            call = self.processes["jobapi"].spawn(self._submitter.submit(job))
            await asyncio.wait([call])
            if not call.cancelled() and call.exception() is None:
                self.accepted[call.result().job_id] = kind
                return
            if not call.cancelled() and not isinstance(call.exception(), Unavailable):
                self.problems.append(f"a submit failed with {call.exception()!r}")
            await asyncio.sleep(RESTART_SECONDS)

    async def cancel(self, job_id: UUID) -> bool:
        """Ask for it; False when it had come to another end."""
        try:
            await self.store.steering.cancel(job_id)
        except Precondition:
            return False
        return True

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        self.processes[name].crash()

    async def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        self.processes[name].freeze(seconds)

    async def drain(self, name: str) -> None:
        """SIGTERM to a worker: what `worker.app` does when it is left."""
        process = self.processes[name]
        process.upset()
        organs = self._organs[process]

        async def leave() -> None:
            await organs.drain(3.0)
            await organs.loops.stop()
            await organs.leave()
            await organs.publisher.stop()

        process.spawn(leave()).add_done_callback(lambda _: process.crash())

    def purge(self) -> None:
        """Every token on a queue is gone; those in hand are not."""
        for line in self.broker._lines.values():
            line.ready.clear()
        self.broker._delayed.clear()

    async def until(self, holds: Callable[[], Any], seconds: float) -> bool:
        """Whether it does within so long."""
        end = self.loop.time() + seconds
        while not await holds():
            if self.loop.time() > end:
                return False
            await asyncio.sleep(2)
        return True

    async def at_rest(self) -> bool:
        """Whether every client has its answer and every job is at its end."""
        return not self._clients and all(row.state in FINAL for row in await self.rows())

    async def rows(self) -> Sequence[Any]:
        """All jobs."""

        async def work(connection: Any) -> Sequence[Any]:
            rows: Sequence[Any] = (await connection.execute(sa.select(jobs))).all()
            return rows

        return await self.store.database.read(work)

    async def changes(self) -> list[Change]:
        """All writes to rows of jobs, in order."""

        async def work(connection: Any) -> list[Change]:
            rows = await connection.execute(sa.text("SELECT * FROM audit ORDER BY rowid"))
            return [Change(UUID(str(row[0])), *row[1:]) for row in rows]

        return await self.store.database.read(work)


async def _nothing(*_: object) -> Any:
    return {}
