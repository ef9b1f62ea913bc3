"""Old rows leave while others work; a type that nobody uses leaves with its queue, and comes back when it is used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from controlplane.reconcilers import retention as reconciler
from controlplane.reconcilers.retention import Retention
from jobkit.adapters.sql.tables import job_types, workers
from jobkit.domain.errors import OutOfRange
from jobkit.domain.job import JobState
from jobkit.ports import Ages
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.integration.test_controlplane_history import flap

HOUR = 3_600_000
KEEP_NOTHING = Ages(finished_ms=-HOUR, quarantined_ms=HOUR)
IDLE = timedelta(seconds=60)


@pytest.fixture
async def stage(place: Place) -> AsyncIterator[Stage]:
    """One whose own world has a broker, as that of a reconciler."""
    async with Stage(place) as stage:
        await stage.world.open()
        yield stage


async def age(stage: Stage, table: sa.Table, column: str) -> None:
    """Let two minutes pass for what the table tells of."""
    earlier = sa.update(table).values({column: table.c[column] - 120_000})
    await stage.world.database.write(lambda c: c.execute(earlier))


async def listed(stage: Stage) -> set[str]:
    return set(await stage.world.types.all())


async def test_finished_jobs_leave_batch_by_batch(
    place: Place, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "BATCH", 2)
    trade = Trade(place.type("trade"))
    await stage.jobapi()
    await stage.worker(trade)
    done = [await stage.submit(trade.job_type) for _ in range(5)]
    for job_id in done:
        await stage.reaches(job_id, JobState.SUCCEEDED)
    waiting = await stage.submit(place.type("nobody"))
    await Retention(stage.world, Ages(finished_ms=HOUR, quarantined_ms=HOUR)).purge()
    assert len(await stage.world.reader.get([*done, waiting])) == 6
    await Retention(stage.world, KEEP_NOTHING).purge()
    assert set(await stage.world.reader.get([*done, waiting])) == {waiting}


async def test_the_ledger_leaves_batch_by_batch(
    place: Place, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what each breaker is rebuilt from; and watchers are told that they have missed something."""
    monkeypatch.setattr(reconciler, "BATCH", 3)
    names = [place.type(name) for name in ("a", "b")]
    for name in names:
        await flap(stage.world, name, 20)  # its times are of 1970
    await Retention(stage.world, Ages(finished_ms=HOUR, quarantined_ms=HOUR)).purge()
    left = await stage.world.history.page(None, 100, None)
    assert [entry.breaker for entry in left] == [names[1]] * 16 + [names[0]] * 16
    assert await stage.world.history.incidents(None, open_only=False, size=100, before=None) == []
    with pytest.raises(OutOfRange, match="has left the ledger"):
        await stage.world.history.after(23, None, 10)
    assert len((await stage.world.history.after(24, None, 100)).entries) == 16


async def test_an_idle_type_leaves_with_its_queue_and_comes_back(place: Place, stage: Stage) -> None:
    trade = Trade(place.type("seldom"))
    api = await stage.jobapi()
    retention = Retention(stage.world, KEEP_NOTHING, IDLE)
    job_id = await stage.submit(trade.job_type)
    await eventually(lambda: stage.world.dispatcher.depth(trade.job_type), lambda depth: depth == 1)
    await age(stage, job_types, "created_at")
    await retention.drop_idle_types()
    assert await listed(stage) == {trade.job_type}, "it has a job"
    await api.jobs.cancel(job_id)
    await retention.purge()
    await retention.drop_idle_types()
    assert await listed(stage) == set()
    # The cancelled job's token was a surplus, and is gone with the queue.
    assert await stage.world.dispatcher.depth(trade.job_type) == 0

    # The job API has not heard of it yet: it takes a job of a type that is not listed any more.
    again = await stage.submit(trade.job_type)
    assert await listed(stage) == set()
    await retention.drop_idle_types()
    assert await listed(stage) == {trade.job_type}
    await stage.worker(trade)
    await stage.reaches(again, JobState.SUCCEEDED)


async def test_a_type_that_a_worker_served_lately_stays(place: Place, stage: Stage) -> None:
    trade = Trade(place.type("served"))
    await stage.jobapi()
    worker = await stage.worker(trade)
    retention = Retention(stage.world, KEEP_NOTHING, IDLE)
    await eventually(lambda: stage.world.presence.served_types(IDLE), lambda served: trade.job_type in served)
    await age(stage, job_types, "created_at")
    await retention.drop_idle_types()
    assert trade.job_type in await listed(stage)
    await stage.leave(worker)
    await age(stage, workers, "beat_at")
    await retention.drop_idle_types()
    assert trade.job_type not in await listed(stage)


async def test_a_worker_announces_its_types_again(place: Place, stage: Stage) -> None:
    """They may have been dropped while nobody could see it."""
    trade = Trade(place.type("lost"))
    await stage.worker(trade)
    assert trade.job_type in await listed(stage)
    await stage.world.retention.drop_type(trade.job_type)
    await eventually(lambda: listed(stage), lambda names: trade.job_type in names)
