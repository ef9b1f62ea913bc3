"""A large backlog of finished jobs leaves after its retention while others run: batch by batch, and nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
import pytest

from controlplane.reconcilers.retention import BATCH
from tests.faults.kit import Load, Supervisor, everything_done, keep_all, until
from tests.system.fleet import Fleet

DATABASE_TIMEOUT = 3.0
OLD_MS = 8 * 86_400_000  # RETENTION_DAYS and one more
LOOK_SECONDS = 0.02
# Finished long ago, with request ids and labels of their own; ids are in the order of time, as UUIDv7 are.
BACKLOG = """
WITH old AS (
  SELECT n, made, (lpad(to_hex(made), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid AS id
  FROM (SELECT n, (extract(epoch FROM now()) * 1000)::bigint - $2::bigint + n / 100 AS made
        FROM generate_series(1, $1::int) AS n) AS series
), jobs_made AS (
  INSERT INTO jobs (job_id, job_type, state, due_at, payload, request_id, labels, attempts, deliveries,
                    created_at, updated_at, started_at, finished_at)
  SELECT id, 'past', 'SUCCEEDED', made, '{}', 'past-' || n, '{"kind": "old"}', 1, 1, made, made, made, made FROM old
), labels_made AS (
  INSERT INTO job_labels (key, value, job_id) SELECT 'kind', 'old', id FROM old
)
INSERT INTO request_keys (request_id, job_id, content_hash) SELECT 'past-' || n, id, '' FROM old"""
# The database itself writes down how many rows each statement takes away.
WITNESS = """
CREATE TABLE witness (rows bigint NOT NULL);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO witness SELECT count(*) FROM gone; RETURN NULL; END $$;
CREATE TRIGGER witness AFTER DELETE ON jobs
  REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION witness()"""
WAITS = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float,
       coalesce(max(extract(epoch FROM clock_timestamp() - query_start))
                FILTER (WHERE wait_event_type = 'Lock'), 0)::float
FROM pg_stat_activity
WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()"""


@dataclass
class Sight:
    """The longest seen of any statement, and of any wait for a lock, in seconds."""

    statement: float = 0.0
    lock: float = 0.0
    looks: int = field(default=0)

    async def watch(self, connection: asyncpg.Connection) -> None:
        while True:
            statement, lock = await connection.fetchrow(WAITS)
            self.statement, self.lock = max(self.statement, statement), max(self.lock, lock)
            self.looks += 1
            await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def watching(url: str) -> AsyncIterator[Sight]:
    sight, connection = Sight(), await asyncpg.connect(url)
    task = asyncio.create_task(sight.watch(connection))
    try:
        yield sight
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        connection.terminate()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backlog", [pytest.param(10_000, marks=pytest.mark.short), 200_000])
async def test_a_backlog_of_finished_jobs_leaves_and_nobody_waits(faulty: Fleet, backlog: int) -> None:
    faulty.environ["DATABASE_TIMEOUT"] = f"{DATABASE_TIMEOUT:g}"
    connection = await asyncpg.connect(faulty.environ["DATABASE_URL"], timeout=10)
    try:
        await connection.execute(BACKLOG, backlog, OLD_MS, timeout=120)
        await connection.execute(WITNESS)
        await leaves_while_others_run(faulty, connection, backlog)
        assert await connection.fetchval("SELECT count(*) FROM job_labels") == 0
        assert await connection.fetchval("SELECT count(*) FROM request_keys WHERE content_hash = ''") == 0
    finally:
        await connection.close()


async def leaves_while_others_run(fleet: Fleet, connection: asyncpg.Connection, backlog: int) -> None:
    gone = "SELECT coalesce(sum(rows), 0)::int, coalesce(max(rows), 0), count(*) FROM witness WHERE rows > 0"

    async def all_gone() -> bool:
        return bool((await connection.fetchrow(gone))[0] >= backlog)

    async with Supervisor(fleet) as supervisor, watching(fleet.environ["DATABASE_URL"]) as sight:
        keep_all(supervisor)  # the control plane begins at once
        began = time.monotonic()
        await supervisor.ready()
        async with Load(fleet, rate=150) as load:
            await until(all_gone, 200, f"{backlog} old jobs gone")
            took = time.monotonic() - began
            await load.reach(300)
            figures = await everything_done(load)
    removed, most, statements = await connection.fetchrow(gone)
    print(
        f"{removed} old jobs gone in {took:.0f} s by {statements} statements of at most {most} rows; the longest of "
        f"all statements {sight.statement:.2f} s, the longest wait for a lock {sight.lock:.2f} s "
        f"({sight.looks} looks): {figures}"
    )
    assert removed == backlog, "nothing else is old"
    assert most <= BATCH
    assert sight.lock < DATABASE_TIMEOUT / 2
    assert sight.statement < DATABASE_TIMEOUT
    assert not figures.refusals
    assert figures.reruns == 0
