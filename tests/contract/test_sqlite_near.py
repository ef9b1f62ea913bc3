"""SQLite's hot path runs in the event loop, as long as nothing keeps it waiting there."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.direct_sqlite import AWAY_SECONDS, SLOW_SECONDS, DirectSqlite, Elsewhere
from jobkit.adapters.sql.hot import Hot, Run
from jobkit.adapters.sql.tables import request_keys
from jobkit.domain.job import JobState
from tests.contract.store_contract import OnSqlite, Store, StoreContract, new_id

KEY = Hot(sa.insert(request_keys))
KEYS = Hot(sa.select(request_keys.c.request_id))


def add(run: Run, *names: str) -> None:
    run.many(KEY, [{"request_id": name, "job_id": new_id(), "content_hash": b""} for name in names])


class TestNear(OnSqlite, StoreContract):
    @pytest.fixture
    def near(self, file: Path) -> Iterator[DirectSqlite]:
        near = DirectSqlite(str(file))
        yield near
        near.close()

    def names(self, near: DirectSqlite) -> list[str]:
        return [row.request_id for row in near.read(KEYS, {})]

    def test_a_transaction_that_fails_leaves_nothing_and_the_next_one_works(self, near: DirectSqlite) -> None:
        def fails(run: Run) -> None:
            add(run, "one")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            near.write(fails)
        with pytest.raises(sa.exc.IntegrityError):
            near.write(lambda run: add(run, "two", "two"))
        near.write(lambda run: add(run, "three"))
        assert self.names(near) == ["three"]

    def test_it_waits_for_nobody(self, near: DirectSqlite, file: Path) -> None:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Elsewhere):
            near.write(lambda run: add(run, "one"))
        assert self.names(near) == []  # readers do not wait
        other.execute("ROLLBACK")
        near.write(lambda run: add(run, "one"))
        assert self.names(near) == ["one"]
        other.close()

    def test_nor_does_it_read_a_file_that_another_process_has_for_itself(
        self, near: DirectSqlite, file: Path
    ) -> None:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Elsewhere):
            near.read(KEYS, {})
        other.close()
        assert self.names(near) == []

    def test_after_a_slow_commit_the_next_ones_go_elsewhere_for_a_while(self, file: Path) -> None:
        # Asked before a transaction, and on both sides of its commit.
        times = [
            0.0,
            0.0,
            SLOW_SECONDS * 2,
            AWAY_SECONDS,
            AWAY_SECONDS * 2,
            AWAY_SECONDS * 2,
            AWAY_SECONDS * 2,
        ]
        near = DirectSqlite(str(file), iter(times).__next__)
        near.write(lambda run: add(run, "one"))
        with pytest.raises(Elsewhere):
            near.write(lambda run: add(run, "two"))
        near.write(lambda run: add(run, "three"))
        assert self.names(near) == ["one", "three"]
        near.close()

    async def test_the_loop_goes_on_while_another_process_holds_the_lock(
        self, store: Store, file: Path
    ) -> None:
        job_id = await store.submit()
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        claim = asyncio.create_task(store.claim(job_id))
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not claim.done()
        other.execute("ROLLBACK")
        other.close()
        assert (await claim).job_id == job_id
        assert (await store.get(job_id)).state is JobState.RUNNING

    async def test_writers_of_both_kinds_take_turns(self, store: Store) -> None:
        """Those with labels go by the thread."""
        submits = (store.submit(labels={"n": str(n)} if n % 2 else {}) for n in range(60))
        ids = await asyncio.gather(*submits)
        assert len(set(ids)) == 60
        assert set(await store.reader.get(ids)) == set(ids)
