"""What a publisher session answers for: `confirmed_to` stays below every id whose publish is not settled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from jobkit.adapters.embedded.dispatcher import EmbeddedDispatcher
from jobkit.domain.errors import Unavailable, store_unavailable
from jobkit.domain.job import Token
from jobkit.host.world import new_id
from jobkit.ports import Dispatch
from jobkit.runtime import publisher as module
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.publisher import Publisher


class Sessions:
    """The port in memory, which can be away."""

    def __init__(self) -> None:
        self.beats: list[UUID | None] = []
        self.orphaned: list[list[UUID]] = []
        self.left: list[UUID] = []
        self.away = False
        self.slow: asyncio.Event | None = None

    async def beat(self, session: UUID, component: str, confirmed_to: UUID | None) -> int:
        self._check()
        self.beats.append(confirmed_to)
        return 1_000_000

    async def orphan(self, session: UUID, ids: Sequence[UUID]) -> None:
        if self.slow is not None:
            await self.slow.wait()
        self._check()
        self.orphaned.append(list(ids))

    async def leave(self, session: UUID) -> None:
        self._check()
        self.left.append(session)

    def _check(self) -> None:
        if self.away:
            raise store_unavailable("database")


class Broker(EmbeddedDispatcher):
    """The embedded queues behind a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.refused: set[UUID] = set()
        self.broken = False

    async def publish(self, batch: Sequence[Dispatch]) -> list[bool]:
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("a bug")
        good = [item for item in batch if item.token.job_id not in self.refused]
        await super().publish(good)
        return [item in good for item in batch]


@pytest.fixture
async def broker() -> Broker:
    broker = Broker()
    await broker.start()
    return broker


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


@pytest.fixture
async def publisher(broker: Broker, sessions: Sessions) -> Publisher:
    return Publisher("test", broker, sessions, DatabaseClock(), new_id)


def dispatches(*ids: UUID) -> list[Dispatch]:
    return [Dispatch(Token(job_id, "email")) for job_id in ids]


def test_ids_of_one_process_rise() -> None:
    ids = [new_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))


async def test_with_all_settled_a_beat_confirms_everything_up_to_now(
    publisher: Publisher, sessions: Sessions
) -> None:
    before = new_id()
    await publisher.beat()
    (confirmed,) = sessions.beats
    assert confirmed is not None
    assert before < confirmed < new_id()


async def test_confirmed_to_is_the_smallest_id_that_is_not_settled(
    publisher: Publisher, broker: Broker, sessions: Sessions
) -> None:
    old, young = new_id(), new_id()
    publisher.expect([young, old])
    await publisher.beat()
    publisher.forget([old])
    await publisher.beat()
    broker.gate.clear()
    publisher.send(dispatches(young))
    await publisher.beat()
    assert sessions.beats == [old, young, young]
    broker.gate.set()
    await publisher.stop()
    await publisher.beat()
    assert sessions.beats[-1] is not None
    assert sessions.beats[-1] > young


async def test_ids_made_before_a_beat_and_expected_after_it_lower_the_next(
    publisher: Publisher, sessions: Sessions
) -> None:
    old = new_id()
    await publisher.beat()
    publisher.expect([old])
    await publisher.beat()
    assert sessions.beats[1] == old


async def test_publish_returns_once_the_tokens_are_on_the_broker(
    publisher: Publisher, broker: Broker
) -> None:
    broker.gate.clear()
    publishing = asyncio.create_task(publisher.publish(dispatches(new_id(), new_id())))
    await asyncio.sleep(0.01)
    assert not publishing.done()
    broker.gate.set()
    await publishing
    assert await broker.depth("email") == 2


async def test_what_the_broker_refuses_becomes_nobodys(
    publisher: Publisher, broker: Broker, sessions: Sessions
) -> None:
    good, bad = new_id(), new_id()
    broker.refused.add(bad)
    await publisher.publish(dispatches(good, bad))
    assert sessions.orphaned == [[bad]]
    await publisher.beat()
    assert sessions.beats[0] is not None
    assert sessions.beats[0] > bad


async def test_a_publish_that_raises_is_a_failed_one(
    publisher: Publisher, broker: Broker, sessions: Sessions
) -> None:
    broker.broken = True
    job_id = new_id()
    await publisher.publish(dispatches(job_id))
    assert sessions.orphaned == [[job_id]]


async def test_orphaning_waits_for_the_database(
    publisher: Publisher, broker: Broker, sessions: Sessions
) -> None:
    job_id = new_id()
    broker.refused.add(job_id)
    sessions.away = True
    await publisher.publish(dispatches(job_id))
    await publisher.stop()
    assert sessions.left == []
    sessions.away = False
    await publisher.beat()
    assert sessions.orphaned == [[job_id]]
    assert sessions.beats[0] is not None
    assert sessions.beats[0] > job_id


async def test_while_orphaning_fails_the_id_is_not_confirmed(
    publisher: Publisher, broker: Broker, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = new_id()
    broker.refused.add(job_id)

    async def away(session: UUID, ids: Sequence[UUID]) -> None:
        raise store_unavailable("database")

    monkeypatch.setattr(sessions, "orphan", away)
    await publisher.publish(dispatches(job_id))
    await publisher.beat()
    assert sessions.beats == [job_id]


async def test_many_failures_at_once_share_few_statements(
    publisher: Publisher, broker: Broker, sessions: Sessions
) -> None:
    ids = [new_id() for _ in range(1200)]
    broker.refused.update(ids)
    sessions.slow = asyncio.Event()
    publishing = [asyncio.create_task(publisher.publish(dispatches(job_id))) for job_id in ids]
    await asyncio.sleep(0.05)
    sessions.slow.set()
    await asyncio.gather(*publishing)
    assert sorted(job_id for batch in sessions.orphaned for job_id in batch) == ids
    assert len(sessions.orphaned) <= 5


async def test_rows_whose_commit_is_unknown_become_nobodys_with_the_next_beat(
    publisher: Publisher, sessions: Sessions
) -> None:
    job_id = new_id()
    publisher.expect([job_id])
    publisher.disown([job_id])
    await publisher.beat()
    assert sessions.orphaned == [[job_id]]
    assert sessions.beats[0] is not None
    assert sessions.beats[0] > job_id


async def test_no_beat_confirms_while_old_rows_are_being_taken(
    publisher: Publisher, sessions: Sessions
) -> None:
    old = new_id()
    async with publisher.taking():
        beating = asyncio.create_task(publisher.beat())
        await asyncio.sleep(0.01)
        assert sessions.beats == []
        publisher.expect([old])
    await beating
    assert sessions.beats == [old]


async def test_a_new_row_is_queued_only_with_a_broker_and_room(
    publisher: Publisher, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publisher.open
    monkeypatch.setattr(module, "MAX_UNSETTLED", 2)
    publisher.expect([new_id(), new_id()])
    assert not publisher.open
    monkeypatch.undo()
    assert publisher.open
    await broker.close()
    assert not publisher.open


async def test_a_beat_sets_the_clock(broker: Broker, sessions: Sessions) -> None:
    clock = DatabaseClock()
    await Publisher("test", broker, sessions, clock, new_id).beat()
    assert abs(clock.now() - 1_000_000) < 1_000


async def test_a_clean_leave_waits_for_what_is_being_published(
    publisher: Publisher, broker: Broker, sessions: Sessions
) -> None:
    broker.gate.clear()
    publisher.send(dispatches(new_id()))
    stopping = asyncio.create_task(publisher.stop())
    await asyncio.sleep(0.01)
    assert sessions.left == []
    broker.gate.set()
    await stopping
    assert sessions.left == [publisher.session]
    await publisher.stop()


async def test_whoever_still_answers_for_a_row_does_not_say_good_bye(
    publisher: Publisher, sessions: Sessions
) -> None:
    publisher.expect([new_id()])
    await publisher.stop()
    assert sessions.left == []


async def test_a_database_that_takes_no_writes_is_told_apart(
    publisher: Publisher, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [100.0]
    monkeypatch.setattr(DatabaseClock, "monotonic", staticmethod(lambda: at[0]))
    await publisher.beat()
    sessions.away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await publisher.beat()
        publisher.check_writes()  # one failure is no outage
        at[0] += 1.5
    with pytest.raises(ConnectionError, match="takes no writes"):
        publisher.check_writes()
    sessions.away = False
    await publisher.beat()
    publisher.check_writes()
