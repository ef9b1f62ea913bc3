"""Held types: since when, and as they were at an earlier revision of the ledger."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import upsert
from jobkit.adapters.sql.rows import HOLD_COLUMNS, Hold, hold_of
from jobkit.adapters.sql.tables import breaker_transitions, counters, job_types, jobs
from jobkit.adapters.sql.terms import any_text, db_now
from jobkit.domain.breaker import BreakerRecord, BreakerState
from jobkit.domain.job import QuarantineReason

LEDGER = "ledger"
_moves = breaker_transitions.c

_mark = (
    sa.select(job_types.c.hold_number - sa.case((job_types.c.held_reason.is_(None), 0), else_=1))
    .where(job_types.c.job_type == jobs.c.job_type)
    .scalar_subquery()
)
# The hold mark of a row that begins to wait now (`TypeInfo.mark`), never a smaller one than it has.
mark_now: sa.ColumnElement[int] = sa.case((_mark > jobs.c.hold_mark, _mark), else_=jobs.c.hold_mark)


async def holds_now(connection: AsyncConnection, types: Collection[str] | None) -> dict[str, Hold]:
    """Holds of `types`, or of all when None."""
    statement = sa.select(*HOLD_COLUMNS)
    if types is not None:
        statement = statement.where(any_text(job_types.c.job_type, sorted(types)))
    return {row.job_type: hold_of(row) for row in await connection.execute(statement)}


async def revision_now(connection: AsyncConnection) -> int:
    statement = sa.select(counters.c.value).where(counters.c.name == LEDGER)
    return (await connection.execute(statement)).scalar() or 0


async def holds_at(connection: AsyncConnection, revision: int) -> dict[str, Hold]:
    """Holds as they were at `revision`: what keeps the pages of one list consistent."""
    holds = await holds_now(connection, None)
    if await revision_now(connection) == revision:
        return holds
    then_newest = (
        sa.select(_moves.to_state)
        .where(_moves.breaker == job_types.c.job_type, _moves.scope == "", _moves.revision <= revision)
        .order_by(_moves.generation.desc())
        .limit(1)
    )
    # Each a short scan of its own, so that the planner cannot begin with the ledger and read it all.
    state, at = (
        then_newest.with_only_columns(column).scalar_subquery() for column in (_moves.to_state, _moves.at)
    )
    rows = await connection.execute(sa.select(job_types.c.job_type, state.label("to_state"), at.label("at")))
    then = {row.job_type: row for row in rows if row.to_state is not None}
    return {name: _as_of(hold, then.get(name)) for name, hold in holds.items()}


def _as_of(hold: Hold, move: Any) -> Hold:
    held = move is not None and BreakerState(move.to_state).holds
    if held == hold.held:
        return hold
    return Hold(hold.number, held, move.at if held else None)


async def set_hold(connection: AsyncConnection, record: BreakerRecord) -> None:
    """The hold follows the newest generation. A reopening is the same hold; only a new one gets a number."""
    insert: Any = upsert(connection)(job_types).values(job_type=record.name, created_at=db_now())
    await connection.execute(insert.on_conflict_do_nothing())
    held = record.state.holds
    fresh = sa.and_(sa.true() if held else sa.false(), job_types.c.held_reason.is_(None))
    await connection.execute(
        sa.update(job_types)
        .where(job_types.c.job_type == record.name, job_types.c.hold_generation < record.generation)
        .values(
            hold_generation=record.generation,
            hold_number=job_types.c.hold_number + sa.case((fresh, 1), else_=0),
            held_since=sa.case((fresh, record.opened_at), else_=job_types.c.held_since) if held else None,
            held_reason=QuarantineReason.BREAKER_OPEN.value if held else None,
            held_until=record.open_until if held else None,
        )
    )
