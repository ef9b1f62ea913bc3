"""Rows whose token is not on its way although it should be: found, made ours, published once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

import controlplane.reconcilers.overdue as module
from controlplane.reconcilers.overdue import Overdue
from jobkit.adapters.sql.tables import jobs, publishers
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import store_unavailable
from jobkit.domain.job import JobState, NewJob, Token
from jobkit.domain.tripping import open_by_hand
from jobkit.host.world import World, new_id
from jobkit.ports import Delivery, Lane
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.finished import finished
from jobkit.runtime.lifecycle import Loops
from jobkit.runtime.publisher import Publisher
from jobkit.runtime.settings import Settings, load
from tests.integration.stage import Place, Stage, Trade, eventually

MINUTE = 60_000
DEAD = UUID(int=7)


class Room:
    """A world without components: rows are put as an accident left them, and tokens are counted."""

    def __init__(self, place: Place) -> None:
        self.world = World("test", load(Settings, place.environ, embedded=True), {})
        self.type = place.type("email")
        self.publisher = self._publisher()
        self.metrics = CollectorRegistry()
        self.overdue = Overdue(self.world, self.publisher, finished(self.metrics), 60.0, 0.3)
        self.tokens: list[Token] = []
        self.lane: Lane | None = None

    def _publisher(self) -> Publisher:
        return Publisher("test", self.world.dispatcher, self.world.sessions, DatabaseClock(), new_id)

    async def open(self) -> None:
        await self.world.migrate()
        await self.world.open()
        await self.publisher.beat()
        await self.world.types.ensure([self.type], 10)

    async def listen(self) -> None:
        """Take what is published, and leave it unacknowledged."""
        self.lane = await self.world.dispatcher.open_lane(self.type, self._receive)
        await self.lane.consume(2000)

    def _receive(self, delivery: Delivery) -> None:
        assert delivery.token is not None
        self.tokens.append(delivery.token)

    async def received(self, *ids: UUID) -> None:
        async def read() -> list[UUID]:
            return [token.job_id for token in self.tokens]

        await eventually(read, lambda found: found == list(ids), 5)

    async def insert(self, count: int = 1, *, session: UUID | None = None, age: int = 0) -> list[UUID]:
        """Rows that were accepted `age` ms ago."""
        now = await self.world.database.now() - age
        batch = [NewJob(new_id(), self.type, b"{}") for _ in range(count)]
        for start in range(0, count, 500):
            part = batch[start : start + 500]
            await self.world.intake.insert(part, session=session, now=now, marks={})
        return [job.job_id for job in batch]

    async def change(self, job_id: UUID, **values: object) -> None:
        statement = sa.update(jobs).where(jobs.c.job_id == job_id).values(**values)
        await self.world.database.write(lambda connection: connection.execute(statement))

    async def forget_beat(self, session: UUID, confirmed_to: UUID | None, age: int = MINUTE) -> None:
        """A publisher that was last heard of `age` ms ago."""
        await self.world.sessions.beat(session, "jobapi", confirmed_to)
        now = await self.world.database.now()
        late = sa.update(publishers).where(publishers.c.session_id == session).values(beat_at=now - age)
        await self.world.database.write(lambda connection: connection.execute(late))

    async def hold(self) -> None:
        now = await self.world.breakers.now()
        record = open_by_hand(BreakerRecord(self.type), now, None, "ops", "a test")
        await self.world.breakers.swap(self.type, 0, record)
        await self.world.ledger.record(record)


@pytest.fixture
async def room(place: Place) -> AsyncIterator[Room]:
    room = Room(place)
    await room.open()
    yield room
    await room.world.close()


@pytest.fixture
async def small(embedded: Place) -> AsyncIterator[Room]:
    room = Room(embedded)
    await room.open()
    yield room
    await room.world.close()


async def test_nobodys_rows_are_published_in_order(room: Room) -> None:
    await room.listen()
    ids = await room.insert(1200)
    await room.overdue.publish_nobodys()
    await room.received(*ids)
    await room.overdue.publish_nobodys()
    await asyncio.sleep(0.05)
    assert len(room.tokens) == 1200
    found = await room.world.reader.get(ids)
    assert {job.state for job in found.values()} == {JobState.QUEUED}


async def test_nobodys_rows_wait_for_their_time(small: Room) -> None:
    await small.listen()
    (job_id,) = await small.insert()
    await small.change(job_id, due_at=await small.world.database.now() + MINUTE)
    await small.overdue.publish_nobodys()
    await asyncio.sleep(0.05)
    assert small.tokens == []


async def test_without_the_broker_nothing_is_taken(small: Room) -> None:
    (job_id,) = await small.insert()
    await small.world.dispatcher.close()
    await small.overdue.publish_nobodys()
    await small.overdue.publish_orphaned()
    await small.overdue.publish_lost()
    assert (await small.world.reader.get([job_id]))[job_id].state is JobState.PENDING


async def test_a_dead_publishers_rows_are_published_from_its_confirmed_to_on(room: Room) -> None:
    await room.listen()
    settled, *rest = await room.insert(1100, session=DEAD)
    await room.forget_beat(DEAD, rest[0])
    await room.overdue.publish_orphaned()
    await room.received(*rest)
    assert settled not in [token.job_id for token in room.tokens]
    await room.overdue.publish_orphaned()
    await asyncio.sleep(0.05)
    assert len(room.tokens) == len(rest)


async def test_a_publisher_that_beats_is_left_alone(small: Room) -> None:
    await small.listen()
    await small.insert(3, session=DEAD)
    await small.forget_beat(DEAD, None, age=2_000)
    await small.overdue.publish_orphaned()
    await asyncio.sleep(0.05)
    assert small.tokens == []


async def test_after_an_outage_nobody_takes_its_own_rows_for_a_dead_ones(small: Room) -> None:
    await small.listen()
    session = small.publisher.session
    await small.insert(600, session=session)
    await small.forget_beat(session, UUID(int=0))
    async with asyncio.timeout(5):
        await small.overdue.publish_orphaned()
    assert small.tokens == []


async def test_what_lies_well_behind_the_front_has_lost_its_token(room: Room) -> None:
    lost = await room.insert(3, session=DEAD, age=5 * MINUTE)
    near = await room.insert(1, session=DEAD, age=MINUTE // 2)
    await room.listen()
    now = await room.world.database.now()
    await room.world.presence.beat("w1", [room.type], {room.type: now})
    await room.overdue.publish_lost()
    await room.received(*lost)
    await room.overdue.publish_lost()
    await asyncio.sleep(0.05)
    assert len(room.tokens) == 3
    assert near[0] not in [token.job_id for token in room.tokens]


async def test_an_old_row_of_an_empty_queue_has_lost_its_token(room: Room) -> None:
    ids = await room.insert(2, session=DEAD, age=2 * MINUTE)
    await room.overdue.publish_lost()
    assert await room.world.dispatcher.depth(room.type) == 2
    await room.listen()
    await room.received(*ids)


async def test_time_alone_makes_no_row_of_a_backlog_overdue(room: Room) -> None:
    """Something lies on the queue, and nothing says that it is not this."""
    (first,) = await room.insert()
    await room.overdue.publish_nobodys()
    await room.insert(20, session=DEAD, age=30 * MINUTE)
    await room.overdue.publish_lost()
    assert await room.world.dispatcher.depth(room.type) == 1
    await room.listen()
    await room.received(first)


async def test_held_jobs_are_not_overdue_however_long_they_wait(small: Room) -> None:
    await small.insert()
    await small.overdue.publish_nobodys()
    ids = await small.insert(10, session=DEAD, age=30 * MINUTE)
    await small.hold()
    now = await small.world.database.now()
    await small.world.presence.beat("w1", [small.type], {small.type: now})  # a probe's front says nothing
    before = await small.world.reader.get(ids)
    for _ in range(3):
        await small.overdue.publish_nobodys()
        await small.overdue.publish_orphaned()
        await small.overdue.publish_lost()
    assert await small.world.reader.get(ids) == before
    assert await small.world.dispatcher.depth(small.type) == 1


async def claim(room: Room, job_id: UUID, lease: float) -> None:
    await room.world.work.claim([job_id], claim_id=new_id(), worker_id="dead", lease=timedelta(seconds=lease))


async def test_rescue_waits_a_whole_lease_that_it_saw_unrenewed(room: Room) -> None:
    await room.listen()
    (job_id,) = await room.insert(session=DEAD)
    await claim(room, job_id, 0.001)
    await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not room.tokens:
        await room.overdue.rescue()
        assert loop.time() - started < 5
        await asyncio.sleep(0.05)
    assert loop.time() - started >= 0.3
    job = (await room.world.reader.get([job_id]))[job_id]
    assert (job.state, job.attempts, job.deliveries) == (JobState.QUEUED, 0, 1)


async def test_rescue_begins_anew_after_a_gap_in_its_view(
    small: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_id,) = await small.insert(session=DEAD)
    await claim(small, job_id, 0.001)
    await asyncio.sleep(0.01)
    await small.overdue.rescue()

    async def away(limit: int) -> list[object]:
        raise store_unavailable("database")

    with monkeypatch.context() as outage:
        outage.setattr(small.world.recovery, "expired", away)
        with pytest.raises(Exception, match="unavailable"):
            await small.overdue.rescue()
    await asyncio.sleep(0.32)
    await small.overdue.rescue()  # a whole lease later, but not a lease of looking
    assert (await small.world.reader.get([job_id]))[job_id].state is JobState.RUNNING
    await asyncio.sleep(0.32)
    await small.overdue.rescue()  # nor after a pause that was longer than half a lease
    assert (await small.world.reader.get([job_id]))[job_id].state is JobState.RUNNING


async def test_a_cancelled_job_whose_worker_died_ends_and_is_counted(small: Room) -> None:
    (job_id,) = await small.insert(session=DEAD)
    await claim(small, job_id, 0.001)
    await small.world.steering.cancel(job_id)

    async def state() -> JobState:
        await small.overdue.rescue()
        return (await small.world.reader.get([job_id]))[job_id].state

    await eventually(state, lambda seen: seen is JobState.CANCELLED)
    labels = {"job_type": small.type, "outcome": "cancelled"}
    assert small.metrics.get_sample_value("selfheal_jobs_finished_total", labels) == 1


async def test_a_renewed_lease_is_not_rescued(small: Room) -> None:
    (job_id,) = await small.insert(session=DEAD)
    await claim(small, job_id, 0.001)
    for _ in range(10):
        await small.overdue.rescue()
        now = await small.world.database.now()
        await small.change(job_id, lease_until=now - 1)  # a new value each time: somebody renews, late
        await asyncio.sleep(0.05)
    assert (await small.world.reader.get([job_id]))[job_id].state is JobState.RUNNING


# -- queues that die with their process -----------------------------------------------------------------------


async def test_a_restart_fills_the_queues_from_the_database(
    small: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    first, running, retrying, last = await small.insert(4, session=DEAD)
    await claim(small, running, 3600)
    now = await small.world.database.now()
    await small.change(retrying, state="RETRYING", due_at=now + 400)
    loops = Loops()
    await small.listen()
    await small.overdue.begin_refill(loops)
    assert (await small.world.reader.get([running]))[running].state is JobState.QUEUED
    await small.received(first, running, last, retrying)
    assert await small.world.database.now() >= now + 400
    await loops.stop()


async def test_an_empty_database_fills_nothing(small: Room) -> None:
    loops = Loops()
    await small.overdue.begin_refill(loops)
    await loops.stop()
    assert await small.world.dispatcher.depth(small.type) == 0


async def test_a_control_plane_that_starts_over_the_embedded_queues_fills_them(embedded: Place) -> None:
    email = Trade(embedded.type("email"))
    async with Stage(embedded) as stage:
        await stage.jobapi()
        ids = await stage.submit_many(email.job_type, 30)
    async with Stage(embedded) as stage:
        await stage.controlplane()
        await stage.jobapi()
        await stage.worker(email)
        await stage.all_reach(ids, JobState.SUCCEEDED)
    assert sorted(email.ids) == ids


async def test_killed_between_commit_and_publish_a_job_is_published_again(real: Place) -> None:
    """What `confirmed_to` is for: the id was made before a beat that came before its commit."""
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        api = await stage.jobapi()
        publisher = api.jobs._publisher
        stage_type = email.job_type
        await stage.submit(stage_type)
        held = asyncio.Event()
        ensure = api.jobs._submitter._admission.prepare

        async def slow(names: object) -> object:
            await held.wait()
            return await ensure(names)  # type: ignore[arg-type]

        api.jobs._submitter._admission.prepare = slow  # type: ignore[method-assign,assignment]
        submitting = asyncio.create_task(stage.submit(stage_type))
        await asyncio.sleep(0.05)
        await publisher.beat()
        publisher.send = lambda batch: None  # type: ignore[method-assign]
        held.set()
        job_id = await submitting

        async def confirmed() -> UUID | None:
            statement = sa.select(publishers.c.confirmed_to).where(
                publishers.c.session_id == publisher.session
            )

            async def work(connection):  # type: ignore[no-untyped-def]
                return (await connection.execute(statement)).scalar_one()

            return await stage.world.database.read(work)

        found = await confirmed()
        assert found is not None
        assert found <= job_id
