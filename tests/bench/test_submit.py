"""How fast jobs are accepted, by each door, while no worker runs."""

from __future__ import annotations

import asyncio

import pytest

from tests.bench import bare, load
from tests.bench.stand import Stand

pytestmark = pytest.mark.timeout(900)

RAW = "raw aio-pika publish, 256 in flight"
INSERTS = "unbatched inserts, 8 connections"
LONE_INSERTS = "unbatched inserts, 1 connection"
SMALL = 100  # jobs of a small batch
POSTS = 500  # the requirement's figure: 500 POSTs, 50 at once


def test_submit(
    stand: Stand, rabbitmq_url: str, postgres_url: str, namespace: str, loop: asyncio.Runner
) -> None:
    sizes = stand.sizes
    with stand.echo() as echo:
        stand.start("jobapi")
        address, job_type = stand.ports.grpc("jobapi"), f"{namespace}.submit"
        loop.run(load.submit_singly(address, job_type, 50, 10))  # the first of a type declares its queue
        for _ in range(sizes.rounds):
            stand.rate(RAW, loop.run(bare.publish(rabbitmq_url, sizes.jobs, 256)))
            stand.rate(LONE_INSERTS, loop.run(bare.insert_rows(postgres_url, sizes.singly // 2, 1)))
            stand.rate(INSERTS, loop.run(bare.insert_rows(postgres_url, sizes.jobs // 2, 8)))
            span = loop.run(load.submit_batches(address, job_type, sizes.jobs))
            stand.rate("BatchSubmitJobs, 1,000 a call, 4 in flight", span, INSERTS, RAW)
            for width in load.WIDTHS:
                inserts = LONE_INSERTS if width == 1 else INSERTS
                _batches(stand, loop, job_type, width, inserts)
                _singly(stand, loop, echo, job_type, width, inserts)
                _posts(stand, loop, job_type, width, _calls(stand, width), _echo_row(width), inserts)
            _posts(stand, loop, job_type, 50, POSTS, _echo_row(32), INSERTS)


def _calls(stand: Stand, width: int) -> int:
    return stand.sizes.lone if width == 1 else stand.sizes.singly


def _echo_row(width: int) -> str:
    return f"bare grpc.aio echo, {width} in flight"


def _batches(stand: Stand, loop: asyncio.Runner, job_type: str, width: int, inserts: str) -> None:
    """Small ones, at least two for each that is in flight."""
    total = max(stand.sizes.jobs // 2, 2 * width * SMALL)
    span = loop.run(load.submit_batches(stand.ports.grpc("jobapi"), job_type, total, SMALL, width))
    stand.rate(f"BatchSubmitJobs, {SMALL} a call, {width} in flight", span, inserts)


def _posts(
    stand: Stand, loop: asyncio.Runner, job_type: str, width: int, total: int, echo: str, inserts: str
) -> None:
    name = f"POST /jobs, {width} in flight"
    span = loop.run(load.post_jobs(stand.ports.http("jobapi"), job_type, total, width))
    stand.rate(name, span, echo, inserts)
    stand.latency(name, span, echo, same=True)


def _singly(stand: Stand, loop: asyncio.Runner, echo: str, job_type: str, width: int, inserts: str) -> None:
    """SubmitJob beside an echo of the same message."""
    total, bare_name, name = _calls(stand, width), _echo_row(width), f"SubmitJob, {width} in flight"
    span = loop.run(load.submit_singly(echo, job_type, total, width))
    stand.rate(bare_name, span)
    stand.latency(bare_name, span, same=True)
    span = loop.run(load.submit_singly(stand.ports.grpc("jobapi"), job_type, total, width))
    stand.rate(name, span, bare_name, inserts)
    stand.latency(name, span, bare_name, same=True)
