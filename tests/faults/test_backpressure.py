"""Nothing grows without bound: memory while a broker or a database is slow, backlogs, job types."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from selfheal.jobs.v1 import job_service_pb2, job_service_pb2_grpc

from tests.faults.broker import Vhost
from tests.faults.kit import Load, Servers, everything_done, make_fleet, query, read_rows
from tests.faults.proxy import Proxy
from tests.system.client import Client, eventually, read_status, submission
from tests.system.fleet import COMPONENTS, Fleet, Ports, Program

MIB = 1 << 20
ACCEPTED = "ACCEPTED"


def rss(program: Program) -> int:
    """Resident memory in bytes."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


class Memory:
    """The most that each program has used since it was last asked."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self._programs = programs

    async def peak(self, seconds: float) -> dict[str, int]:
        peaks: Counter[str] = Counter()
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            for program in self._programs:
                peaks[program.arguments[0]] = max(peaks[program.arguments[0]], rss(program))
            await asyncio.sleep(0.1)
        return dict(peaks)


async def test_memory_while_the_broker_blocks(battered: Fleet, vhost: Vhost) -> None:
    memory = Memory(battered.programs)
    async with Load(battered, rate=300, mix={"good": 1.0}) as load:
        await load.reach(100)
        usual = await memory.peak(2)
        accepted = len(load.accepted)
        await asyncio.to_thread(vhost.alarm)
        try:
            blocked = await memory.peak(4)
        finally:
            await asyncio.to_thread(vhost.calm)
        during = len(load.accepted) - accepted
        figures = await everything_done(load)
    growth = {name: (blocked[name] - usual[name]) // MIB for name in usual}
    print(f"broker blocked: {during} accepted meanwhile, memory grew by {growth} MiB: {figures}")
    assert not figures.refusals
    assert max(growth.values()) < 40


@dataclass(frozen=True)
class House:
    """Job APIs without a worker, whose database is behind a proxy."""

    fleet: Fleet
    database: Proxy

    def jobapi(self, **environ: str) -> tuple[Program, str]:
        """One more, with settings of its own; the process and its address."""
        ports = Ports()
        program = self.fleet.spawn("jobapi", ports=ports, **environ)
        return program.await_ready(f"{ports.http('jobapi')}/health/ready"), ports.grpc("jobapi")


@pytest.fixture(scope="module")
def house(fault_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    room = fault_servers.room()
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(room["DATABASE_URL"]))
        fleet = make_fleet(tmp_path_factory.mktemp("house"), {**room, "DATABASE_URL": proxy.url})
        stack.callback(fleet.stop)
        fleet.spawn("controlplane").await_ready(f"{fleet.ports.http('controlplane')}/health/ready")
        yield House(fleet, proxy)


class Answers(Counter[str]):
    """Submits by what was answered; each refusal must say when to come back."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    async def submit(self, address: str, batch: list[job_service_pb2.SubmitJobRequest]) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            try:
                request = job_service_pb2.BatchSubmitJobsRequest(requests=batch)
                answer = await stub.BatchSubmitJobs(request, timeout=30)
            except grpc.aio.AioRpcError as error:
                self[error.code().name] += len(batch)
                return
        for result in answer.results:
            if result.HasField("job"):
                self.ids.append(result.job.job_id)
                self[ACCEPTED] += 1
                continue
            code = next(code for code in grpc.StatusCode if code.value[0] == result.status.code)
            told = read_status(result.status, code)
            assert told.retry is not None, told
            assert told.retry.retry_delay.ToNanoseconds() > 0
            self[told.info.reason] += 1

    async def flood(self, address: str, batches: Sequence[list[job_service_pb2.SubmitJobRequest]]) -> None:
        await asyncio.gather(*(self.submit(address, batch) for batch in batches))


async def test_memory_while_the_database_stalls(house: House) -> None:
    """No more than 32 MiB of submits wait; however many more come, they are refused and leave no trace."""
    program, address = house.jobapi(DATABASE_TIMEOUT="15")
    memory = Memory([program])
    batch = [submission(house.fleet.handled("good"), {"padding": "x" * 10_000})] * 50  # half a megabyte
    answers = Answers()
    for _ in range(10):
        await answers.submit(address, batch)
    usual = (await memory.peak(0.2))["jobapi"]
    house.database.stall()
    waiting: list[asyncio.Task[None]] = []
    try:
        while not answers["TOO_MANY_REQUESTS"]:  # a batch that waits for the database is not answered
            waiting.append(asyncio.create_task(answers.submit(address, batch)))
            await asyncio.sleep(0.01)
        full = (await memory.peak(0.5))["jobapi"]
        for _ in range(150):
            await answers.submit(address, batch)
        fuller = (await memory.peak(0.2))["jobapi"]
    finally:
        house.database.heal()
    await asyncio.gather(*waiting)
    sizes = [size // MIB for size in (usual, full, fuller)]
    print(f"database stalled: {len(waiting)} calls waited: {dict(answers)}; memory {sizes} MiB")
    assert answers["TOO_MANY_REQUESTS"] > 150 * len(batch)
    assert full - usual < 200 * MIB
    assert fuller - full < 40 * MIB
    known = {row.job_id for row in await read_rows(house.fleet.environ["DATABASE_URL"])}
    assert known >= set(answers.ids)
    # And it recovers: what is submitted now is accepted.
    after = Answers()
    await after.submit(address, batch)
    assert after == {ACCEPTED: len(batch)}


async def test_memory_of_all_three_while_the_database_hangs(fault_servers: Servers, tmp_path: Path) -> None:
    """Workers with more to do than they have slots, and a control plane: nothing gathers in them either."""
    room = fault_servers.room()
    with Proxy(room["DATABASE_URL"]) as database:
        fleet = make_fleet(tmp_path, {**room, "DATABASE_URL": database.url}, DATABASE_TIMEOUT="3")
        try:
            fleet.start()
            await hang_under_load(fleet, database)
        finally:
            database.heal()
            fleet.stop()


async def hang_under_load(fleet: Fleet, database: Proxy) -> None:
    """Memory before, while every statement times out, and later on, while all the more do."""
    memory = Memory(fleet.programs)
    padding = {"padding": "x" * 10_000}
    payloads = {"slow": {"seconds": 1.0, **padding}, "good": padding}
    async with Load(fleet, rate=300, mix={"good": 0.8, "slow": 0.2}, payloads=payloads) as load:
        await load.reach(1500)
        usual = await memory.peak(2)
        database.stall()
        hung = await memory.peak(8)
        longer = await memory.peak(8)
        database.heal()
        figures = await everything_done(load, timeout=90)
    first = {name: (hung[name] - usual[name]) // MIB for name in usual}
    then = {name: (longer[name] - hung[name]) // MIB for name in usual}
    print(f"database hung: memory grew by {first} MiB in 8 s, by {then} MiB in 8 more: {figures}")
    assert first.keys() == set(COMPONENTS)
    assert max(first.values()) < 40
    assert max(then.values()) < 10


@pytest.mark.short
async def test_a_full_backlog_is_refused_until_there_is_room(house: House) -> None:
    """The bound holds for submits that come all at once as well."""
    limit = 150
    _, address = house.jobapi(MAX_BACKLOG=str(limit))
    fleet, answers = house.fleet, Answers()
    one = submission(fleet.handled("slow"), {"seconds": 0.01})
    await answers.flood(address, [[one] * 100 for _ in range(10)])
    assert answers == {ACCEPTED: limit, "BACKLOG_FULL": 1000 - limit}
    async with Client(fleet) as client:
        another = Answers()
        await another.submit(address, [submission(fleet.handled("plain"))])
        assert another == {ACCEPTED: 1}
        worker, _ = fleet.worker()
        later = Answers()

        async def again() -> int:
            await later.submit(address, [one])
            return later[ACCEPTED]

        await eventually(again, lambda accepted: accepted > 0)
        assert client.fleet is fleet
    worker.stop()


@pytest.mark.short
async def test_a_flood_of_invented_job_types_is_bounded(house: House) -> None:
    url = house.fleet.environ["DATABASE_URL"]
    (known,) = await query(url, "SELECT count(*) FROM job_types")
    limit = int(str(known[0])) + 5
    _, address = house.jobapi(MAX_JOB_TYPES=str(limit))
    answers = Answers()
    invented = [[submission(f"invented-{uuid.uuid4().hex}") for _ in range(20)] for _ in range(50)]
    flood = asyncio.create_task(answers.flood(address, invented))
    honest = Answers()
    loop = asyncio.get_running_loop()
    slowest = 0.0
    while not flood.done():
        began = loop.time()
        await honest.submit(address, [submission(house.fleet.handled("good"))])
        slowest = max(slowest, loop.time() - began)
    print(f"invented types: {dict(answers)}; beside them {honest[ACCEPTED]} submits, slowest {slowest:.2f} s")
    assert answers == {ACCEPTED: 5, "TOO_MANY_JOB_TYPES": 995}
    assert set(honest) == {ACCEPTED}
    (now,) = await query(url, "SELECT count(*) FROM job_types")
    assert int(str(now[0])) == limit
