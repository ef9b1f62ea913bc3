"""Hosts whose clocks are minutes apart: nothing is lost, nothing comes early or late, leases are right.

Times that matter are the database's; ids are made by the hosts, and carry their clocks' time.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.faults.kit import Load, Servers, everything_done, make_fleet, query, tally_of, until
from tests.faults.standing import IMPATIENT
from tests.faults.verdict import runs_needed
from tests.system.fleet import Fleet, Ports, Program

LAUNCHER = Path(__file__).with_name("skew_launcher.py")
MINUTES = 300.0


class Skewed:
    """Two of each component, whose clocks are that many seconds ahead."""

    def __init__(self, fleet: Fleet, clocks: dict[str, tuple[float, float]]) -> None:
        self.fleet = fleet
        self.ports = {component: [fleet.ports, Ports()] for component in clocks}
        self.programs = {
            component: [
                self._start(component, ports, ahead)
                for ports, ahead in zip(self.ports[component], pair, strict=True)
            ]
            for component, pair in clocks.items()
        }
        for component, programs in self.programs.items():
            for program, ports in zip(programs, self.ports[component], strict=True):
                program.await_ready(f"{ports.http(component)}/health/ready")

    def _start(self, component: str, ports: Ports, ahead: float) -> Program:
        values = {**self.fleet.environ, **ports.environ}
        command = [sys.executable, LAUNCHER.name, str(ahead)]
        program = Program([component], values, self.fleet.directory, command).start()
        self.fleet.programs.append(program)
        return program

    @property
    def job_apis(self) -> list[str]:
        return [ports.grpc("jobapi") for ports in self.ports["jobapi"]]


@pytest.fixture(scope="module")
def skewed(fault_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Skewed]:
    directory = tmp_path_factory.mktemp("skewed")
    fleet = make_fleet(directory, fault_servers.room(), **IMPATIENT)
    shutil.copy(LAUNCHER, directory)
    both = (MINUTES, -MINUTES)
    try:
        yield Skewed(fleet, {"controlplane": both, "jobapi": both, "worker": both})
    finally:
        fleet.stop()


@pytest.mark.short
async def test_clocks_that_are_minutes_apart(skewed: Skewed) -> None:
    fleet, url = skewed.fleet, skewed.fleet.environ["DATABASE_URL"]
    began = time.time()
    long = {"slow": {"seconds": 3.0}}  # longer than the lease: renewed
    mix = {"good": 0.7, "flaky": 0.15, "held": 0.12, "slow": 0.03}
    async with Load(fleet, addresses=skewed.job_apis, mix=mix, payloads=long, rate=150) as load:
        await load.reach(500)
        figures = await everything_done(load)
        print(figures)
        assert figures.reruns == 0
        assert figures.slowest_seconds < 15
    made_at = [UUID(job.job_id).int >> 80 for job in load.accepted.values()]
    assert max(made_at) - min(made_at) > 2 * 1000 * MINUTES  # the hosts' clocks are wrong indeed
    columns = "min(created_at), max(created_at), min(due_at), max(due_at), min(finished_at)"
    told = await query(url, f"SELECT {columns} FROM jobs")
    for at in told[0]:
        assert began - 2 <= at / 1000 <= time.time() + 2
    runs = tally_of(load).by_job()
    for job in load.accepted.values():
        if runs_needed(job) == 2:
            first, second = runs[job.job_id]
            assert first.end is not None
            assert 0.2 <= (second.start - first.end) / 1e9 <= 10  # RETRY_DELAY_MS=250, ± 20 %
    logs = "".join(program.log for program in skewed.programs["controlplane"])
    assert " lost tokens" not in logs
    assert " orphaned tokens" not in logs


async def test_a_dead_workers_jobs_are_taken_over_in_time(skewed: Skewed) -> None:
    """Not before its lease is over, and not minutes later."""
    async with Load(
        skewed.fleet,
        addresses=skewed.job_apis,
        mix={"slow": 1.0},
        payloads={"slow": {"seconds": 4.0}},
        rate=20,
    ) as load:
        await load.reach(12)
        await load.stop()
        mine = {job.job_id for job in load.accepted.values()}
        await until(lambda: mine <= tally_of(load).by_job().keys(), 10, "all run")
        killed_at = time.monotonic_ns()
        victim = skewed.programs["worker"][0]
        theirs = {run.job_id for run in tally_of(load).runs() if run.pid == victim.pid and run.job_id in mine}
        assert 0 < len(theirs) < len(mine)
        await asyncio.to_thread(victim.kill)
        figures = await everything_done(load)
        print(figures)
    again = {
        run.job_id: run.start for run in tally_of(load).runs() if run.delivery == 2 and run.job_id in mine
    }
    assert again.keys() == theirs
    for start in again.values():
        assert (
            0.5 <= (start - killed_at) / 1e9 <= 10
        )  # the lease of 2 s was renewed within the last second and a half
    assert figures.repeated_successes == 0
