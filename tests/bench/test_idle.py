"""What it costs to do nothing, how long a start takes, and what asking a closed breaker costs (`-k idle`)."""

from __future__ import annotations

import time
import timeit

import pytest

from jobkit.domain.breaker import BreakerPolicy
from tests.bench.figures import Report, Span
from tests.bench.meter import resident
from tests.bench.peers.arena import Arena
from tests.bench.peers.catalog import EMBEDDED, SERVERS
from tests.bench.stand import Measured, Stand
from worker.breaker import Breaker
from worker.gate import Gate

pytestmark = pytest.mark.timeout(600)

SETTLING, WATCHED = 2.0, 5.0  # seconds
CHECKS = 200_000
AIM = 1.0  # microseconds a check


def test_idle(arena: Arena, scale: Report) -> None:
    for number in range(arena.sizes.rounds):
        last = number == arena.sizes.rounds - 1
        with arena.stand(SERVERS, scale) as stand:
            running = {name: _started(stand, name) for name in ("controlplane", "jobapi", "worker")}
            if last:
                _watch(stand, scale, running)
        with arena.stand(EMBEDDED, scale) as stand:
            running = {"dev": _started(stand, "dev", "--data", str(stand.directory / "data"))}
            if last:
                _watch(stand, scale, running)


def _started(stand: Stand, component: str, *arguments: str) -> Measured:
    began = time.time()
    program = stand.start(component, *arguments)
    ended = time.time()
    stand.latency(
        f"start of {component}, until it is ready", Span(1, began, ended, [ended - began]), same=True
    )
    return program


def _watch(stand: Stand, scale: Report, running: dict[str, Measured]) -> None:
    """With nothing to do, after what a start has left behind."""
    time.sleep(SETTLING)
    began = time.time()
    time.sleep(WATCHED)
    used = stand.meter.between(began, time.time())
    told = [
        f"{part} {seconds / WATCHED * 100:.1f} % of a core"
        + (f" and {resident(running[part].pid) >> 20} MiB" if part in running else "")
        for part, seconds in used.items()
        if part in running or (part in ("rabbitmq", "postgres", "redis") and "dev" not in running)
    ]
    scale.note(f"Idle: {', '.join(told)}.")


def test_idle_breakers(scale: Report) -> None:
    told = []
    for names in (["bench"], ["bench", "@smtp"]):
        gate = Gate("bench", [Breaker(name, BreakerPolicy()) for name in names], names[1:])
        took = min(timeit.repeat(lambda: gate.admits, number=CHECKS, repeat=5)) / CHECKS * 1e6  # noqa: B023
        verdict = "met" if took < AIM else "**MISSED**"
        told.append(f"{took:.2f} µs with {len(names)} (aim: under {AIM:.0f} µs; {verdict})")
    scale.note(f"Asking closed breakers whether a job may start: {', '.join(told)}.")
