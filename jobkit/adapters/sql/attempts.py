"""The attempt log: one row per batch that was taken from the breaker store."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters import tape
from jobkit.adapters.sql.engine import Database, upsert
from jobkit.adapters.sql.entries import rebuilt
from jobkit.adapters.sql.rows import lowest_id
from jobkit.adapters.sql.tables import attempt_log, breaker_transitions, jobs, type_needs
from jobkit.adapters.sql.terms import db_now
from jobkit.domain.attempts import Gap, Logged, Position, Raw, Span, find_gaps
from jobkit.domain.breaker import DEPENDENCY, TRANSITIONS_KEPT, BreakerRecord, Evidence
from jobkit.ports.attempts import Arrivals

_log = attempt_log.c
_moves = breaker_transitions.c


class SqlAttemptLog:
    """The `AttemptLog` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, breaker: str, entries: Sequence[Raw]) -> Position:
        first, last = entries[0].position, entries[-1].position
        after_ms, after_number = entries[0].after or (None, None)
        values = {
            "breaker": breaker,
            "first_ms": first[0],
            "first_number": first[1],
            "last_ms": last[0],
            "last_number": last[1],
            "weight": _weight(breaker, entries),
            "entries": _pack(entries),
            "after_ms": after_ms,
            "after_number": after_number,
        }
        this = sa.and_(_log.breaker == breaker, _log.first_ms == first[0], _log.first_number == first[1])

        async def work(connection: AsyncConnection) -> Position:
            insert: Any = upsert(connection)(attempt_log).values(values)
            await connection.execute(insert.on_conflict_do_nothing())
            kept = await connection.execute(sa.select(_log.last_ms, _log.last_number).where(this))
            row = kept.one()
            return int(row.last_ms), int(row.last_number)

        return await self._database.write(work)

    async def weigh(self, breaker: str, start: int, end: int) -> int:
        wanted = sa.select(sa.func.coalesce(sa.func.sum(_log.weight), 0)).where(_within(breaker, start, end))
        return int(await self._scalar(wanted))

    async def read(self, breaker: str, start: int, end: int) -> list[Logged]:
        wanted = sa.select(_log.entries).where(_within(breaker, start, end))
        wanted = wanted.order_by(_log.first_ms, _log.first_number)

        async def work(connection: AsyncConnection) -> list[bytes]:
            return list((await connection.execute(wanted)).scalars())

        # Batches that two processes took at once may overlap.
        found = {raw.position: raw for blob in await self._database.read(work) for raw in _unpack(blob)}
        ordered = [found[position] for position in sorted(found)]
        return list(tape.read(breaker, [raw for raw in ordered if start <= raw.at <= end]))

    async def gaps(self, breaker: str, start: int, end: int) -> list[Gap]:
        first, last = (_log.first_ms, _log.first_number), (_log.last_ms, _log.last_number)
        wanted = sa.select(*first, *last, _log.after_ms, _log.after_number)
        wanted = wanted.where(_around(breaker, start, end)).order_by(*first)

        async def work(connection: AsyncConnection) -> list[Span]:
            rows = (await connection.execute(wanted)).all()
            return [Span((a, b), (c, d), None if e is None else (e, f)) for a, b, c, d, e, f in rows]

        return [gap for gap in find_gaps(await self._database.read(work)) if gap.start <= end]

    async def oldest(self, breaker: str) -> int | None:
        found = await self._scalar(sa.select(sa.func.min(_log.first_ms)).where(_log.breaker == breaker))
        return None if found is None else int(found)

    async def standing(self, breaker: str, at: int) -> BreakerRecord | None:
        newest = (
            sa.select(breaker_transitions)
            .where(_moves.breaker == breaker, _moves.scope == "", _moves.at <= at)
            .order_by(_moves.generation.desc())
            .limit(TRANSITIONS_KEPT)
        )

        async def work(connection: AsyncConnection) -> BreakerRecord | None:
            rows = (await connection.execute(newest)).all()
            return rebuilt(breaker, rows[::-1]) if rows else None

        return await self._database.read(work)

    async def arrivals(self, breaker: str, start: int, end: int, limit: int) -> list[Arrivals]:
        behind = sa.select(type_needs.c.job_type).where(
            type_needs.c.dependency == breaker.removeprefix(DEPENDENCY)
        )
        mine = jobs.c.job_type.in_(behind) if breaker.startswith(DEPENDENCY) else jobs.c.job_type == breaker
        range_ = sa.and_(jobs.c.job_id >= lowest_id(start), jobs.c.job_id < lowest_id(end))
        wanted = sa.select(jobs.c.job_id).where(range_, mine).order_by(jobs.c.job_id).limit(limit)

        async def work(connection: AsyncConnection) -> list[Arrivals]:
            seconds: dict[int, int] = {}
            for job_id in (await connection.execute(wanted)).scalars():
                second = (job_id.int >> 80) // 1000
                seconds[second] = seconds.get(second, 0) + 1
            return [Arrivals(second * 1000, number) for second, number in seconds.items()]

        return await self._database.read(work)

    async def purge(self, older_than_ms: int, limit: int) -> int:
        key = (_log.breaker, _log.first_ms, _log.first_number)

        async def work(connection: AsyncConnection) -> int:
            now = int((await connection.execute(sa.select(db_now()))).scalar_one())
            old = (
                sa.select(*key).where(_log.last_ms < now - older_than_ms).order_by(_log.last_ms).limit(limit)
            )
            rows = [tuple(row) for row in await connection.execute(old)]
            if rows:
                await connection.execute(sa.delete(attempt_log).where(sa.tuple_(*key).in_(rows)))
            return len(rows)

        return await self._database.write(work)

    async def _scalar(self, statement: sa.Select[Any]) -> Any:
        async def work(connection: AsyncConnection) -> Any:
            return (await connection.execute(statement)).scalar()

        return await self._database.read(work)


def _within(breaker: str, start: int, end: int) -> sa.ColumnElement[bool]:
    """Batches that may hold entries of the range, by the primary key: one that begins before it may reach in."""
    return sa.and_(_since(breaker, start), _log.first_ms <= end)


def _around(breaker: str, start: int, end: int) -> sa.ColumnElement[bool]:
    """These, and the one after them: it tells whether something is missing before it."""
    next_ = sa.select(sa.func.min(_log.first_ms)).where(_log.breaker == breaker, _log.first_ms > end)
    return sa.and_(_since(breaker, start), _log.first_ms <= sa.func.coalesce(next_.scalar_subquery(), end))


def _since(breaker: str, start: int) -> sa.ColumnElement[bool]:
    begins = sa.select(sa.func.max(_log.first_ms)).where(_log.breaker == breaker, _log.first_ms <= start)
    return sa.and_(
        _log.breaker == breaker, _log.first_ms >= sa.func.coalesce(begins.scalar_subquery(), start)
    )


def _weight(breaker: str, entries: Sequence[Raw]) -> int:
    attempts = (
        len(entry.what.outcomes) for entry in tape.read(breaker, entries) if isinstance(entry.what, Evidence)
    )
    return len(entries) + sum(attempts)


def _pack(entries: Sequence[Raw]) -> bytes:
    return zlib.compress(orjson.dumps([[*raw.position, raw.at, raw.text] for raw in entries]), 1)


def _unpack(blob: bytes) -> list[Raw]:
    return [Raw((ms, number), at, text) for ms, number, at, text in orjson.loads(zlib.decompress(blob))]
