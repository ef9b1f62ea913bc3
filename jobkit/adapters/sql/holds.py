"""Held types, and the ledger that says since when and why."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, upsert
from jobkit.adapters.sql.rows import HOLD_COLUMNS, Hold, hold_of
from jobkit.adapters.sql.tables import breaker_transitions, counters, job_types, jobs
from jobkit.adapters.sql.terms import any_text, db_now
from jobkit.domain.breaker import TRANSITIONS_KEPT, BreakerRecord, BreakerState, Cause, Transition
from jobkit.domain.job import QuarantineReason
from jobkit.ports.revisions import LEDGER

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
    newest = (
        sa.select(breaker_transitions.c.breaker, sa.func.max(breaker_transitions.c.generation).label("top"))
        .where(breaker_transitions.c.revision <= revision)
        .group_by(breaker_transitions.c.breaker)
        .subquery()
    )
    rows = await connection.execute(
        sa.select(
            breaker_transitions.c.breaker, breaker_transitions.c.to_state, breaker_transitions.c.at
        ).join(
            newest,
            sa.and_(
                breaker_transitions.c.breaker == newest.c.breaker,
                breaker_transitions.c.generation == newest.c.top,
            ),
        )
    )
    then = {row.breaker: row for row in rows}
    return {name: _as_of(hold, then.get(name)) for name, hold in holds.items()}


def _as_of(hold: Hold, move: Any) -> Hold:
    held = move is not None and BreakerState(move.to_state).holds
    if held == hold.held:
        return hold
    return Hold(hold.number, held, move.at if held else None)


class SqlLedger:
    """The `Ledger` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, record: BreakerRecord) -> int:
        return await self._database.write(lambda c: _record(c, record))

    async def latest(self) -> dict[str, BreakerRecord]:
        numbered = sa.select(
            breaker_transitions,
            sa.func.row_number()
            .over(
                partition_by=breaker_transitions.c.breaker,
                order_by=breaker_transitions.c.generation.desc(),
            )
            .label("nth"),
        ).subquery()
        statement = (
            sa.select(numbered)
            .where(numbered.c.nth <= TRANSITIONS_KEPT)
            .order_by(numbered.c.breaker, numbered.c.generation)
        )

        async def work(connection: AsyncConnection) -> dict[str, BreakerRecord]:
            told: dict[str, list[Transition]] = {}
            for row in await connection.execute(statement):
                told.setdefault(row.breaker, []).append(_transition_of(row))
            until = {
                row.job_type: row.held_until
                for row in await connection.execute(sa.select(job_types.c.job_type, job_types.c.held_until))
            }
            return {name: _rebuilt(name, moves, until.get(name)) for name, moves in told.items()}

        return await self._database.read(work)


async def _record(connection: AsyncConnection, record: BreakerRecord) -> int:
    if await _missing(connection, record):
        # Looked at again once it is our turn: whoever went before us may have written the same.
        await _take_revisions(connection, 0)
        missing = await _missing(connection, record)
        first = await _take_revisions(connection, len(missing)) - len(missing) + 1
        rows = [_row(record.name, move, revision) for revision, move in enumerate(missing, start=first)]
        if rows:
            await connection.execute(sa.insert(breaker_transitions), rows)
    await _set_hold(connection, record)
    return await revision_now(connection)


async def _missing(connection: AsyncConnection, record: BreakerRecord) -> list[Transition]:
    """The record's transitions that the ledger lacks, oldest first."""
    generations = [move.generation for move in record.transitions]
    statement = sa.select(breaker_transitions.c.generation).where(
        breaker_transitions.c.breaker == record.name, breaker_transitions.c.generation.in_(generations)
    )
    known = set((await connection.execute(statement)).scalars())
    missing = [move for move in record.transitions if move.generation not in known]
    return sorted(missing, key=lambda move: move.generation)


async def _take_revisions(connection: AsyncConnection, number: int) -> int:
    """Numbers in commit order: the row stays locked until this transaction ends."""
    insert: Any = upsert(connection)(counters).values(name=LEDGER, value=number)
    statement = insert.on_conflict_do_update(
        index_elements=[counters.c.name], set_={"value": counters.c.value + number}
    ).returning(counters.c.value)
    return int((await connection.execute(statement)).scalar_one())


async def _set_hold(connection: AsyncConnection, record: BreakerRecord) -> None:
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


def _row(name: str, move: Transition, revision: int) -> dict[str, Any]:
    return {
        "revision": revision,
        "breaker": name,
        "generation": move.generation,
        "from_state": move.from_state.value,
        "to_state": move.to_state.value,
        "at": move.at,
        "cause": move.cause.value,
        "actor": move.actor,
        "reason": move.reason,
        "error_code": move.error_code,
    }


def _transition_of(row: Any) -> Transition:
    return Transition(
        from_state=BreakerState(row.from_state),
        to_state=BreakerState(row.to_state),
        generation=row.generation,
        at=row.at,
        cause=Cause(row.cause),
        actor=row.actor,
        reason=row.reason,
        error_code=row.error_code,
    )


def _rebuilt(name: str, moves: list[Transition], held_until: int | None) -> BreakerRecord:
    """A record good enough to go on from: state, since when, until when; escalation starts anew."""
    last = moves[-1]
    held = last.to_state.holds
    opened = [m.at for m in moves if m.to_state is BreakerState.OPEN]
    return BreakerRecord(
        name=name,
        state=last.to_state,
        generation=last.generation,
        opened_at=(opened[-1] if opened else last.at) if held else None,
        open_until=held_until if held else None,
        error_code=last.error_code if held else "",
        forced=held and last.cause is Cause.OPERATOR,
        transitions=tuple(moves),
    )
