"""How long one job takes from submit to its end, when it is alone and among a hundred a second."""

from __future__ import annotations

import asyncio

import pytest

from tests.bench import bare, load
from tests.bench.figures import Span
from tests.bench.stand import Stand

pytestmark = pytest.mark.timeout(900)

PER_SECOND = 100
SECONDS = 5


def test_end_to_end(
    stand: Stand, rabbitmq_url: str, postgres_url: str, namespace: str, loop: asyncio.Runner
) -> None:
    for component in ("controlplane", "jobapi", "worker"):
        stand.start(component)
    address, job_type = stand.ports.grpc("jobapi"), f"{namespace}.latency"
    loop.run(_ours(address, job_type, 20, 0))  # the worker hears of the type
    alone = ("alone", stand.sizes.lone, 0)
    busy = (f"at {PER_SECOND} a second", PER_SECOND * SECONDS, PER_SECOND)
    for _ in range(stand.sizes.rounds):
        for when, total, rate in (alone, busy):
            serial = f"bare serial chain, {when}"
            (span,) = loop.run(_bare(postgres_url, rabbitmq_url, total, rate))
            stand.latency(serial, span)
            knew, finished = loop.run(_ours(address, job_type, total, rate))
            stand.latency(f"submit to WaitJob's answer, {when}", knew, serial)
            stand.latency(f"submit to finish_time, {when}", finished, serial, same=True)


async def _bare(postgres_url: str, rabbitmq_url: str, total: int, rate: float) -> list[Span]:
    async with bare.chain(postgres_url, rabbitmq_url) as chain:
        return await load.travel(chain, total, rate)


async def _ours(address: str, job_type: str, total: int, rate: float) -> list[Span]:
    async with load.job_stub(address) as jobs:
        return await load.travel(load.round_trip(jobs, job_type), total, rate)
