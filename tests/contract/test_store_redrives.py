"""The `Redrives` port: beginning, sending, learning, ending; each job once, whoever works on it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
import sqlalchemy as sa

from jobkit.adapters.sql import redrives as adapter
from jobkit.adapters.sql.tables import redrive_jobs, redrive_types, redrives
from jobkit.domain.errors import AlreadyExists, Exhausted, NotFound, Precondition
from jobkit.domain.job import JobState, QuarantineReason, Token
from jobkit.domain.redrive import Counts, NewRedrive, Redrive, RedriveState
from jobkit.domain.retry import Complete, Isolate, Retry
from tests.contract.store_contract import (
    OTHER_SESSION,
    TIMED_OUT,
    OnPostgres,
    OnSqlite,
    Store,
    StoreContract,
    new_id,
)

FAST = 10_000.0
LIMIT = 1_000


def asked(filter_text: str = "", rate: float | None = FAST, **changes: Any) -> NewRedrive:
    return NewRedrive(new_id(), filter_text, rate, "ada", "it is back", **changes)


class Helm:
    """Redrives on a store, and what its jobs do."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.port = store.redrives

    async def begin(self, filter_text: str = "", rate: float | None = FAST) -> Redrive:
        redrive, existed = await self.port.create(asked(filter_text, rate), LIMIT)
        assert not existed
        return redrive

    async def take(self, redrive: Redrive, job_type: str = "email", limit: int = 500) -> list[Token]:
        return await self.port.take(redrive.redrive_id, job_type, OTHER_SESSION, limit)

    async def take_all(self, redrive: Redrive, count: int) -> list[UUID]:
        """`count` of them; at a fast pace that is a matter of milliseconds."""
        taken: list[UUID] = []
        while len(taken) < count:
            taken += [token.job_id for token in await self.take(redrive, limit=count - len(taken))]
            await asyncio.sleep(0.002)
        return taken

    async def exhaust(self, redrive: Redrive) -> None:
        """Until the port has seen that nothing is left."""
        while not (await self.part(redrive)).sent_all:
            await self.take(redrive)
            await asyncio.sleep(0.002)

    async def learn(self, redrive: Redrive) -> Counts:
        await self.port.learn(redrive.redrive_id, "email", 500)
        return (await self.port.get(redrive.redrive_id)).counts

    async def ends(self, job_id: UUID, end: JobState) -> None:
        job = await self.store.claim(job_id)
        decision = (
            Complete(None)
            if end is JobState.SUCCEEDED
            else Isolate(QuarantineReason.RETRIES_EXHAUSTED, TIMED_OUT)
        )
        assert await self.store.settle(job_id, job.delivery, decision)

    async def part(self, redrive: Redrive) -> Any:
        mine = redrive_types.c.redrive_id == redrive.redrive_id
        return await self.store.database.read(lambda c: self._one(c, sa.select(redrive_types).where(mine)))

    async def under_way(self) -> int:
        found = await self.store.database.read(
            lambda c: self._one(c, sa.select(sa.func.count().label("n")).select_from(redrive_jobs))
        )
        return int(found.n)

    @staticmethod
    async def _one(connection: Any, statement: Any) -> Any:
        return (await connection.execute(statement)).one()


class RedriveContract(StoreContract):
    @pytest.fixture
    def helm(self, store: Store) -> Helm:
        return Helm(store)


class BeginContract(RedriveContract):
    async def test_it_counts_what_matches_by_type(self, store: Store, helm: Helm) -> None:
        for job_type in ("email", "email", "sms"):
            await store.isolated(job_type)
        await store.submit("push")
        redrive = await helm.begin()
        assert (redrive.state, redrive.actor, redrive.reason) == (RedriveState.RUNNING, "ada", "it is back")
        assert [(p.job_type, p.counts) for p in redrive.types] == [("email", Counts(2)), ("sms", Counts(1))]
        assert redrive.counts == Counts(3)
        assert await helm.port.get(redrive.redrive_id) == redrive
        assert await helm.port.active() == [(redrive.redrive_id, t) for t in ("email", "sms")]

    async def test_one_that_matches_nothing_is_done(self, helm: Helm) -> None:
        redrive = await helm.begin("job_type = a AND job_type = b")
        assert (redrive.state, redrive.types) == (RedriveState.DONE, ())
        assert redrive.finish_time is not None
        assert await helm.port.active() == []

    async def test_the_same_request_id_gets_the_first_answer(self, store: Store, helm: Helm) -> None:
        await store.isolated()
        first, existed = await helm.port.create(asked(request_id="r"), LIMIT)
        assert not existed
        again, existed = await helm.port.create(asked(request_id="r"), LIMIT)
        assert (again, existed) == (first, True)
        with pytest.raises(AlreadyExists) as caught:
            await helm.port.create(asked("job_type = sms", request_id="r"), LIMIT)
        assert caught.value.reason == "REQUEST_ID_REUSED"
        await helm.begin()
        await helm.begin()

    async def test_the_same_request_id_at_the_same_moment_is_one_redrive(
        self, store: Store, helm: Helm
    ) -> None:
        await store.isolated()
        answers = await asyncio.gather(*(helm.port.create(asked(request_id="r"), LIMIT) for _ in range(5)))
        assert len({redrive.redrive_id for redrive, _ in answers}) == 1
        assert sorted(existed for _, existed in answers) == [False, True, True, True, True]

    async def test_bounds(self, store: Store, helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(3):
            await store.isolated()
        with pytest.raises(Precondition) as refused:
            await helm.port.create(asked(), 2)
        assert refused.value.reason == "TOO_MANY_JOBS"
        assert (await helm.port.create(asked(), 3))[0].counts.total == 3
        monkeypatch.setattr(adapter, "MAX_ACTIVE", 1)
        with pytest.raises(Exhausted) as exhausted:
            await helm.begin()
        assert exhausted.value.reason == "TOO_MANY_REDRIVES"

    async def test_pages_come_newest_first(self, helm: Helm) -> None:
        made = [(await helm.begin()).redrive_id for _ in range(3)]
        page = [redrive.redrive_id for redrive in await helm.port.page(2, None)]
        assert page == made[:0:-1]
        assert [r.redrive_id for r in await helm.port.page(2, page[-1])] == made[:1]

    async def test_an_unknown_one_is_not_found(self, helm: Helm) -> None:
        for action in (helm.port.get(new_id()), helm.port.cancel(new_id(), "a", "b")):
            with pytest.raises(NotFound) as caught:
                await action
            assert caught.value.reason == "REDRIVE_NOT_FOUND"
        assert await helm.port.take(new_id(), "email", OTHER_SESSION, 10) == []
        await helm.port.learn(new_id(), "email", 10)
        assert await helm.port.finish(new_id()) is None


class SendContract(RedriveContract):
    async def test_jobs_go_back_to_work_as_a_retry_sends_them(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(3)]
        await store.sessions.beat(OTHER_SESSION, "controlplane", None)
        tokens: list[Token] = []
        redrive = await helm.begin()
        while len(tokens) < 3:
            tokens += await helm.take(redrive)
            await asyncio.sleep(0.002)
        assert tokens == [Token(job_id, "email", 2) for job_id in ids]
        row = await store.row(ids[0])
        assert (row.state, row.session_id, row.quarantine_reason) == ("QUEUED", OTHER_SESSION, None)
        claimed = await store.claim(ids[0])
        assert (claimed.attempts, claimed.attempts_base, claimed.losses) == (1, 1, 0)

    async def test_a_publisher_that_dies_before_it_publishes_leaves_nothing_lost(
        self, store: Store, helm: Helm
    ) -> None:
        ids = [await store.isolated() for _ in range(3)]
        await store.sessions.beat(OTHER_SESSION, "controlplane", None)
        await helm.take_all(await helm.begin(), 3)
        await asyncio.sleep(0.01)
        heir = new_id()
        await store.sessions.beat(heir, "controlplane", None)
        tokens = await store.recovery.take_orphans(heir, timedelta(milliseconds=1), 10)
        assert {token.job_id for token in tokens} == set(ids)

    async def test_what_fails_again_is_not_sent_again(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(3)]
        redrive = await helm.begin()
        assert await helm.take_all(redrive, 2) == ids[:2]
        for job_id in ids[:2]:
            await helm.ends(job_id, JobState.QUARANTINED)
        # Whatever the clock says.
        await store.set(ids[0], quarantined_at=0)
        assert await helm.take_all(redrive, 1) == ids[2:]
        await helm.exhaust(redrive)
        assert (await helm.learn(redrive)) == Counts(3, redriven=3, failed=2)

    async def test_what_is_quarantined_later_is_left_alone(self, store: Store, helm: Helm) -> None:
        redrive_me = await store.isolated()
        redrive = await helm.begin()
        await asyncio.sleep(0.002)
        later = await store.isolated()
        await helm.exhaust(redrive)
        assert (await store.row(redrive_me)).state == "QUEUED"
        assert (await store.row(later)).state == "QUARANTINED"

    async def test_what_somebody_else_took_is_skipped(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(3)]
        redrive = await helm.begin()
        await store.steering.retry(ids[0], None, OTHER_SESSION)
        await store.steering.discard(ids[1])
        await helm.exhaust(redrive)
        assert await helm.learn(redrive) == Counts(3, redriven=1, skipped=2)

    async def test_it_keeps_its_pace(self, store: Store, helm: Helm) -> None:
        for _ in range(5):
            await store.isolated()
        redrive = await helm.begin(rate=0.5)
        assert len(await helm.take(redrive)) == 1
        assert await helm.take(redrive) == []
        part = (await helm.port.get(redrive.redrive_id)).types[0]
        assert (part.rate, part.counts.redriven) == (0.5, 1)

    async def test_two_at_once_never_send_the_same(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(40)]
        both = [await helm.begin(), await helm.begin()]

        async def drain(redrive: Redrive) -> list[UUID]:
            taken: list[UUID] = []
            for _ in range(60):
                taken += [token.job_id for token in await helm.take(redrive, limit=3)]
                await asyncio.sleep(0.001)
            return taken

        found = await asyncio.gather(*(drain(redrive) for redrive in both for _ in range(2)))
        taken = [job_id for one in found for job_id in one]
        assert sorted(taken) == ids

    async def test_a_held_type_waits(self, store: Store, helm: Helm) -> None:
        job_id = await store.isolated()
        redrive = await helm.begin()
        await store.hold()
        for _ in range(2):
            assert await helm.take(redrive) == []
        (part,) = (await helm.port.get(redrive.redrive_id)).types
        assert (part.held, part.rate) == (True, 0)
        assert (await store.row(job_id)).state == "QUARANTINED"
        await store.lift()
        assert await helm.take_all(redrive, 1) == [job_id]
        (part,) = (await helm.port.get(redrive.redrive_id)).types
        assert not part.held


class LearnContract(RedriveContract):
    async def test_ends_are_counted_once_each(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(6)]
        redrive = await helm.begin()
        await helm.take_all(redrive, 6)
        assert await helm.learn(redrive) == Counts(6, redriven=6)
        await helm.ends(ids[0], JobState.SUCCEEDED)
        await helm.ends(ids[1], JobState.QUARANTINED)
        await store.steering.cancel(ids[2])
        await helm.ends(ids[3], JobState.QUARANTINED)
        await store.steering.retry(ids[3], None, OTHER_SESSION)  # before anybody looked
        for _ in range(2):
            counts = await helm.learn(redrive)
            assert counts == Counts(6, redriven=6, succeeded=1, failed=2, cancelled=1)
        assert (counts.open, await helm.under_way()) == (2, 2)
        assert await helm.port.finish(redrive.redrive_id) is None

    async def test_it_is_done_when_all_have_ended(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(2)]
        redrive = await helm.begin()
        await helm.exhaust(redrive)
        for job_id in ids:
            assert await helm.port.finish(redrive.redrive_id) is None
            await helm.ends(job_id, JobState.SUCCEEDED)
            await helm.learn(redrive)
        done = await helm.port.finish(redrive.redrive_id)
        assert done is not None
        assert (done.state, done.counts) == (RedriveState.DONE, Counts(2, redriven=2, succeeded=2))
        assert done.finish_time is not None
        assert (await helm.port.active(), await helm.under_way()) == ([], 0)
        assert await helm.port.finish(redrive.redrive_id) is None

    async def test_a_look_is_bounded_and_the_next_goes_on(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(5)]
        redrive = await helm.begin()
        await helm.exhaust(redrive)
        await helm.ends(ids[4], JobState.SUCCEEDED)
        for succeeded in (0, 0, 1):
            await helm.port.learn(redrive.redrive_id, "email", 2)
            assert (await helm.port.get(redrive.redrive_id)).counts.succeeded == succeeded
        await helm.ends(ids[0], JobState.SUCCEEDED)
        await helm.port.learn(redrive.redrive_id, "email", 2)
        assert (await helm.port.get(redrive.redrive_id)).counts.succeeded == 2

    async def test_a_failed_first_run_slows_it_before_its_retries_are_over(
        self, store: Store, helm: Helm
    ) -> None:
        ids = [await store.isolated() for _ in range(4)]
        redrive = await helm.begin(rate=None)
        assert len(await helm.take(redrive)) == 1
        job = await store.claim(ids[0])
        assert await store.settle(ids[0], job.delivery, Retry(timedelta(seconds=60), TIMED_OUT))
        await self._let_an_epoch_pass(store, redrive)
        counts = await helm.learn(redrive)
        assert (counts.failed, counts.open) == (0, 1)
        (part,) = (await helm.port.get(redrive.redrive_id)).types
        assert part.rate == 0.5
        await self._let_an_epoch_pass(store, redrive)
        await helm.learn(redrive)
        (part,) = (await helm.port.get(redrive.redrive_id)).types
        assert part.rate == 0.5  # told once

    async def test_it_stops_when_nearly_everything_fails_again(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(12)]
        redrive = await helm.begin(rate=None)
        for job_id in ids[:10]:
            await self._let_an_epoch_pass(store, redrive, paced=True)
            assert [token.job_id for token in await helm.take(redrive, limit=1)] == [job_id]
            await helm.ends(job_id, JobState.QUARANTINED)
            await helm.learn(redrive)
        stopped = await helm.port.finish(redrive.redrive_id)
        assert stopped is not None
        assert (stopped.state, stopped.end_reason) == (
            RedriveState.STOPPED,
            "email: nearly everything fails again",
        )
        assert stopped.counts == Counts(12, redriven=10, failed=10)
        assert await helm.take(redrive) == []
        assert await helm.port.active() == []

    async def test_a_job_that_nobody_runs_is_not_waited_for_for_ever(self, store: Store, helm: Helm) -> None:
        await store.isolated()
        redrive = await helm.begin()
        await helm.exhaust(redrive)
        await store.execute(sa.update(redrive_types).values(moved_at=0))
        assert (await helm.learn(redrive)).open == 1
        done = await helm.port.finish(redrive.redrive_id)
        assert done is not None
        assert (done.state, done.counts.open) == (RedriveState.DONE, 1)
        assert await helm.under_way() == 0

    async def _let_an_epoch_pass(self, store: Store, redrive: Redrive, *, paced: bool = False) -> None:
        """As if the pace had last changed, and if `paced` the last job been sent, some seconds ago."""
        mine = redrive_types.c.redrive_id == redrive.redrive_id

        async def work(connection: Any) -> None:
            pace = orjson.loads((await connection.execute(sa.select(redrive_types.c.pace))).scalar_one())
            pace["epoch_at"] -= 2_000
            pace["paced_at"] -= 60_000 if paced else 0
            statement = sa.update(redrive_types).where(mine).values(pace=orjson.dumps(pace))
            await connection.execute(statement)

        await store.database.write(work)


class CancelContract(RedriveContract):
    async def test_nothing_is_sent_any_more_and_what_was_is_counted(self, store: Store, helm: Helm) -> None:
        ids = [await store.isolated() for _ in range(3)]
        redrive = await helm.begin()
        await helm.take_all(redrive, 1)
        for _ in range(2):
            cancelled = await helm.port.cancel(redrive.redrive_id, "bob", "too soon")
            assert (cancelled.state, cancelled.ended_by, cancelled.end_reason) == (
                RedriveState.CANCELLED,
                "bob",
                "too soon",
            )
        assert await helm.take(redrive) == []
        assert (await store.row(ids[1])).state == "QUARANTINED"
        await helm.learn(redrive)
        assert len(await helm.port.active()) == 1
        await helm.ends(ids[0], JobState.SUCCEEDED)
        assert await helm.learn(redrive) == Counts(3, redriven=1, succeeded=1)
        assert await helm.port.finish(redrive.redrive_id) is None
        assert await helm.port.active() == []
        assert (await helm.port.get(redrive.redrive_id)).state is RedriveState.CANCELLED

    async def test_one_that_has_ended_cannot_be_cancelled(self, helm: Helm) -> None:
        redrive = await helm.begin()
        with pytest.raises(Precondition) as caught:
            await helm.port.cancel(redrive.redrive_id, "bob", "")
        assert caught.value.reason == "REDRIVE_NOT_CANCELLABLE"


class TestSqliteRedrives(OnSqlite, BeginContract, SendContract, LearnContract, CancelContract):
    pass


class TestPostgresRedrives(OnPostgres, BeginContract, SendContract, LearnContract, CancelContract):
    async def test_a_row_that_somebody_works_on_is_left_to_them(self, store: Store, helm: Helm) -> None:
        await store.isolated()
        redrive = await helm.begin()
        entered, go = asyncio.Event(), asyncio.Event()

        async def work(connection: Any) -> None:
            await connection.execute(sa.select(redrive_types).with_for_update())
            await connection.execute(sa.select(redrives).with_for_update())
            entered.set()
            await go.wait()

        task = asyncio.create_task(store.database.write(work))
        await entered.wait()
        assert await helm.take(redrive) == []
        await helm.port.learn(redrive.redrive_id, "email", 10)
        assert await helm.port.finish(redrive.redrive_id) is None
        go.set()
        await task
        assert len(await helm.take(redrive)) == 1
