"""Held types: since when, and as they were at an earlier revision of the ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.policies import policies_now
from jobkit.adapters.sql.rows import HOLD_COLUMNS, PAUSED, Hold, hold_of
from jobkit.adapters.sql.standing import enforced, needs_now
from jobkit.adapters.sql.tables import breaker_transitions, counters, job_types, jobs
from jobkit.adapters.sql.terms import any_text, each_text
from jobkit.domain.attribution import breakers_of
from jobkit.domain.breaker import BreakerState
from jobkit.domain.job import QuarantineReason
from jobkit.ports.revisions import LEDGER

_moves = breaker_transitions.c

_mark = (
    sa.select(
        job_types.c.hold_number - sa.case((sa.or_(job_types.c.held_reason.is_not(None), PAUSED), 1), else_=0)
    )
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
    needs = await needs_now(connection, None)
    behind = {name: breakers_of(name, needs.get(name, ())) for name in holds}
    then = await _then(
        connection, sorted({breaker for names in behind.values() for breaker in names}), revision
    )
    return {
        name: _as_of(hold, [then[breaker] for breaker in behind[name] if breaker in then])
        for name, hold in holds.items()
    }


async def _then(connection: AsyncConnection, breakers: Sequence[str], revision: int) -> dict[str, Any]:
    """The last move of each breaker up to `revision`, of those that may hold anything."""
    each = each_text(connection, breakers)
    then_newest = (
        sa.select(_moves.to_state)
        .where(_moves.breaker == each.c.value, _moves.scope == "", _moves.revision <= revision)
        .order_by(_moves.generation.desc())
        .limit(1)
    )
    # Each a short scan of its own, so that the planner cannot begin with the ledger and read it all.
    state, at = (
        then_newest.with_only_columns(column).scalar_subquery() for column in (_moves.to_state, _moves.at)
    )
    rows = await connection.execute(
        sa.select(each.c.value.label("breaker"), state.label("to_state"), at.label("at"))
    )
    policies = await policies_now(connection)
    return {row.breaker: row for row in rows if row.to_state is not None and enforced(policies, row.breaker)}


def _as_of(hold: Hold, moves: Sequence[Any]) -> Hold:
    """The hold as the last moves of its breakers made it. The ledger knows nothing of pauses: they read as they are
    now."""
    if hold.reason is QuarantineReason.PAUSED:
        return hold
    holding = [move for move in moves if BreakerState(move.to_state).holds]
    if bool(holding) == hold.held:
        return hold
    first = min(holding, key=lambda move: int(move.at), default=None)
    return (
        Hold(hold.number, False) if first is None else Hold(hold.number, True, first.at, None, first.breaker)
    )
