"""A redrive whose control planes are killed again and again: it goes on, sends nothing twice and loses nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from selfheal.control.v1 import quarantine_pb2 as wire
from selfheal.control.v1 import quarantine_service_pb2 as api
from selfheal.control.v1.quarantine_service_pb2_grpc import QuarantineServiceStub
from selfheal.jobs.v1 import job_service_pb2
from selfheal.jobs.v1.job_service_pb2_grpc import JobServiceStub

from tests.faults.kit import Kept, Supervisor, keep_all, query, read_rows, until
from tests.faults.verdict import Tally
from tests.system.client import submission
from tests.system.fleet import Fleet, Ports

RATE = 250.0


async def quarantine_all(fleet: Fleet, refusing: Path, count: int) -> None:
    """So many jobs that wait for a person; from now on they would succeed."""
    refusing.touch()
    kind = fleet.handled("refused")
    async with grpc.aio.insecure_channel(fleet.ports.grpc("jobapi")) as channel:
        stub: Any = JobServiceStub(channel)
        items = [submission(kind, {"while": str(refusing)}) for _ in range(count)]
        await stub.BatchSubmitJobs(job_service_pb2.BatchSubmitJobsRequest(requests=items))

    async def all_there() -> bool:
        found = await query(
            fleet.environ["DATABASE_URL"], "SELECT count(*) FROM jobs WHERE state = 'QUARANTINED'"
        )
        return bool(found[0][0] == count)

    await until(all_there, 60, "all jobs quarantined")
    refusing.unlink()


class Watch:
    """Asks whichever control plane answers how far the redrive is."""

    def __init__(self, addresses: list[str], redrive_id: str) -> None:
        self._addresses, self._id = addresses, redrive_id

    async def look(self) -> wire.Redrive:
        while True:
            for address in self._addresses:
                async with grpc.aio.insecure_channel(address) as channel:
                    stub: Any = QuarantineServiceStub(channel)
                    try:
                        return (
                            await stub.GetRedrive(api.GetRedriveRequest(redrive_id=self._id), timeout=2)
                        ).redrive
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.05)

    async def sent(self, count: int) -> None:
        async def enough() -> bool:
            return (await self.look()).progress.redriven >= count

        await until(enough, 60, f"{count} jobs sent")


@pytest.mark.parametrize(
    ("jobs", "kills"), [pytest.param(750, 2, marks=pytest.mark.short), pytest.param(2_000, 5)]
)
async def test_control_planes_killed_midway(faulty: Fleet, tmp_path: Path, jobs: int, kills: int) -> None:
    async with Supervisor(faulty) as supervisor:
        first = keep_all(supervisor)["controlplane"]
        ports = Ports()
        second = supervisor.keep("controlplane", ports=ports)
        await supervisor.ready()
        await quarantine_all(faulty, tmp_path / "refusing", jobs)
        addresses = [faulty.ports.grpc("controlplane"), ports.grpc("controlplane")]
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            stub: Any = QuarantineServiceStub(channel)
            request = api.RedriveJobsRequest(rate=RATE, actor="ada", reason="repaired", request_id="once")
            redrive = (await stub.RedriveJobs(request, timeout=10)).redrive
        assert redrive.progress.total == jobs
        watch = Watch(addresses, redrive.redrive_id)
        for strike in range(1, kills + 1):
            await watch.sent(strike * jobs // (kills + 2))
            for one in (first, second)[: 1 + strike % 2]:  # one of them, or both at once
                Kept.kill(one)
            await supervisor.ready()

        async def done() -> bool:
            return (await watch.look()).state != wire.REDRIVE_STATE_RUNNING

        await until(done, 90, "the redrive done")
        last = await watch.look()
    assert last.state == wire.REDRIVE_STATE_DONE
    told = {field.name: value for field, value in last.progress.ListFields()}
    assert told == {"total": jobs, "redriven": jobs, "succeeded": jobs}
    rows = await read_rows(faulty.environ["DATABASE_URL"])
    assert {(row.state, row.attempts, row.deliveries) for row in rows} == {("SUCCEEDED", 2, 2)}
    runs = Tally(Path(faulty.environ["FAULT_TALLY"])).by_job()
    assert {len(of_one) for of_one in runs.values()} == {2}
    print(f"{len(first.deaths) + len(second.deaths)} SIGKILLs over {jobs} jobs at {RATE:g}/s")
