"""How fast a backlog of jobs that do nothing is worked off, from the first start to the last finish by the
database's clock."""

from __future__ import annotations

import asyncio
import time

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity

from tests.bench import bare, load
from tests.bench.figures import Span
from tests.bench.stand import Stand

pytestmark = pytest.mark.timeout(900)

PATIENCE = 120.0
WIDE = {"WORKER_CONCURRENCY": "250", "WORKER_MAX_CONCURRENCY": "500"}
SPAN = (
    "SELECT count(*), min(started_at), max(finished_at) FROM jobs WHERE job_type = $1 AND state = 'SUCCEEDED'"
)


def test_drain(
    stand: Stand, rabbitmq_url: str, postgres_url: str, namespace: str, loop: asyncio.Runner
) -> None:
    stand.start("controlplane")
    stand.start("jobapi")
    singly = stand.sizes.singly
    for number in range(stand.sizes.rounds):
        for width, more in ((16, {}), (250, WIDE)):
            raw = f"raw aio-pika consume and ack, prefetch {width}"
            stand.rate(raw, loop.run(bare.consume(rabbitmq_url, singly, width)))
            rows = f"unbatched claim and settle, {min(width, 32)} connections"
            stand.rate(rows, loop.run(bare.claim_and_settle(postgres_url, singly, min(width, 32))))
            job_type = f"{namespace}.drain.{number}.{width}"
            loop.run(_fill(stand, rabbitmq_url, job_type))
            worker = stand.start("worker", **more)
            span = loop.run(_drained(postgres_url, job_type, stand.sizes.jobs))
            stand.rate(f"drain of one type, {width} slots", span, rows, raw)
            stand.stop(worker)


async def _fill(stand: Stand, rabbitmq_url: str, job_type: str) -> None:
    """The backlog, with every token on the broker."""
    span = await load.submit_batches(stand.ports.grpc("jobapi"), job_type, stand.sizes.jobs)
    async with await aio_pika.connect(rabbitmq_url) as connection:
        deadline = time.monotonic() + PATIENCE
        while (waiting := await _depth(connection, f"jobs.main.{job_type}")) < span.jobs:
            assert time.monotonic() < deadline, f"{waiting} of {span.jobs} tokens are queued"
            await asyncio.sleep(0.1)


async def _depth(connection: AbstractConnection, queue: str) -> int:
    try:
        async with connection.channel() as channel:
            found = await channel.declare_queue(queue, passive=True)
            return found.declaration_result.message_count or 0
    except ChannelNotFoundEntity:
        return 0  # the publisher has not declared it yet


async def _drained(postgres_url: str, job_type: str, total: int) -> Span:
    """Until all have succeeded."""
    connection = await asyncpg.connect(postgres_url)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            done, began, ended = await connection.fetchrow(SPAN, job_type) or (0, 0, 0)
            if done >= total:
                return Span(done, began / 1000, ended / 1000)
            assert time.monotonic() < deadline, f"{done} of {total} jobs have ended"
            await asyncio.sleep(0.25)
    finally:
        await connection.close()
