"""What the product is compared with: the same steps by hand, one at a time, with the bare drivers."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import aio_pika
import asyncpg
import orjson
import uuid_utils.compat as ids
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from tests.bench.figures import Span
from tests.bench.load import PAYLOAD, in_flight

QUEUE = "bench.bare"
BODY = orjson.dumps({"job": str(ids.uuid7()), "type": "bench"})
PAYLOAD_BYTES = orjson.dumps(PAYLOAD)
BATCH = 500  # rows a statement
BATCHES_IN_FLIGHT = 4

# The product's own table, so that rows, indexes and constraints weigh the same.
TABLE = "CREATE TABLE IF NOT EXISTS bare_jobs (LIKE jobs INCLUDING ALL)"
INSERT = """INSERT INTO bare_jobs (job_id, job_type, state, due_at, session_id, payload, created_at, updated_at)
            VALUES ($1, 'bench', 'QUEUED', $2, $1, $3, $2, $2)"""
CLAIM = """UPDATE bare_jobs SET state = 'RUNNING', deliveries = deliveries + 1, claim_id = $1, worker_id = 'bench',
           lease_until = $2, started_at = $2, updated_at = $2 WHERE job_id = $1 AND state = 'QUEUED'
           RETURNING payload"""
SETTLE = """UPDATE bare_jobs SET state = 'SUCCEEDED', attempts = attempts + 1, claim_id = NULL, lease_until = NULL,
            settled_delivery = deliveries, finished_at = $2, updated_at = $2
            WHERE job_id = $1 AND state = 'RUNNING' AND deliveries = 1"""

INSERT_MANY = """INSERT INTO bare_jobs (job_id, job_type, state, due_at, session_id, payload, created_at, updated_at)
                 SELECT job_id, 'bench', 'QUEUED', $2, job_id, payload, $2, $2
                 FROM unnest($1::uuid[], $3::bytea[]) AS fresh (job_id, payload)"""
CLAIM_MANY = CLAIM.replace("claim_id = $1", "claim_id = job_id").replace(
    "job_id = $1", "job_id = ANY($1::uuid[])"
)
SETTLE_MANY = SETTLE.replace("job_id = $1", "job_id = ANY($1::uuid[])")


def _now() -> int:
    return round(time.time() * 1000)


@asynccontextmanager
async def quorum_queue(url: str, prefetch: int = 0) -> AsyncIterator[tuple[AbstractChannel, AbstractQueue]]:
    """A confirming channel and an empty queue of the product's kind, deleted in the end."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=prefetch)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        yield channel, queue
        await queue.delete(if_unused=False, if_empty=False)


async def _publish(channel: AbstractChannel, body: bytes = BODY) -> None:
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, QUEUE, mandatory=True)


async def publish(url: str, total: int, width: int) -> Span:
    """Confirmed publishes, each by itself, `width` of them in flight."""
    async with quorum_queue(url) as (channel, _):
        return await in_flight(total, width, lambda _: _publish(channel))


async def consume(url: str, total: int, prefetch: int) -> Span:
    """Consume and acknowledge one by one."""
    async with quorum_queue(url, prefetch) as (channel, queue):
        await in_flight(total, 256, lambda _: _publish(channel))
        done = asyncio.Event()
        left = total

        async def receive(message: AbstractIncomingMessage) -> None:
            nonlocal left
            await message.ack()
            left -= 1
            if left == 0:
                done.set()

        began = time.time()
        tag = await queue.consume(receive)
        await done.wait()
        ended = time.time()
        await queue.cancel(tag)
        return Span(total, began, ended)


@asynccontextmanager
async def pool(url: str, connections: int) -> AsyncIterator[asyncpg.Pool]:
    """With the table there, empty."""
    async with asyncpg.create_pool(url, min_size=connections, max_size=connections) as made:
        await made.execute(TABLE)
        await made.execute("TRUNCATE bare_jobs")
        yield made


async def insert_rows(url: str, total: int, connections: int) -> Span:
    """One commit per row."""
    async with pool(url, connections) as database:

        async def call(_: int) -> None:
            await database.execute(INSERT, ids.uuid7(), _now(), PAYLOAD_BYTES)

        return await in_flight(total, connections, call)


async def claim_and_settle(url: str, total: int, connections: int) -> Span:
    """Two commits per row, that were inserted before."""
    async with pool(url, connections) as database:
        rows = [ids.uuid7() for _ in range(total)]
        await database.executemany(INSERT, [(row, _now(), PAYLOAD_BYTES) for row in rows])

        async def call(number: int) -> None:
            await database.fetchval(CLAIM, rows[number], _now())
            await database.execute(SETTLE, rows[number], _now())

        return await in_flight(total, connections, call)


async def batches(url: str, total: int) -> tuple[Span, Span]:
    """Inserts, then claims with settles, BATCH rows a commit and BATCHES_IN_FLIGHT connections."""
    async with pool(url, BATCHES_IN_FLIGHT) as database:
        rows = [[ids.uuid7() for _ in range(BATCH)] for _ in range(-(-total // BATCH))]
        payloads = [PAYLOAD_BYTES] * BATCH

        async def insert(number: int) -> None:
            await database.execute(INSERT_MANY, rows[number], _now(), payloads)

        async def claim(number: int) -> None:
            await database.fetch(CLAIM_MANY, rows[number], _now())
            await database.execute(SETTLE_MANY, rows[number], _now())

        inserted = await in_flight(len(rows), BATCHES_IN_FLIGHT, insert)
        settled = await in_flight(len(rows), BATCHES_IN_FLIGHT, claim)
        jobs = len(rows) * BATCH
        return Span(jobs, inserted.began, inserted.ended), Span(jobs, settled.began, settled.ended)


class Chain:
    """One job's bare serial chain: insert, confirmed publish, delivery, claim, settle."""

    def __init__(self, database: asyncpg.Pool, channel: AbstractChannel) -> None:
        self._database = database
        self._channel = channel
        self._waiting: dict[bytes, asyncio.Future[float]] = {}

    async def receive(self, message: AbstractIncomingMessage) -> None:
        """What the worker's side does."""
        job_id = UUID(bytes=message.body)
        await self._database.fetchval(CLAIM, job_id, _now())
        await self._database.execute(SETTLE, job_id, _now())
        await message.ack()
        self._waiting.pop(message.body).set_result(time.time())

    async def __call__(self) -> tuple[float]:
        """The Unix time when the job was settled."""
        job_id: UUID = ids.uuid7()
        ended = self._waiting[job_id.bytes] = asyncio.get_running_loop().create_future()
        await self._database.execute(INSERT, job_id, _now(), PAYLOAD_BYTES)
        await _publish(self._channel, job_id.bytes)
        return (await ended,)


@asynccontextmanager
async def chain(postgres_url: str, rabbitmq_url: str) -> AsyncIterator[Chain]:
    """With a consumer of prefetch 16, as a worker's lane has it."""
    async with pool(postgres_url, 8) as database, quorum_queue(rabbitmq_url, 16) as (channel, queue):
        made = Chain(database, channel)
        tag = await queue.consume(made.receive)
        yield made
        await queue.cancel(tag)


def sqlite_rows(path: Path, total: int) -> tuple[Span, Span]:
    """Inserts, then claims with settles, one commit each and as durable as the product's: SQLite in a file."""
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE j (id TEXT PRIMARY KEY, state TEXT, payload BLOB, at INT)")
        rows = [str(ids.uuid7()) for _ in range(total)]
        began = time.time()
        for row in rows:
            database.execute("INSERT INTO j VALUES (?, 'QUEUED', ?, ?)", (row, PAYLOAD_BYTES, _now()))
        inserted = time.time()
        for row in rows:
            database.execute("UPDATE j SET state = 'RUNNING', at = ? WHERE id = ?", (_now(), row))
            database.execute("UPDATE j SET state = 'SUCCEEDED', at = ? WHERE id = ?", (_now(), row))
        ended = time.time()
    database.close()
    return Span(total, began, inserted), Span(total, inserted, ended)
