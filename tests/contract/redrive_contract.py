"""What the contracts of the `Redrives` port share."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from jobkit.adapters.sql.tables import redrive_jobs, redrive_types
from jobkit.domain.job import JobState, QuarantineReason, Token
from jobkit.domain.redrive import Counts, NewRedrive, Redrive
from jobkit.domain.retry import Complete, Isolate
from tests.contract.store_contract import (
    OTHER_SESSION,
    TIMED_OUT,
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
