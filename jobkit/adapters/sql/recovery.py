"""What the reconcilers do to rows: find those that nobody answers for, make them ours, hand out tokens.

Every statement takes a bounded number of rows with FOR UPDATE SKIP LOCKED, so that two control planes share the
work and never do it twice. (SQLite has one writer, which says the same.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
import uuid_utils.compat as uuid_ids
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.holds import holds_now, mark_now
from jobkit.adapters.sql.presence import answer_for, millis_of
from jobkit.adapters.sql.rows import CLOCK_SLACK_MS, TOKEN_COLUMNS, clean, lowest_id, token_of
from jobkit.adapters.sql.tables import WAITING, claim_fronts, job_types, jobs, publishers, undecodable
from jobkit.adapters.sql.terms import UUIDS, any_picked, any_uuid, db_now, db_start, unindexed
from jobkit.domain.job import JobState, Token
from jobkit.ports import Held, Lease, Rescued

QUEUED, RUNNING, RETRYING = JobState.QUEUED.value, JobState.RUNNING.value, JobState.RETRYING.value
IS_RUNNING = sa.text("jobs.state = 'RUNNING'")
# An acceptor's idea of database time may be off by this much.
CREATE_SLACK_MS = 5_000


class SqlRecovery:
    """The `Recovery` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_overdue(self, session: UUID, limit: int) -> list[Token]:
        due = [jobs.c.session_id.is_(None), WAITING, jobs.c.due_at <= db_start()]
        return await self._take(session, due, jobs.c.due_at, limit)

    async def take_orphans(self, session: UUID, silent: timedelta, limit: int) -> list[Token]:
        # Whoever asks is alive: after an outage its own beat is merely late.
        late = publishers.c.beat_at < db_start() - millis_of(silent)
        gone = sa.select(publishers).where(late, publishers.c.session_id != session)

        async def dead(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(gone.order_by(publishers.c.beat_at))).all()

        tokens: list[Token] = []
        for publisher in await self._database.read(dead):
            unsettled = _unsettled(publisher)
            due = jobs.c.due_at <= db_start()
            tokens += await self._take(session, [*unsettled, due], jobs.c.job_id, limit - len(tokens))
            if len(tokens) >= limit:
                break
            await self._forget(publisher, unsettled)
        return tokens

    async def _forget(self, publisher: Any, unsettled: Sequence[Any]) -> None:
        """Unless it beat again, or answers for a row still: one that another holds locked, or whose retry is
        not due yet and would be nobody's then."""
        mine = [publishers.c.session_id == publisher.session_id, publishers.c.beat_at == publisher.beat_at]
        left = sa.exists(sa.select(jobs.c.job_id).where(*unsettled))

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.delete(publishers).where(*mine, sa.not_(left)))

        await self._database.write(work)

    async def fronts(self, within: timedelta) -> dict[str, int]:
        statement = (
            sa.select(claim_fronts.c.job_type, sa.func.min(claim_fronts.c.due_at).label("due"))
            .where(claim_fronts.c.seen_at >= db_start() - millis_of(within))
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
        # The limit is part of the text: the planner must see that few rows are wanted.
        few = sa.bindparam("few", limit, type_=sa.Integer, literal_execute=True)
        chosen = sa.select(jobs.c.job_id).where(*where).order_by(order).limit(few)
        statement = (
            sa.update(jobs)
            .where(any_picked(jobs.c.job_id, chosen.with_for_update(skip_locked=True)))
            .values(state=QUEUED, session_id=session, updated_at=db_now(), **changes)
            .returning(*TOKEN_COLUMNS, jobs.c.due_at)
        )

        async def work(connection: AsyncConnection) -> list[Token]:
            rows = (await connection.execute(statement)).all()
            await answer_for(connection, session, [row.job_id for row in rows])
            return [token_of(row) for row in sorted(rows, key=lambda r: (r.due_at, r.job_id))]

        return await self._database.write(work)

    async def oldest_waiting(self) -> dict[str, int]:
        oldest = (
            sa.select(sa.func.min(jobs.c.due_at))
            .where(WAITING, jobs.c.job_type == job_types.c.job_type)
            .scalar_subquery()
        )
        # One look at the index per type; grouping would read all that waits.
        by_type = sa.select(job_types.c.job_type, oldest.label("due")).subquery()
        statement = sa.select(by_type).where(by_type.c.due <= db_start())

        async def work(connection: AsyncConnection) -> dict[str, int]:
            return {row.job_type: row.due for row in await connection.execute(statement)}

        return await self._database.read(work)

    async def expired(self, limit: int) -> list[Lease]:
        # Written anew as they are: where that fails, or another holds them locked, nobody can renew them either.
        few = sa.bindparam("few", limit, type_=sa.Integer, literal_execute=True)
        over = sa.select(jobs.c.job_id).where(IS_RUNNING, jobs.c.lease_until < db_start())
        chosen = over.order_by(jobs.c.lease_until).limit(few).with_for_update(skip_locked=True)
        statement = (
            sa.update(jobs)
            .where(any_picked(jobs.c.job_id, chosen))
            .values(lease_until=jobs.c.lease_until)
            .returning(jobs.c.job_id, jobs.c.deliveries, jobs.c.lease_until)
        )

        async def work(connection: AsyncConnection) -> list[Lease]:
            found = await connection.execute(statement)
            leases = [Lease(Held(row.job_id, row.deliveries), row.lease_until) for row in found]
            return sorted(leases, key=lambda lease: lease.lease_until)

        return await self._database.write(work)

    async def rescue(self, session: UUID, leases: Sequence[Lease]) -> Rescued:
        seen = {lease.held.job_id: lease for lease in leases}
        wanted = (
            jobs.c.job_id,
            jobs.c.job_type,
            jobs.c.deliveries,
            jobs.c.lease_until,
            jobs.c.cancel_requested,
        )

        async def work(connection: AsyncConnection) -> Rescued:
            locked = await connection.execute(
                sa.select(*wanted)
                .where(any_uuid(jobs.c.job_id, sorted(seen)), unindexed(jobs.c.state) == RUNNING)
                .order_by(jobs.c.job_id)
                .with_for_update(skip_locked=True)
            )
            lost = [
                row
                for row in locked
                if Lease(Held(row.job_id, row.deliveries), row.lease_until) == seen[row.job_id]
            ]
            cancelled = [row for row in lost if row.cancel_requested]
            ours = [row.job_id for row in lost if not row.cancel_requested]
            ended = Counter(row.job_type for row in cancelled)
            if cancelled:
                await connection.execute(_end_cancelled([row.job_id for row in cancelled]))
            if not ours:
                return Rescued([], ended)
            values = {"b_ids": ours, "b_session": session}
            rows = (await connection.execute(_RESCUE, values)).all()
            await answer_for(connection, session, ours)
            return Rescued([token_of(row) for row in rows], ended)

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
            cancelled = sa.select(jobs.c.job_id).where(IS_RUNNING, jobs.c.cancel_requested)
            ids = list((await connection.execute(cancelled)).scalars())
            if ids:
                await connection.execute(_end_cancelled(ids))
            release = sa.update(jobs).where(IS_RUNNING)
            await connection.execute(
                release.values(
                    state=QUEUED,
                    **LOST,
                    hold_mark=mark_now,
                    claim_id=None,
                    lease_until=None,
                    updated_at=db_now(),
                )
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
        # One scan of a partial index each: finished rows, which are most, are never looked at.
        parts: list[Any] = [WAITING, IS_RUNNING, jobs.c.quarantine_reason.is_not(None)]
        later = sa.and_(jobs.c.state == RETRYING, jobs.c.due_at > db_start())
        rows = sa.union_all(
            *(sa.select(jobs.c.job_type, jobs.c.state, later.label("later")).where(part) for part in parts)
        ).subquery()
        statement = sa.select(rows, sa.func.count().label("n")).group_by(*rows.c)

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
            {
                "message_id": uuid_ids.uuid7(),
                # Whatever somebody else's headers hold: a message that cannot be filed would come again for ever.
                "headers": orjson.dumps({clean(name): clean(value) for name, value in headers.items()}),
                "body": body,
            }
            for body, headers in messages
        ]
        if not rows:
            return

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.insert(undecodable).values(filed_at=db_now()), rows)

        await self._database.write(work)


def _unsettled(publisher: Any) -> list[Any]:
    """What a publisher answered for when it was last heard: from its `confirmed_to` on, or, if all was settled
    then, what it accepted since."""
    terms: list[Any] = [jobs.c.session_id == publisher.session_id, jobs.c.state.in_([QUEUED, RETRYING])]
    if publisher.confirmed_to is not None:
        return [jobs.c.job_id >= publisher.confirmed_to, *terms]
    return [
        jobs.c.job_id >= lowest_id(publisher.beat_at - CLOCK_SLACK_MS),
        jobs.c.created_at >= publisher.beat_at - CREATE_SLACK_MS,
        *terms,
    ]


# The claim ended with its process.
LOST: dict[str, Any] = {
    "losses": jobs.c.losses + 1,
    "losses_alone": jobs.c.losses_alone + sa.case((jobs.c.alone, 1), else_=0),
    "alone": False,
}
_RESCUE = (
    sa.update(jobs)
    .where(any_uuid(jobs.c.job_id, sa.bindparam("b_ids", type_=UUIDS)))
    .values(
        state=QUEUED,
        session_id=sa.bindparam("b_session", type_=sa.Uuid),
        **LOST,
        hold_mark=mark_now,
        claim_id=None,
        lease_until=None,
        updated_at=db_now(),
    )
    .returning(*TOKEN_COLUMNS)
)


def _end_cancelled(ids: Sequence[UUID]) -> sa.Update:
    """Nobody runs these any more, and somebody cancelled them: what their worker would have written."""
    now = db_now()
    return (
        sa.update(jobs)
        .where(any_uuid(jobs.c.job_id, ids))
        .values(
            state=JobState.CANCELLED.value,
            finished_at=now,
            updated_at=now,
            claim_id=None,
            lease_until=None,
            alone=False,
        )
    )
