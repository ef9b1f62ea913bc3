"""A fleet of 1,000 workers on one control plane: memory a stream, what heartbeats cost, and how long a push takes
until the last of them has answered."""

from __future__ import annotations

import asyncio
import resource
import time

import grpc
import pytest
from selfheal.control.v1 import worker_service_pb2, worker_service_pb2_grpc

from jobkit.host.channels import NEWS, TYPES
from jobkit.host.world import World
from jobkit.ports.revisions import JOB_TYPES
from jobkit.runtime.settings import Settings, load
from tests.bench.crowd import Crowd
from tests.bench.figures import Report, Span
from tests.bench.meter import resident
from tests.bench.stand import Measured, Stand

pytestmark = pytest.mark.timeout(600)

WORKERS = 1_000
CATALOG = 100  # job types that each push carries
PUSHES = 10
STEADY_SECONDS = 10.0
PATIENCE = 60.0


def test_stream(stand: Stand, report: Report, loop: asyncio.Runner) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        plane = stand.start("controlplane")
        loop.run(_measure(stand, report, plane))
        stand.stop(plane)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _measure(stand: Stand, report: Report, plane: Measured) -> None:
    target = stand.ports.grpc("controlplane")
    world = World("bench", load(Settings, stand.environ, embedded=True), {})
    try:
        await world.types.ensure([f"type-{number:03}" for number in range(CATALOG)], 10_000)
        before, began = resident(plane.pid), time.time()
        async with Crowd(target, WORKERS) as crowd:
            version = (await world.revisions.read())[JOB_TYPES]
            await crowd.all_acked(JOB_TYPES, version, PATIENCE)
            connected = time.time() - began
            began, beats = time.time(), crowd.beats
            await asyncio.sleep(STEADY_SECONDS)
            stand.rate(f"heartbeats of {WORKERS:,} workers", Span(crowd.beats - beats, began, time.time()))
            after = resident(plane.pid)
            report.note(
                f"{WORKERS:,} control streams: connected, and given the catalog, within {connected:.1f} s; "
                f"{(after - before) / WORKERS / 1024:.0f} KiB of the control plane's memory each."
            )
            for number in range(PUSHES):
                await _push(stand, world, crowd, number)
            await _all_shown(target)
            if crowd.lost:
                report.note(f"{crowd.lost} streams were lost and opened again: the machine was too busy.")
    finally:
        await world.close()


async def _push(stand: Stand, world: World, crowd: Crowd, number: int) -> None:
    """From the commit of a change to its answers."""
    await world.types.ensure([f"more-{number:03}"], 10_000)
    committed = time.time()
    await world.signals.send(TYPES, [NEWS])
    version = (await world.revisions.read())[JOB_TYPES]
    answered = await crowd.all_acked(JOB_TYPES, version, PATIENCE)
    ended = max(answered)
    each = [at - committed for at in answered]
    stand.latency(f"commit to a worker's ACK, {WORKERS:,} workers", Span(len(each), committed, ended, each))
    last = Span(1, committed, ended, [ended - committed])
    stand.latency(f"commit to the last ACK, {WORKERS:,} workers", last, same=True)


async def _all_shown(target: str) -> None:
    """The control plane has every answer."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        async with asyncio.timeout(PATIENCE):
            while True:
                listed = await stub.ListWorkers(worker_service_pb2.ListWorkersRequest())
                told = [(one.kind, one.acked, one.pending, one.nacked) for one in listed.convergence]
                if len(listed.workers) == WORKERS and told == [(JOB_TYPES, WORKERS, 0, 0)]:
                    return
                await asyncio.sleep(0.1)
