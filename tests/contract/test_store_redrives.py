"""The `Redrives` port: beginning one, reading, cancelling; and sending jobs, each once, whoever works on it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql import redrives as adapter
from jobkit.adapters.sql.tables import redrive_types, redrives
from jobkit.domain.errors import AlreadyExists, Exhausted, NotFound, Precondition
from jobkit.domain.job import JobState, Token
from jobkit.domain.redrive import Counts, Redrive, RedriveState
from tests.contract.redrive_contract import Helm, RedriveContract, asked
from tests.contract.store_contract import (
    OTHER_SESSION,
    OnPostgres,
    OnSqlite,
    Store,
    new_id,
)

LIMIT = 1_000


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


class TestSqliteRedrives(OnSqlite, BeginContract, SendContract, CancelContract):
    pass


class TestPostgresRedrives(OnPostgres, BeginContract, SendContract, CancelContract):
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
