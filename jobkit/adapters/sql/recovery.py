"""What the reconcilers do to rows: find those that nobody answers for, make them ours, hand out tokens.

Every statement takes a bounded number of rows with FOR UPDATE SKIP LOCKED, so that two control planes share the
work and never do it twice. (SQLite has one writer, which says the same.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
import uuid_utils.compat as uuid_ids
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, any_uuid, db_now
from jobkit.adapters.sql.holds import holds_now
from jobkit.adapters.sql.presence import millis_of
from jobkit.adapters.sql.rows import TOKEN_COLUMNS, token_of
from jobkit.adapters.sql.tables import claim_fronts, jobs, publishers, undecodable
from jobkit.domain.job import JobState, Token
from jobkit.ports import Held, Lease

QUEUED, RUNNING, RETRYING = JobState.QUEUED.value, JobState.RUNNING.value, JobState.RETRYING.value
# Written out as literals: a partial index serves a query only where its condition is seen to hold.
WAITING = sa.text("jobs.state IN ('PENDING', 'QUEUED', 'RETRYING')")


class SqlRecovery:
    """The `Recovery` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_overdue(self, session: UUID, limit: int) -> list[Token]:
        due = [jobs.c.session_id.is_(None), WAITING, jobs.c.due_at <= db_now()]
        return await self._take(session, due, jobs.c.due_at, limit)

    async def take_orphans(self, session: UUID, silent: timedelta, limit: int) -> list[Token]:
        async def dead(connection: AsyncConnection) -> Sequence[Any]:
            gone = publishers.c.beat_at < db_now() - millis_of(silent)
            return (await connection.execute(sa.select(publishers).where(gone))).all()

        tokens: list[Token] = []
        for publisher in await self._database.read(dead):
            found: list[Token] = []
            if publisher.confirmed_to is not None:
                unsettled = [
                    jobs.c.job_id >= publisher.confirmed_to,
                    jobs.c.session_id == publisher.session_id,
                    jobs.c.state.in_([QUEUED, RETRYING]),
                    jobs.c.due_at <= db_now(),
                ]
                found = await self._take(session, unsettled, jobs.c.job_id, limit)
            if len(found) < limit:
                await self._forget(publisher.session_id, publisher.beat_at)
            tokens += found
        return tokens

    async def _forget(self, session: UUID, beat_at: int) -> None:
        async def work(connection: AsyncConnection) -> None:
            same = sa.and_(publishers.c.session_id == session, publishers.c.beat_at == beat_at)
            await connection.execute(sa.delete(publishers).where(same))

        await self._database.write(work)

    async def fronts(self, within: timedelta) -> dict[str, int]:
        statement = (
            sa.select(claim_fronts.c.job_type, sa.func.min(claim_fronts.c.due_at).label("due"))
            .where(claim_fronts.c.seen_at >= db_now() - millis_of(within))
            .group_by(claim_fronts.c.job_type)
        )

        async def work(connection: AsyncConnection) -> dict[str, int]:
            return {row.job_type: row.due for row in await connection.execute(statement)}

        return await self._database.read(work)

    async def take_lost(self, session: UUID, job_type: str, due_before: int, limit: int) -> list[Token]:
        lost = [jobs.c.job_type == job_type, WAITING, jobs.c.due_at < due_before]
        return await self._take(session, lost, jobs.c.due_at, limit, due_at=db_now())

    async def _take(
        self,
        session: UUID,
        where: Sequence[Any],
        order: sa.Column[Any],
        limit: int,
        **changes: Any,
    ) -> list[Token]:
        chosen = sa.select(jobs.c.job_id).where(*where).order_by(order).limit(limit)
        chosen = chosen.with_for_update(skip_locked=True)
        # Materialised, so that no plan can run the locking subquery twice.
        picked = chosen.cte("picked").prefix_with("MATERIALIZED")
        statement = (
            sa.update(jobs)
            .where(jobs.c.job_id.in_(sa.select(picked.c.job_id)))
            .values(state=QUEUED, session_id=session, updated_at=db_now(), **changes)
            .returning(*TOKEN_COLUMNS, jobs.c.due_at)
        )

        async def work(connection: AsyncConnection) -> list[Token]:
            rows = (await connection.execute(statement)).all()
            return [token_of(row) for row in sorted(rows, key=lambda r: (r.due_at, r.job_id))]

        return await self._database.write(work)

    async def oldest_waiting(self) -> dict[str, int]:
        statement = (
            sa.select(jobs.c.job_type, sa.func.min(jobs.c.due_at).label("due"))
            .where(WAITING, jobs.c.due_at <= db_now())
            .group_by(jobs.c.job_type)
        )

        async def work(connection: AsyncConnection) -> dict[str, int]:
            return {row.job_type: row.due for row in await connection.execute(statement)}

        return await self._database.read(work)

    async def expired(self, limit: int) -> list[Lease]:
        statement = (
            sa.select(jobs.c.job_id, jobs.c.deliveries, jobs.c.lease_until)
            .where(sa.text("jobs.state = 'RUNNING'"), jobs.c.lease_until < db_now())
            .order_by(jobs.c.lease_until)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> list[Lease]:
            found = await connection.execute(statement)
            return [Lease(Held(row.job_id, row.deliveries), row.lease_until) for row in found]

        return await self._database.read(work)

    async def rescue(self, session: UUID, leases: Sequence[Lease]) -> list[Token]:
        seen = {lease.held.job_id: lease for lease in leases}

        async def work(connection: AsyncConnection) -> list[Token]:
            locked = await connection.execute(
                sa.select(jobs.c.job_id, jobs.c.deliveries, jobs.c.lease_until)
                .where(any_uuid(jobs.c.job_id, sorted(seen)), jobs.c.state == RUNNING)
                .order_by(jobs.c.job_id)
                .with_for_update(skip_locked=True)
            )
            ours = [
                row.job_id
                for row in locked
                if Lease(Held(row.job_id, row.deliveries), row.lease_until) == seen[row.job_id]
            ]
            if not ours:
                return []
            rows = await connection.execute(
                sa.update(jobs)
                .where(any_uuid(jobs.c.job_id, ours))
                .values(
                    state=QUEUED,
                    session_id=session,
                    losses=jobs.c.losses + 1,
                    claim_id=None,
                    lease_until=None,
                    updated_at=db_now(),
                )
                .returning(*TOKEN_COLUMNS)
            )
            return [token_of(row) for row in rows]

        return await self._database.write(work)

    async def waiting_pages(self, limit: int) -> AsyncIterator[list[tuple[Token, int]]]:
        await self._release_running()
        last = UUID(int=0)
        while True:
            page = await self._waiting_after(last, limit)
            if not page:
                return
            last = page[-1][0].job_id
            yield page

    async def _release_running(self) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.update(jobs)
                .where(sa.text("jobs.state = 'RUNNING'"))
                .values(state=QUEUED, claim_id=None, lease_until=None)
            )

        await self._database.write(work)

    async def _waiting_after(self, last: UUID, limit: int) -> list[tuple[Token, int]]:
        statement = (
            sa.select(*TOKEN_COLUMNS, (jobs.c.due_at - db_now()).label("wait"))
            .where(jobs.c.job_id > last, WAITING, jobs.c.session_id.is_not(None))
            .order_by(jobs.c.job_id)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> list[tuple[Token, int]]:
            return [(token_of(row), max(row.wait, 0)) for row in await connection.execute(statement)]

        return await self._database.read(work)

    async def count_waiting(self) -> dict[tuple[str, str], int]:
        unfinished = jobs.c.state.in_(
            [JobState.PENDING.value, QUEUED, RUNNING, RETRYING, JobState.QUARANTINED.value]
        )
        later = sa.and_(jobs.c.state == RETRYING, jobs.c.due_at > db_now()).label("later")
        statement = (
            sa.select(jobs.c.job_type, jobs.c.state, later, sa.func.count().label("n"))
            .where(unfinished)
            .group_by(jobs.c.job_type, jobs.c.state, later)
        )

        async def work(connection: AsyncConnection) -> dict[tuple[str, str], int]:
            holds = await holds_now(connection, None)
            counts: dict[tuple[str, str], int] = {}
            for row in await connection.execute(statement):
                hold = holds.get(row.job_type)
                held = hold is not None and hold.held and JobState(row.state).waiting and not row.later
                state = "HELD" if held else row.state
                counts[row.job_type, state] = counts.get((row.job_type, state), 0) + row.n
            return counts

        return await self._database.read(work)

    async def file_undecodable(self, messages: Sequence[tuple[bytes, Mapping[str, str]]]) -> None:
        rows = [
            {"message_id": uuid_ids.uuid7(), "headers": orjson.dumps(dict(headers)), "body": body}
            for body, headers in messages
        ]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.insert(undecodable).values(filed_at=db_now()), rows)

        await self._database.write(work)
