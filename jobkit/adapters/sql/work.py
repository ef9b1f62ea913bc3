"""What a worker does to the rows of jobs: claim, renew, progress, settle. Fenced and batched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, in_halves
from jobkit.adapters.sql.hot import Hot
from jobkit.adapters.sql.outcomes import (
    LOCK_FREE,
    LOOK,
    RUNNING,
    complete_batch,
    settle_batch,
    whole_millis,
)
from jobkit.adapters.sql.rows import CLAIM_COLUMNS, claimed_of
from jobkit.adapters.sql.tables import job_types, jobs
from jobkit.adapters.sql.terms import UUIDS, any_uuid, db_now, unindexed
from jobkit.domain.job import ClaimedJob, JobState, QuarantineReason
from jobkit.domain.job import JobError as Error
from jobkit.domain.retry import Complete, Isolate
from jobkit.ports import Held, Lease, Miss, Settlement

# A token comes from the ladder a little before or after its due time: clocks of broker and database differ.
DUE_TOLERANCE_MS = 1000


class SqlWork:
    """The `WorkStore` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, ids: Sequence[UUID], *, claim_id: UUID, worker_id: str, lease: timedelta
    ) -> Mapping[UUID, ClaimedJob | Miss]:
        wanted = sorted(set(ids), key=attrgetter("int"))  # comparing ids themselves takes ten times as long
        values = {"b_ids": wanted, "b_claim": claim_id, "b_worker": worker_id, "b_lease": whole_millis(lease)}
        return await self._claim(_CLAIM, values)

    async def take_over(
        self, expired: Lease, *, claim_id: UUID, worker_id: str, lease: timedelta
    ) -> ClaimedJob | Miss:
        values = {
            "b_ids": [expired.held.job_id],
            "b_claim": claim_id,
            "b_worker": worker_id,
            "b_lease": whole_millis(lease),
            "b_fence": expired.held.delivery,
            "b_until": expired.lease_until,
        }
        found = await self._claim(_TAKE_OVER, values)
        return found[expired.held.job_id]

    async def _claim(self, hot: Hot, values: dict[str, Any]) -> dict[UUID, ClaimedJob | Miss]:
        """Answers for all of `b_ids`."""
        rows = await self._database.rows(hot, values, write=True)
        found: dict[UUID, ClaimedJob | Miss] = {row[0]: claimed_of(row) for row in rows}
        if len(found) < len(values["b_ids"]):
            missing = [job_id for job_id in values["b_ids"] if job_id not in found]
            others = {
                row.job_id: row for row in await self._database.rows(_FIND, {"b_ids": missing}, write=False)
            }
            found.update((job_id, _miss(others.get(job_id))) for job_id in missing)
        return found

    async def renew(self, held: Sequence[Held], *, lease: timedelta) -> tuple[set[UUID], set[UUID]]:
        fences = {h.job_id: h.delivery for h in held}

        async def work(connection: AsyncConnection) -> tuple[set[UUID], set[UUID]]:
            free = (await connection.execute(LOCK_FREE, {"b_ids": sorted(fences)})).all()
            # One row that somebody holds locked must not let the leases of all others run out.
            busy = sorted(fences.keys() - {row.job_id for row in free})
            seen = (await connection.execute(LOOK, {"b_ids": busy})).all() if busy else []
            ours = {
                row.job_id: row.cancel_requested
                for row in (*free, *seen)
                if row.state == RUNNING and row.deliveries == fences[row.job_id]
            }
            due = sorted(ours.keys() - set(busy))
            if due:
                await connection.execute(_RENEW, {"b_ids": due, "b_lease": whole_millis(lease)})
            return set(ours), {job_id for job_id, cancel in ours.items() if cancel}

        return await self._database.write(work)

    async def mark_alone(self, held: Held) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            done = await connection.execute(_ALONE, {"b_id": held.job_id, "b_fence": held.delivery})
            return done.rowcount > 0

        return await self._database.write(work)

    async def progress(self, marks: Sequence[tuple[Held, int, int]]) -> None:
        async def run(part: Sequence[tuple[Held, int, int]]) -> list[None]:
            rows = [
                {"b_id": h.job_id, "b_fence": h.delivery, "b_processed": done, "b_total": total}
                for h, done, total in sorted(part, key=lambda mark: mark[0].job_id)
            ]
            await self._database.write(lambda c: c.execute(_PROGRESS, rows))
            return []

        async def alone(_: tuple[Held, int, int]) -> None:
            """A number that the database cannot hold is no progress."""

        if marks:
            await in_halves(marks, run, alone)

    async def settle(self, batch: Sequence[Settlement]) -> list[bool]:
        async def run(part: Sequence[Settlement]) -> list[bool]:
            return await self._database.write(lambda c: settle_batch(c, part))

        async def complete(part: Sequence[Settlement]) -> list[bool]:
            return await complete_batch(self._database, part)

        async def alone(item: Settlement) -> bool:
            unstorable = Error("UNSTORABLE_OUTCOME", "the outcome cannot be stored", retryable=False)
            decision = Isolate(QuarantineReason.NON_RETRYABLE, unstorable)
            (answer,) = await run([Settlement(item.at, decision, (), item.session)])
            return answer

        # The one statement for many finds a row's outcome by the row's id.
        twice = len({item.at.job_id for item in batch}) < len(batch)
        if twice:
            return await in_halves(batch, run, alone) if batch else []
        # Most batches hold nothing but successes. Each item's answer is its own: two transactions do as well as one.
        good = [item for item in batch if isinstance(item.decision, Complete)]
        rest = [item for item in batch if not isinstance(item.decision, Complete)]
        told = iter(await in_halves(good, complete, alone) if good else [])
        others = iter(await in_halves(rest, run, alone) if rest else [])
        return [next(told if isinstance(item.decision, Complete) else others) for item in batch]


# Conditions on rows that are found by their ids: no other index is to be looked at for them.
_state = unindexed(jobs.c.state)
_WAITING = sa.and_(
    sa.or_(*(_state == state.value for state in JobState if state.waiting)),
    jobs.c.due_at <= db_now() + DUE_TOLERANCE_MS,
)
# As it was seen. A cancelled one is left to the rescue, which ends it.
_EXPIRED = sa.and_(
    _state == RUNNING,
    jobs.c.deliveries == sa.bindparam("b_fence", type_=sa.Integer),
    jobs.c.lease_until == sa.bindparam("b_until", type_=sa.BigInteger),
    jobs.c.lease_until < db_now(),
    sa.not_(jobs.c.cancel_requested),
)


def _claiming(claimable: sa.ColumnElement[bool]) -> sa.UpdateBase:
    """Takes `claimable` rows, and those that this very claim took already (a repeat after a lost reply)."""
    now = db_now()
    claim_id = sa.bindparam("b_claim", type_=sa.Uuid)
    running = _state == RUNNING
    repeat = sa.and_(running, jobs.c.claim_id == claim_id)
    current = (
        sa.select(job_types.c.hold_number).where(job_types.c.job_type == jobs.c.job_type).scalar_subquery()
    )
    number = sa.func.coalesce(current, jobs.c.hold_mark)
    gained = sa.case((number > jobs.c.hold_mark, number - jobs.c.hold_mark), else_=0)
    return (
        sa.update(jobs)
        .where(any_uuid(jobs.c.job_id, sa.bindparam("b_ids", type_=UUIDS)), sa.or_(claimable, repeat))
        .values(
            state=RUNNING,
            deliveries=jobs.c.deliveries + sa.case((repeat, 0), else_=1),
            losses=jobs.c.losses + sa.case((repeat, 0), (running, 1), else_=0),
            losses_alone=jobs.c.losses_alone
            + sa.case((repeat, 0), (sa.and_(running, jobs.c.alone), 1), else_=0),
            alone=sa.case((repeat, jobs.c.alone), else_=sa.false()),
            holds=jobs.c.holds + sa.case((running, 0), else_=gained),
            hold_mark=number,
            claim_id=claim_id,
            worker_id=sa.bindparam("b_worker"),
            lease_until=now + sa.bindparam("b_lease", type_=sa.BigInteger),
            started_at=now,
            updated_at=now,
        )
        .returning(*CLAIM_COLUMNS)
    )


# Statements are made once: building one costs more than running it.
_CLAIM, _TAKE_OVER = Hot(_claiming(_WAITING)), Hot(_claiming(_EXPIRED))
_FIND = Hot(
    sa.select(
        jobs.c.job_id,
        jobs.c.state,
        jobs.c.deliveries,
        jobs.c.due_at,
        jobs.c.lease_until,
        jobs.c.cancel_requested,
        db_now().label("now"),
    ).where(any_uuid(jobs.c.job_id, sa.bindparam("b_ids", type_=UUIDS)))
)
_RENEW = (
    sa.update(jobs)
    .where(any_uuid(jobs.c.job_id, sa.bindparam("b_ids", type_=UUIDS)))
    .values(lease_until=db_now() + sa.bindparam("b_lease", type_=sa.BigInteger))
)
_ALONE = (
    sa.update(jobs)
    .where(
        jobs.c.job_id == sa.bindparam("b_id"),
        jobs.c.deliveries == sa.bindparam("b_fence"),
        _state == RUNNING,
    )
    .values(alone=True)
)
_PROGRESS = (
    sa.update(jobs)
    .where(
        jobs.c.job_id == sa.bindparam("b_id"),
        jobs.c.deliveries == sa.bindparam("b_fence"),
        _state == RUNNING,
    )
    .values(
        progress_processed=sa.bindparam("b_processed"),
        progress_total=sa.bindparam("b_total"),
        updated_at=db_now(),
    )
)


def _miss(row: Any) -> Miss:
    if row is None:
        return Miss(None)
    state = JobState(row.state)
    if state is JobState.RUNNING:
        over = row.lease_until < row.now and not row.cancel_requested
        expired = Lease(Held(row.job_id, row.deliveries), row.lease_until) if over else None
        return Miss(timedelta(milliseconds=max(row.lease_until - row.now, 0) + 500), expired)
    if state.waiting:
        return Miss(timedelta(milliseconds=max(row.due_at - row.now, 0)))
    return Miss(None)
