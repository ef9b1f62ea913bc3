"""The `Redrives` port: what becomes of redriven jobs, and of the redrive because of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import sqlalchemy as sa

from jobkit.adapters.sql.tables import redrive_types
from jobkit.domain.job import JobState
from jobkit.domain.redrive import Counts, Redrive, RedriveState
from jobkit.domain.retry import Retry
from tests.contract.redrive_contract import Helm, RedriveContract
from tests.contract.store_contract import (
    OTHER_SESSION,
    TIMED_OUT,
    OnPostgres,
    OnSqlite,
    Store,
)


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


class TestSqliteRedriving(OnSqlite, LearnContract):
    pass


class TestPostgresRedriving(OnPostgres, LearnContract):
    pass
