"""When the database is away or does not answer, callers are told `Unavailable`, soon, and nothing of a driver."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa

from jobkit.adapters.sql import schema
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.tables import jobs
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import NotFound, Unavailable
from jobkit.domain.filter import JobFilter
from jobkit.domain.retry import Complete
from jobkit.ports import Held, Lease, Settlement
from tests.contract.store_contract import LEASE, SESSION, OnPostgres, Store, new_job

JOB = UUID(int=1)
MINUTE = timedelta(minutes=1)
CALLS: dict[str, Callable[[Store], Any]] = {
    "insert": lambda s: s.intake.insert([new_job()], session=SESSION, now=1, marks={}),
    "claim": lambda s: s.work.claim([JOB], claim_id=JOB, worker_id="w", lease=LEASE),
    "take_over": lambda s: s.work.take_over(Lease(Held(JOB, 1), 1), claim_id=JOB, worker_id="w", lease=LEASE),
    "renew": lambda s: s.work.renew([Held(JOB, 1)], lease=LEASE),
    "progress": lambda s: s.work.progress([(Held(JOB, 1), 1, 2)]),
    "settle": lambda s: s.work.settle([Settlement(Held(JOB, 1), Complete(None), ())]),
    "get": lambda s: s.reader.get([JOB]),
    "page": lambda s: s.reader.page(JobFilter(), 10, None),
    "record": lambda s: s.ledger.record(BreakerRecord("email")),
    "latest": lambda s: s.ledger.latest(),
    "cancel": lambda s: s.steering.cancel(JOB),
    "retry": lambda s: s.steering.retry(JOB, None, SESSION),
    "discard": lambda s: s.steering.discard(JOB),
    "ensure": lambda s: s.types.ensure(["email"], 10),
    "all": lambda s: s.types.all(),
    "session beat": lambda s: s.sessions.beat(SESSION, "jobapi", None),
    "orphan": lambda s: s.sessions.orphan(SESSION, [JOB]),
    "session leave": lambda s: s.sessions.leave(SESSION),
    "worker beat": lambda s: s.presence.beat("w", ["*"], {"email": 1}),
    "worker leave": lambda s: s.presence.leave("w"),
    "served_types": lambda s: s.presence.served_types(MINUTE),
    "take_overdue": lambda s: s.recovery.take_overdue(SESSION, 10),
    "take_orphans": lambda s: s.recovery.take_orphans(SESSION, MINUTE, 10),
    "fronts": lambda s: s.recovery.fronts(MINUTE),
    "take_lost": lambda s: s.recovery.take_lost(SESSION, "email", 1, 10),
    "oldest_waiting": lambda s: s.recovery.oldest_waiting(),
    "expired": lambda s: s.recovery.expired(10),
    "rescue": lambda s: s.recovery.rescue(SESSION, [Lease(Held(JOB, 1), 1)]),
    "waiting_pages": lambda s: anext(s.recovery.waiting_pages(10)),
    "count_waiting": lambda s: s.recovery.count_waiting(),
    "file_undecodable": lambda s: s.recovery.file_undecodable([(b"", {})]),
    "now": lambda s: s.database.now(),
    "check": lambda s: schema.check(s.database),
    "migrate": lambda s: schema.migrate(s.database),
}


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/nothing", "sqlite:////nowhere/jobs.db"])
async def test_a_database_that_is_not_there(url: str) -> None:
    before = set(threading.enumerate())
    database = Database(url, timeout=0.5)
    store = Store(database)
    for name, call in CALLS.items():
        with pytest.raises(Unavailable) as caught:
            await call(store)
        assert caught.value.reason == "DATABASE_UNAVAILABLE", name
        assert caught.value.retry_after > timedelta()
    await database.close()
    await database.close()
    # aiosqlite's thread of a connection that never came about says good-bye to the loop a moment later.
    while any("_connection_worker_thread" in t.name for t in set(threading.enumerate()) - before):
        await asyncio.sleep(0)


async def test_a_server_that_accepts_and_never_answers_is_given_up_in_time() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        done.set()

    done = asyncio.Event()
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    database = Database(f"postgresql://nobody@127.0.0.1:{port}/nothing", timeout=0.3)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await database.now()
    assert time.monotonic() - began < 3
    await database.close()
    await done.wait()
    server.close()
    await server.wait_closed()


async def test_sqlite_waits_for_another_writer_and_gives_up_in_time(tmp_path: Path) -> None:
    first = Database(f"sqlite:///{tmp_path}/jobs.db")
    await schema.migrate(first)
    second = Database(f"sqlite:///{tmp_path}/jobs.db", timeout=0.2)
    store = Store(second)

    async def hold_the_lock(_: Any) -> None:
        with pytest.raises(Unavailable):
            await store.sessions.leave(SESSION)
        assert await store.types.all() == {}  # readers do not wait

    await first.write(hold_the_lock)
    await store.sessions.leave(SESSION)
    await first.close()
    await second.close()


class TestPostgresOutage(OnPostgres):
    @pytest.fixture
    async def impatient(self, database: Database, migrated_url: str) -> AsyncIterator[Store]:
        database = Database(migrated_url, timeout=0.5, connections=4)
        yield Store(database)
        await database.close()

    async def _kill_all(self, url: str) -> None:
        admin = await asyncpg.connect(url)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        await admin.execute(f"{kill} AND pid <> pg_backend_pid()")
        await admin.close()

    async def test_a_statement_that_hangs_is_given_up_in_time(self, impatient: Store) -> None:
        database = impatient.database
        for run in (database.read, database.write):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await run(lambda c: c.execute(sa.text("SELECT pg_sleep(20)")))
            assert time.monotonic() - began < 3
        assert await database.now() > 0

    async def test_a_row_locked_for_too_long_is_given_up_in_time(
        self, database: Database, impatient: Store
    ) -> None:
        job_id = await Store(database).submit()

        async def lock(connection: Any) -> None:
            await connection.execute(sa.select(jobs.c.job_id).with_for_update())
            with pytest.raises(Unavailable):
                await impatient.claim(job_id)

        await database.write(lock)
        await Store(database).claim(job_id)

    async def test_a_locked_row_keeps_no_other_lease_from_being_renewed(self, database: Database) -> None:
        store = Store(database)
        ids = [await store.running() for _ in range(3)]
        await asyncio.gather(*(store.expire_lease(job_id) for job_id in ids))
        held = [Held(job_id, 1) for job_id in ids]

        async def lock(connection: Any) -> None:
            one = sa.select(jobs.c.job_id).where(jobs.c.job_id == ids[1])
            await connection.execute(one.with_for_update())
            assert await store.work.renew([*held, Held(JOB, 1)], lease=LEASE) == (set(ids), set())

        await database.write(lock)
        assert [lease.held.job_id for lease in await store.recovery.expired(10)] == [ids[1]]

    async def test_a_full_pool_is_given_up_in_time(self, impatient: Store) -> None:
        sleep = sa.text("SELECT pg_sleep(0.4)")
        many = [impatient.database.read(lambda c: c.execute(sleep)) for _ in range(9)]
        answers = await asyncio.gather(*many, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        assert errors
        assert all(isinstance(error, Unavailable) for error in errors)
        assert await impatient.database.now() > 0

    async def test_killed_connections_are_replaced(self, database: Database, migrated_url: str) -> None:
        store = Store(database)
        await asyncio.gather(*(database.now() for _ in range(8)))
        for call in CALLS.values():
            await self._kill_all(migrated_url)
            try:
                await call(store)
            except Unavailable:
                pass
            except (NotFound, StopAsyncIteration):
                pass  # the call came through

    async def test_one_dead_connection_is_enough_to_give_up_the_others(
        self, database: Database, migrated_url: str
    ) -> None:
        async def look(seconds: float = 0) -> None:
            await database.read(lambda c: c.execute(sa.text(f"SELECT pg_sleep({seconds})")))

        async def open_all() -> None:
            await asyncio.gather(*(look(0.1) for _ in "12345678"), *(database.now() for _ in "1234"))

        await open_all()
        await self._kill_all(migrated_url)
        with pytest.raises(Unavailable):
            await look()
        for _ in range(9):
            await look()
            assert await database.now() > 0
        await open_all()
        await self._kill_all(migrated_url)
        with suppress(Unavailable):  # raised unless the end of the connection was seen in time
            await database.now()
        for _ in range(9):
            assert await database.now() > 0

    async def test_a_connection_killed_within_a_transaction(
        self, database: Database, migrated_url: str
    ) -> None:
        async def work(connection: Any) -> None:
            await connection.execute(sa.select(1))
            await self._kill_all(migrated_url)
            await connection.execute(sa.select(1))

        for run in (database.read, database.write):
            with pytest.raises(Unavailable):
                await run(work)
        assert await database.now() > 0

    async def test_a_cancelled_caller_leaves_the_pool_whole(self, impatient: Store) -> None:
        for _ in range(6):  # twice the pool
            task = asyncio.create_task(
                impatient.database.write(lambda c: c.execute(sa.text("SELECT pg_sleep(20)")))
            )
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await impatient.database.now() > 0

    async def test_a_deadlock_is_run_again(self, database: Database) -> None:
        store = Store(database)
        first, second = await store.submit(), await store.submit()
        at_the_second = asyncio.Barrier(2)
        tries = 0

        async def lock(connection: Any, *order: UUID) -> None:
            nonlocal tries
            tries += 1
            for n, job_id in enumerate(order):
                await connection.execute(sa.update(jobs).where(jobs.c.job_id == job_id).values(attempts=n))
                if n == 0 and tries <= 2:
                    await at_the_second.wait()

        await asyncio.gather(
            database.write(lambda c: lock(c, first, second)),
            database.write(lambda c: lock(c, second, first)),
        )
        assert tries == 3

    async def test_a_serialization_failure_is_run_again_and_not_for_ever(self, database: Database) -> None:
        tries = 0

        async def fail(connection: Any) -> None:
            nonlocal tries
            tries += 1
            if tries < 4 or tries > 100:
                await connection.execute(
                    sa.text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$")
                )

        await database.write(fail)
        assert tries == 4
        tries = 200
        with pytest.raises(Unavailable):
            await database.write(fail)
        assert tries == 205

    async def test_a_database_that_refuses_writes_is_known_to(self, database: Database) -> None:
        for code, refuses in (("40003", False), ("53100", True)):
            raising = f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$"
            with pytest.raises(Unavailable):
                await database.write(lambda c, text=raising: c.execute(sa.text(text)))  # type: ignore[misc]
            assert database.refuses_writes is refuses

    async def test_crossing_batches_are_all_written(self, database: Database) -> None:
        store = Store(database)
        ids = [await store.running() for _ in range(30)]
        settles = [
            store.work.settle([Settlement(Held(i, 1), Complete(None), ()) for i in order])
            for order in (ids, ids[::-1], ids[::2], ids[::-2])
        ]
        renewal = store.work.renew([Held(i, 1) for i in ids[::-1]], lease=LEASE)
        answers, _, _ = await asyncio.gather(
            asyncio.gather(*settles), renewal, store.sessions.orphan(SESSION, ids[::-1])
        )
        assert all(ok for answer in answers for ok in answer)
        assert await store.recovery.count_waiting() == {}
