"""Who lives: publishers, workers; and the catalog of job types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, upsert
from jobkit.adapters.sql.policies import policies_now
from jobkit.adapters.sql.revisions import bump
from jobkit.adapters.sql.standing import needs_now, rehold
from jobkit.adapters.sql.tables import (
    claim_fronts,
    job_types,
    jobs,
    publishers,
    type_needs,
    workers,
)
from jobkit.adapters.sql.terms import any_text, any_uuid, db_now, db_start
from jobkit.adapters.sql.typesteering import TYPE_COLUMNS, type_of
from jobkit.domain.attribution import breaker_of
from jobkit.domain.job import JobState
from jobkit.ports import LiveWorker, TypeInfo
from jobkit.ports.revisions import JOB_TYPES

# A dependency that handlers of its type no longer announce, though they announce others: in ms.
DISOWNED_MS = 600_000


def millis_of(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


async def answer_for(connection: AsyncConnection, session: UUID, ids: Sequence[UUID]) -> None:
    """In the transaction that puts old rows under `session`: its `confirmed_to` covers them from now on, so that
    they are published even if the process dies before it has."""
    if ids:
        lowest = min(ids)
        await connection.execute(
            sa.update(publishers)
            .where(
                publishers.c.session_id == session,
                sa.or_(publishers.c.confirmed_to > lowest, publishers.c.confirmed_to.is_(None)),
            )
            .values(confirmed_to=lowest)
        )


class SqlSessions:
    """The `Sessions` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, session: UUID, component: str, confirmed_to: UUID | None) -> int:
        async def work(connection: AsyncConnection) -> int:
            insert: Any = upsert(connection)(publishers).values(
                session_id=session, component=component, beat_at=db_now(), confirmed_to=confirmed_to
            )
            statement = insert.on_conflict_do_update(
                index_elements=[publishers.c.session_id],
                set_={"beat_at": insert.excluded.beat_at, "confirmed_to": insert.excluded.confirmed_to},
            ).returning(publishers.c.beat_at)
            return int((await connection.execute(statement)).scalar_one())

        return await self._database.write(work)

    async def orphan(self, session: UUID, ids: Sequence[UUID]) -> None:
        queued = jobs.c.state == JobState.QUEUED.value

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.update(jobs)
                .where(
                    any_uuid(jobs.c.job_id, sorted(ids)),
                    jobs.c.session_id == session,
                    jobs.c.state.in_([JobState.QUEUED.value, JobState.RETRYING.value]),
                )
                .values(state=sa.case((queued, JobState.PENDING.value), else_=jobs.c.state), session_id=None)
            )

        await self._database.write(work)

    async def leave(self, session: UUID) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.delete(publishers).where(publishers.c.session_id == session))

        await self._database.write(work)


class SqlPresence:
    """The `Presence` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, worker_id: str, serves: Sequence[str], fronts: Mapping[str, int]) -> None:
        async def work(connection: AsyncConnection) -> None:
            insert: Any = upsert(connection)(workers).values(
                worker_id=worker_id, beat_at=db_now(), serves=orjson.dumps(sorted(serves))
            )
            await connection.execute(
                insert.on_conflict_do_update(
                    index_elements=[workers.c.worker_id],
                    set_={"beat_at": insert.excluded.beat_at, "serves": insert.excluded.serves},
                )
            )
            if fronts:
                await connection.execute(*_fronts(connection, worker_id, fronts))

        await self._database.write(work)

    async def leave(self, worker_id: str) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.delete(workers).where(workers.c.worker_id == worker_id))
            await connection.execute(sa.delete(claim_fronts).where(claim_fronts.c.worker_id == worker_id))

        await self._database.write(work)

    async def serving(self, within: timedelta) -> dict[str, int]:
        recent = workers.c.beat_at >= db_start() - millis_of(within)

        async def work(connection: AsyncConnection) -> dict[str, int]:
            found = await connection.execute(sa.select(workers.c.serves).where(recent))
            served = [set(orjson.loads(packed)) for packed in found.scalars()]
            # Who serves every type names some of them as well, and is one worker all the same.
            named = [{"*"} if "*" in names else names for names in served]
            return dict(Counter(name for names in named for name in names))

        return await self._database.read(work)

    async def served_types(self, within: timedelta) -> set[str]:
        recent = workers.c.beat_at >= db_start() - millis_of(within)

        async def work(connection: AsyncConnection) -> set[str]:
            found = await connection.execute(sa.select(workers.c.serves).where(recent))
            return {name for packed in found.scalars() for name in orjson.loads(packed)}

        return await self._database.read(work)

    async def live(self, within: timedelta) -> list[LiveWorker]:
        statement = sa.select(workers).where(workers.c.beat_at >= db_start() - millis_of(within))

        async def work(connection: AsyncConnection) -> list[LiveWorker]:
            found = await connection.execute(statement)
            return [LiveWorker(row.worker_id, tuple(orjson.loads(row.serves)), row.beat_at) for row in found]

        # Not by the database: its order of names is its own.
        return sorted(await self._database.read(work), key=lambda worker: worker.worker_id)


def _fronts(
    connection: AsyncConnection, worker_id: str, fronts: Mapping[str, int]
) -> tuple[Any, list[dict[str, Any]]]:
    insert: Any = upsert(connection)(claim_fronts).values(
        worker_id=worker_id,
        job_type=sa.bindparam("b_type"),
        due_at=sa.bindparam("b_due"),
        seen_at=db_now(),
    )
    statement = insert.on_conflict_do_update(
        index_elements=[claim_fronts.c.worker_id, claim_fronts.c.job_type],
        set_={"due_at": insert.excluded.due_at, "seen_at": insert.excluded.seen_at},
    )
    return statement, [{"b_type": t, "b_due": due} for t, due in sorted(fronts.items())]


class SqlTypes:
    """The `TypeCatalog` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, names: Sequence[str], limit: int) -> list[str]:
        wanted = sorted(set(names))

        async def work(connection: AsyncConnection) -> list[str]:
            known = set((await connection.execute(sa.select(job_types.c.job_type))).scalars())
            if any(name not in known for name in wanted):
                # Counting and inserting is one step, else two callers both take the last place.
                await bump(connection, JOB_TYPES)
                known = set((await connection.execute(sa.select(job_types.c.job_type))).scalars())
            unseen = [name for name in wanted if name not in known]
            room = max(limit - len(known), 0)
            for name in unseen[:room]:
                insert: Any = upsert(connection)(job_types).values(job_type=name, created_at=db_now())
                await connection.execute(insert.on_conflict_do_nothing())
            return unseen[room:]

        return await self._database.write(work)

    async def all(self) -> dict[str, TypeInfo]:
        async def work(connection: AsyncConnection) -> dict[str, TypeInfo]:
            return {row.job_type: type_of(row) for row in await connection.execute(sa.select(*TYPE_COLUMNS))}

        return await self._database.read(work)

    async def need(self, needs: Mapping[str, Sequence[str]]) -> None:
        names = sorted(needs)
        pairs = [(name, dependency) for name in names for dependency in sorted(needs[name])]

        async def work(connection: AsyncConnection) -> None:
            before = await needs_now(connection, names)
            for name, dependency in pairs:
                insert: Any = upsert(connection)(type_needs).values(
                    job_type=name, dependency=dependency, seen_at=db_now()
                )
                await connection.execute(
                    insert.on_conflict_do_update(
                        index_elements=[type_needs.c.job_type, type_needs.c.dependency],
                        set_={"seen_at": insert.excluded.seen_at},
                    )
                )
            await connection.execute(
                sa.delete(type_needs).where(
                    any_text(type_needs.c.job_type, names), type_needs.c.seen_at < db_now() - DISOWNED_MS
                )
            )
            after = await needs_now(connection, names)
            changed = [name for name in names if before.get(name) != after.get(name)]
            await rehold(connection, changed, await policies_now(connection))

        if names:
            await self._database.write(work)

    async def breakers(self) -> list[str]:
        async def work(connection: AsyncConnection) -> list[str]:
            types = (await connection.execute(sa.select(job_types.c.job_type))).scalars().all()
            needs = await needs_now(connection, None)
            return sorted({*types, *(breaker_of(name) for needed in needs.values() for name in needed)})

        return await self._database.read(work)
