"""The ledger as it is written, and as breakers are rebuilt from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql import incidents
from jobkit.adapters.sql.counting import take
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.entries import entry_of, rebuilt, row_of
from jobkit.adapters.sql.holds import revision_now
from jobkit.adapters.sql.policies import policies_now
from jobkit.adapters.sql.standing import apply_standing
from jobkit.adapters.sql.tables import breaker_transitions
from jobkit.adapters.sql.terms import each_text
from jobkit.domain.breaker import TRANSITIONS_KEPT, BreakerRecord, Transition
from jobkit.ports.revisions import LEDGER

_moves = breaker_transitions.c


class SqlLedger:
    """The `Ledger` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, record: BreakerRecord) -> int:
        return await self._database.write(lambda c: _record(c, record))

    async def heads(self, names: Sequence[str]) -> dict[str, int]:
        async def work(connection: AsyncConnection) -> dict[str, int]:
            each = each_text(connection, names)
            statement = sa.select(each.c.value.label("name"), newest_generation(each.c.value).label("top"))
            rows = await connection.execute(statement)
            return {row.name: row.top for row in rows if row.top is not None}

        return await self._database.read(work)

    async def latest(self, names: Sequence[str] | None = None) -> dict[str, BreakerRecord]:
        return await self._database.read(lambda c: records_now(c, names))


async def records_now(connection: AsyncConnection, names: Sequence[str] | None) -> dict[str, BreakerRecord]:
    """Breakers as their newest fleet rows tell them."""
    if names is None:
        names = list((await connection.execute(_ALL_NAMES)).scalars())
    if not names:
        return {}
    each = each_text(connection, names)
    oldest_kept = (
        sa.select(_earlier.c.generation)
        .where(_earlier.c.breaker == each.c.value, _earlier.c.scope == "")
        .order_by(_earlier.c.generation.desc())
        .limit(1)
        .offset(TRANSITIONS_KEPT - 1)
        .scalar_subquery()
    )
    newest = sa.and_(
        _moves.breaker == each.c.value,
        _moves.scope == "",
        _moves.generation >= sa.func.coalesce(oldest_kept, 0),
    )
    statement = sa.select(breaker_transitions).select_from(each.join(breaker_transitions, newest))
    told: dict[str, list[Any]] = {}
    for row in await connection.execute(statement.order_by(_moves.breaker, _moves.generation)):
        told.setdefault(row.breaker, []).append(row)
    return {name: rebuilt(name, rows) for name, rows in told.items()}


_earlier = breaker_transitions.alias("earlier")


def newest_generation(name: Any) -> sa.ScalarSelect[Any]:
    """The newest fleet generation of the breaker `name`: the end of one short scan."""
    newest = sa.select(sa.func.max(_earlier.c.generation))
    return newest.where(_earlier.c.breaker == name, _earlier.c.scope == "").scalar_subquery()


def _all_names() -> sa.Select[Any]:
    """One look at the index per breaker."""
    first = sa.select(sa.func.min(_moves.breaker).label("name")).cte("names", recursive=True)
    following = sa.select(sa.func.min(_moves.breaker)).where(_moves.breaker > first.c.name).scalar_subquery()
    names = first.union_all(sa.select(following).where(first.c.name.is_not(None)))
    return sa.select(names.c.name).where(names.c.name.is_not(None))


_ALL_NAMES = _all_names()


async def _record(connection: AsyncConnection, record: BreakerRecord) -> int:
    moves = _told_by(record)
    missing = await _missing(connection, record.name, moves)
    if missing:
        # What waits is counted before it is our turn: nobody should wait for that.
        weight = await incidents.weigh_closing(connection, record.name, missing)
        # Looked at again once it is: whoever went before us may have written the same.
        await take(connection, LEDGER, 0)
        missing = await _missing(connection, record.name, moves)
        newest = (await connection.execute(sa.select(newest_generation(record.name)))).scalar() or 0
        first = await take(connection, LEDGER, len(missing)) - len(missing) + 1
        rows = [row_of(record, move, revision) for revision, move in enumerate(missing, start=first)]
        if rows:
            inserted = sa.insert(breaker_transitions).returning(breaker_transitions)
            entries = [entry_of(row) for row in await connection.execute(inserted, rows)]
            # An entry that comes late changes no incident: that story has been told.
            news = sorted((e for e in entries if e.move.generation > newest), key=lambda e: e.revision)
            await incidents.follow(connection, [e for e in news if not e.move.scope], weight)
    if not _scope(record):
        await apply_standing(connection, record, await policies_now(connection))
    return await revision_now(connection)


def _scope(record: BreakerRecord) -> str:
    return record.transitions[-1].scope if record.transitions else ""


def _told_by(record: BreakerRecord) -> list[Transition]:
    """The fleet's record speaks for all, a worker's own for that worker: it goes on from what the fleet's was, whose
    end it cannot know."""
    scope = _scope(record)
    return [move for move in record.transitions if not scope or move.scope == scope]


async def _missing(connection: AsyncConnection, name: str, moves: Iterable[Transition]) -> list[Transition]:
    """Those that the ledger lacks, oldest first."""
    wanted = list(moves)
    statement = sa.select(_moves.scope, _moves.generation).where(
        _moves.breaker == name,
        _moves.scope.in_({move.scope for move in wanted}),
        _moves.generation.in_([move.generation for move in wanted]),
    )
    known = {(row.scope, row.generation) for row in await connection.execute(statement)}
    missing = [move for move in wanted if (move.scope, move.generation) not in known]
    return sorted(missing, key=lambda move: move.generation)
