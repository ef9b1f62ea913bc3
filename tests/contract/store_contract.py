"""What every store contract builds on: the adapters over one database, and short ways to bring jobs into a state.

A contract is a class of tests over the fixture `database`; `OnSqlite` and `OnPostgres` provide it, and each
`test_store_*.py` inherits its contract once with each of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa
import uuid_utils.compat as uuid_ids

from jobkit.adapters.sql.direct_sqlite import DirectSqlite, Elsewhere
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.history import SqlHistory
from jobkit.adapters.sql.incidents import SqlSums
from jobkit.adapters.sql.intake import SqlIntake
from jobkit.adapters.sql.ledger import SqlLedger
from jobkit.adapters.sql.presence import SqlPresence, SqlSessions, SqlTypes
from jobkit.adapters.sql.quarantine import SqlQuarantine
from jobkit.adapters.sql.reader import SqlReader
from jobkit.adapters.sql.recovery import SqlRecovery
from jobkit.adapters.sql.redrives import SqlRedrives
from jobkit.adapters.sql.steering import SqlSteering
from jobkit.adapters.sql.tables import jobs, metadata
from jobkit.adapters.sql.work import SqlWork
from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Transition
from jobkit.domain.job import Attempt, ClaimedJob, Job, JobError, JobState, NewJob, QuarantineReason
from jobkit.domain.retry import Complete, Decision, Isolate, Retry
from jobkit.ports import Accepted, Held, Miss, Settlement
from tests.templates import held, migrated, temporary_database

LEASE = timedelta(seconds=15)
SESSION = UUID(int=0xA)
OTHER_SESSION = UUID(int=0xB)
TIMED_OUT = JobError("API_TIMEOUT", "no answer")


def new_id() -> UUID:
    return uuid_ids.uuid7()


def new_job(job_type: str = "email", **changes: Any) -> NewJob:
    return replace(NewJob(new_id(), job_type, b'{"to": "a@example.com"}'), **changes)


class Store:
    """All ports over one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.intake = SqlIntake(database)
        self.work = SqlWork(database)
        self.reader = SqlReader(database)
        self.ledger = SqlLedger(database)
        self.history = SqlHistory(database)
        self.sums = SqlSums(database)
        self.steering = SqlSteering(database)
        self.sessions = SqlSessions(database)
        self.presence = SqlPresence(database)
        self.types = SqlTypes(database)
        self.recovery = SqlRecovery(database)
        self.quarantine = SqlQuarantine(database)
        self.redrives = SqlRedrives(database)
        self._breakers: dict[str, BreakerRecord] = {}

    async def insert(
        self, batch: Sequence[NewJob], *, session: UUID | None = SESSION, now: int | None = None
    ) -> list[Accepted | Exception]:
        await self.types.ensure([job.job_type for job in batch], 1000)
        types = await self.types.all()
        marks = {name: info.mark for name, info in types.items()}
        at = await self.database.now() if now is None else now
        return await self.intake.insert(batch, session=session, now=at, marks=marks)

    async def submit(
        self, job_type: str = "email", *, session: UUID | None = SESSION, **changes: Any
    ) -> UUID:
        job = new_job(job_type, **changes)
        assert await self.insert([job], session=session) == [Accepted(job.job_id, existed=False)]
        return job.job_id

    async def claim(self, job_id: UUID, *, lease: timedelta = LEASE, worker: str = "w1") -> ClaimedJob:
        """Also from a worker that let its lease run out."""
        claimed = await self.work.claim([job_id], claim_id=new_id(), worker_id=worker, lease=lease)
        job = claimed[job_id]
        if isinstance(job, Miss) and job.expired is not None:
            job = await self.work.take_over(job.expired, claim_id=new_id(), worker_id=worker, lease=lease)
        assert isinstance(job, ClaimedJob), job
        return job

    async def settle(
        self,
        job_id: UUID,
        delivery: int,
        decision: Decision,
        *,
        session: UUID | None = SESSION,
        history: tuple[Attempt, ...] = (),
    ) -> bool:
        item = Settlement(Held(job_id, delivery), decision, history, session)
        (answer,) = await self.work.settle([item])
        return answer

    async def running(self, job_type: str = "email") -> UUID:
        job_id = await self.submit(job_type)
        await self.claim(job_id)
        return job_id

    async def succeeded(self, job_type: str = "email") -> UUID:
        job_id = await self.running(job_type)
        assert await self.settle(job_id, 1, Complete(b"{}"))
        return job_id

    async def retrying(self, job_type: str = "email", delay: timedelta = timedelta(seconds=30)) -> UUID:
        job_id = await self.running(job_type)
        assert await self.settle(job_id, 1, Retry(delay, TIMED_OUT))
        return job_id

    async def isolated(
        self,
        job_type: str = "email",
        reason: QuarantineReason = QuarantineReason.RETRIES_EXHAUSTED,
        error: JobError = TIMED_OUT,
        **changes: Any,
    ) -> UUID:
        job_id = await self.submit(job_type, **changes)
        await self.claim(job_id)
        assert await self.settle(job_id, 1, Isolate(reason, error))
        return job_id

    async def cancelled(self, job_type: str = "email") -> UUID:
        job_id = await self.submit(job_type)
        await self.steering.cancel(job_id)
        return job_id

    async def discarded(self, job_type: str = "email") -> UUID:
        job_id = await self.isolated(job_type)
        await self.steering.discard(job_id)
        return job_id

    async def get(self, job_id: UUID) -> Job:
        return (await self.reader.get([job_id]))[job_id]

    async def row(self, job_id: UUID) -> Any:
        statement = sa.select(jobs).where(jobs.c.job_id == job_id)

        async def work(connection: Any) -> Any:
            return (await connection.execute(statement)).one()

        return await self.database.read(work)

    async def set(self, job_id: UUID, **values: Any) -> None:
        """Change the row behind the ports' back: how a test lets time pass."""
        statement = sa.update(jobs).where(jobs.c.job_id == job_id).values(**values)
        await self.database.write(lambda c: c.execute(statement))

    async def execute(self, statement: sa.Executable) -> None:
        await self.database.write(lambda c: c.execute(statement))

    async def expire_lease(self, job_id: UUID) -> None:
        await self.set(job_id, lease_until=await self.database.now() - 1)

    async def move(self, name: str, to: BreakerState, **changes: Any) -> int:
        """Record one more transition of a breaker; returns the ledger's revision."""
        old = self._breakers.get(name, BreakerRecord(name))
        generation = changes.pop("generation", old.generation + 1)
        at = await self.database.now()
        move = Transition(old.state, to, generation, at, Cause.EVIDENCE)
        opened_at = old.opened_at if old.state.holds else at
        record = BreakerRecord(
            name,
            to,
            generation,
            opened_at=opened_at if to.holds else None,
            open_until=at + 60_000 if to is BreakerState.OPEN else None,
            transitions=(*old.transitions, move)[-16:],
            **changes,
        )
        self._breakers[name] = record
        return await self.ledger.record(record)

    async def hold(self, job_type: str = "email") -> int:
        return await self.move(job_type, BreakerState.OPEN)

    async def lift(self, job_type: str = "email") -> int:
        return await self.move(job_type, BreakerState.CLOSED)


def at_millis(value: int) -> datetime:
    return datetime.fromtimestamp(value / 1000, UTC)


WAITING_STATES = (JobState.PENDING, JobState.QUEUED, JobState.RETRYING)


class StoreContract:
    """The base of every contract; see the module's docstring."""

    @pytest.fixture
    async def store(self, database: Database) -> Store:
        return Store(database)


class OnSqlite:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "jobs.db"
        path.write_bytes(migrated())
        return path

    @pytest.fixture
    async def database(self, file: Path) -> AsyncIterator[Database]:
        database = Database(f"sqlite:///{file}")
        yield database
        await database.close()


class OnSlowSqlite(OnSqlite):
    """The same where the event loop must not wait for the file: the hot path goes by the threads, too."""

    @pytest.fixture
    async def database(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
        def elsewhere(*_: Any) -> None:
            raise Elsewhere

        monkeypatch.setattr(DirectSqlite, "read", elsewhere)
        monkeypatch.setattr(DirectSqlite, "write", elsewhere)
        database = Database(f"sqlite:///{file}")
        yield database
        await database.close()


@pytest.mark.postgres
class OnPostgres:
    """One database for the class, emptied between tests: to create one takes longer than most tests."""

    @pytest.fixture(scope="class")
    @classmethod
    def migrated_url(cls, _postgres_server: str, _migrated_template: str) -> Iterator[str]:
        with held(temporary_database(_postgres_server, _migrated_template)) as url:
            yield url

    @pytest.fixture
    async def database(self, migrated_url: str) -> AsyncIterator[Database]:
        database = Database(migrated_url)
        yield database
        await database.close()
        tables = ", ".join(table.name for table in metadata.sorted_tables)
        await _administer(migrated_url, f"TRUNCATE {tables}")


async def _administer(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
