"""Submitting: one commit for all who submit at once, "accepted" only after it, and every row answered for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from jobapi.admission import Admission
from jobapi.backlog import Backlog
from jobapi.submit import Submitter
from jobapi.types import Types
from jobkit.adapters.embedded.dispatcher import EmbeddedDispatcher
from jobkit.adapters.embedded.signals import EmbeddedSignals
from jobkit.domain.errors import AlreadyExists, Exhausted, InvalidJob, Unavailable, store_unavailable
from jobkit.domain.job import JobState, NewJob, OnOpen
from jobkit.host.world import new_id
from jobkit.ports import Accepted, TypeInfo
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.publisher import Publisher
from jobkit.runtime.tracing import Tracing


class Database:
    """The ports that submitting needs, in memory: it can be slow, away, or away after the commit."""

    def __init__(self) -> None:
        self.batches: list[list[UUID]] = []
        self.sessions: list[UUID | None] = []
        self.types: dict[str, TypeInfo] = {}
        self.answers: dict[str, Accepted | Exception] = {}
        self.error: Exception | None = None
        self.room = 10
        self.beats: list[UUID | None] = []
        self.orphaned: list[UUID] = []
        self.go = asyncio.Event()
        self.go.set()

    # Intake
    async def insert(
        self, batch: Sequence[NewJob], *, session: UUID | None, now: int, marks: Mapping[str, int]
    ) -> list[Accepted | Exception]:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.batches.append([job.job_id for job in batch])
        self.sessions.append(session)
        return [self.answers.get(job.request_id, Accepted(job.job_id, existed=False)) for job in batch]

    # TypeCatalog
    async def ensure(self, names: Sequence[str], limit: int) -> list[str]:
        unfit = []
        for name in sorted(names):
            if name not in self.types and len(self.types) >= limit:
                unfit.append(name)
            else:
                self.types.setdefault(name, TypeInfo(name))
        return unfit

    async def all(self) -> dict[str, TypeInfo]:
        return dict(self.types)

    # Presence
    async def served_types(self, within: Any) -> set[str]:
        return {"email"}

    # Sessions
    async def beat(self, session: UUID, component: str, confirmed_to: UUID | None) -> int:
        self.beats.append(confirmed_to)
        return 1_000_000

    async def orphan(self, session: UUID, ids: Sequence[UUID]) -> None:
        self.orphaned += ids


class Door:
    """A submitter and what stands around it."""

    def __init__(self) -> None:
        self.database: Any = Database()
        self.broker = EmbeddedDispatcher()
        self.clock = DatabaseClock()
        self.registry = CollectorRegistry()
        self.publisher = Publisher("jobapi", self.broker, self.database, self.clock, new_id)
        self.types = Types(self.database, self.database, EmbeddedSignals(), 2, timedelta(minutes=1))
        admission = Admission(self.types, Backlog(self.database, 0), self.clock)
        self.submitter = Submitter(
            self.database, admission, self.publisher, self.clock, Tracing(None), self.registry
        )

    def submitted(self, job_type: str) -> float | None:
        return self.registry.get_sample_value("selfheal_jobs_submitted_total", {"job_type": job_type})


@pytest.fixture
async def door() -> Door:
    door = Door()
    await door.broker.start()
    return door


def new(job_type: str = "email", **fields: Any) -> NewJob:
    return NewJob(new_id(), job_type, b"{}", **fields)


async def test_a_submit_is_committed_under_the_session_then_published(door: Door) -> None:
    job = new()
    accepted = await door.submitter.submit(job)
    assert accepted == Accepted(job.job_id, existed=False)
    assert door.database.sessions == [door.publisher.session]
    await asyncio.sleep(0.01)
    assert await door.broker.depth("email") == 1
    assert door.submitted("email") == 1
    recorded = door.submitter.as_recorded(job)
    assert (recorded.state, recorded.job_id) == (JobState.QUEUED, job.job_id)


async def test_submits_of_one_moment_share_a_commit(door: Door) -> None:
    batch = [new() for _ in range(50)]
    await asyncio.gather(*map(door.submitter.submit, batch))
    assert door.database.batches == [[job.job_id for job in batch]]


async def test_nobody_is_told_accepted_before_the_commit(door: Door) -> None:
    door.database.go.clear()
    submitting = asyncio.create_task(door.submitter.submit(new()))
    await asyncio.sleep(0.01)
    assert not submitting.done()
    assert await door.broker.depth("email") == 0
    door.database.go.set()
    await submitting


async def test_a_beat_during_the_way_to_the_commit_does_not_confirm_the_job(door: Door) -> None:
    door.database.go.clear()
    first = asyncio.create_task(door.submitter.submit(new()))
    await asyncio.sleep(0)
    job = new()  # it waits behind the first batches
    waiting = [asyncio.create_task(door.submitter.submit(each)) for each in (new(), job)]
    await asyncio.sleep(0.01)
    await door.publisher.beat()
    assert door.database.beats[0] <= job.job_id
    door.database.go.set()
    await asyncio.gather(first, *waiting)
    await asyncio.sleep(0.01)
    await door.publisher.beat()
    assert door.database.beats[1] > job.job_id


async def test_without_the_broker_rows_are_pending_and_not_published(door: Door) -> None:
    await door.broker.close()
    job = new()
    await door.submitter.submit(job)
    assert door.database.sessions == [None]
    assert door.submitter.as_recorded(job).state is JobState.PENDING
    await door.publisher.beat()
    assert door.database.beats[0] > job.job_id


async def test_a_commit_that_may_have_happened_is_disowned(door: Door) -> None:
    door.database.error = store_unavailable("database")
    job = new()
    with pytest.raises(Unavailable):
        await door.submitter.submit(job)
    await door.publisher.beat()
    assert door.database.orphaned == [job.job_id]
    assert door.submitted("email") is None


async def test_existing_and_refused_items_are_answered_one_by_one(door: Door) -> None:
    earlier = Accepted(new_id(), existed=True)
    reused = AlreadyExists("used", reason="REQUEST_ID_REUSED")
    door.database.answers = {"same": earlier, "other": reused}
    batch = [new(), new(request_id="same"), new(request_id="other"), new("sms"), new("third")]
    answers = await door.submitter.submit_many(batch)
    assert answers[0] == Accepted(batch[0].job_id, existed=False)
    assert answers[1:3] == [earlier, reused]
    assert answers[3] == Accepted(batch[3].job_id, existed=False)
    assert isinstance(answers[4], Exhausted)
    assert answers[4].reason == "TOO_MANY_JOB_TYPES"
    assert door.submitted("email") == 1
    await asyncio.sleep(0.01)
    await door.publisher.beat()
    assert door.database.beats[0] > batch[-1].job_id  # nothing is left that anybody answers for


async def test_too_many_types_refuse_a_single_submit_too(door: Door) -> None:
    for name in ("a", "b"):
        await door.submitter.submit(new(name))
    with pytest.raises(Exhausted):
        await door.submitter.submit(new("c"))
    await door.submitter.submit(new("a"))
    await asyncio.sleep(0.01)
    await door.publisher.beat()
    assert door.database.beats[0] > door.database.batches[-1][-1]


async def test_a_whole_batch_that_cannot_be_looked_at_raises(door: Door, monkeypatch: Any) -> None:
    async def away(names: Sequence[str], limit: int) -> list[str]:
        raise store_unavailable("database")

    monkeypatch.setattr(door.database, "ensure", away)
    with pytest.raises(Unavailable):
        await door.submitter.submit_many([new()])


async def test_an_unforeseen_error_reaches_the_caller(door: Door) -> None:
    door.database.error = InvalidJob([])
    (answer,) = await door.submitter.submit_many([new()])
    assert isinstance(answer, InvalidJob)
    await door.submitter.drain()


# -- on_open=REJECT --------------------------------------------------------------------------------------------


async def hold(door: Door, until: int | None, breaker: str = "email") -> None:
    door.database.types["email"] = TypeInfo(
        "email", 1, held=True, held_since=0, held_until=until, held_breaker=breaker
    )
    await door.types.refresh()


async def test_reject_is_refused_while_the_type_is_held_with_the_time_that_is_left(door: Door) -> None:
    await hold(door, door.clock.now() + 5_000)
    with pytest.raises(Unavailable) as refused:
        await door.submitter.submit(new(on_open=OnOpen.REJECT))
    assert refused.value.reason == "BREAKER_OPEN"
    assert 4 < refused.value.retry_after.total_seconds() <= 5
    await door.submitter.submit(new(on_open=OnOpen.HOLD))


async def test_reject_without_an_end_in_sight_advises_the_cooldown(door: Door) -> None:
    await hold(door, None)
    with pytest.raises(Unavailable) as refused:
        await door.submitter.submit(new(on_open=OnOpen.REJECT))
    assert refused.value.retry_after.total_seconds() == 60


@pytest.mark.parametrize("breaker", ["email", "@smtp"])
async def test_reject_names_the_breaker_that_holds_the_type(door: Door, breaker: str) -> None:
    await hold(door, None, breaker)
    with pytest.raises(Unavailable) as refused:
        await door.submitter.submit(new(on_open=OnOpen.REJECT))
    assert refused.value.message == f"job type 'email' is held: breaker '{breaker}' is open"
    assert refused.value.metadata == {"breaker": breaker, "jobType": "email"}


async def test_reject_is_accepted_once_the_open_time_has_passed_because_it_is_the_probe(door: Door) -> None:
    await hold(door, door.clock.now() - 1)
    await door.submitter.submit(new(on_open=OnOpen.REJECT))


async def test_a_held_job_is_told_as_held(door: Door) -> None:
    await hold(door, door.clock.now() + 5_000)
    job = new()
    await door.submitter.submit(job)
    recorded = door.submitter.as_recorded(job)
    assert recorded.state is JobState.QUARANTINED
    assert recorded.holds == 1
    assert door.types.mark("email") == 0
    assert door.types.mark("unknown") == 0


async def test_which_types_are_served(door: Door) -> None:
    assert door.types.served("anything")  # nobody was asked yet
    await door.types.refresh()
    assert (door.types.served("email"), door.types.served("sms")) == (True, False)
