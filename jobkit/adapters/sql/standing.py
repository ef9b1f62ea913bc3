"""Which breakers hold now, and hence which job types: a type is held while its own breaker or that of one of its
dependencies holds, and the policy in force lets it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import upsert
from jobkit.adapters.sql.rows import PAUSED
from jobkit.adapters.sql.tables import breaker_standing, job_types, type_needs
from jobkit.adapters.sql.terms import any_text, db_now
from jobkit.domain.attribution import breakers_of
from jobkit.domain.breaker import DEPENDENCY, BreakerPolicy, BreakerRecord, Mode
from jobkit.domain.job import QuarantineReason
from jobkit.domain.policy import PolicySet

# A handler that is not announced for so long (ms) no longer serves; see `SqlTypes.need`.
FORGOTTEN_MS = 86_400_000


async def apply_standing(connection: AsyncConnection, record: BreakerRecord, policies: PolicySet) -> None:
    """The breaker stands so from now on, unless a newer generation said otherwise; the holds follow."""
    if not record.is_dependency:
        insert: Any = upsert(connection)(job_types).values(job_type=record.name, created_at=db_now())
        await connection.execute(insert.on_conflict_do_nothing())
    holds = record.state.holds
    values = {
        "generation": record.generation,
        "holds": holds,
        "since": record.opened_at if holds else None,
        "until": record.open_until if holds else None,
    }
    stand: Any = upsert(connection)(breaker_standing).values(breaker=record.name, **values)
    await connection.execute(
        stand.on_conflict_do_update(
            index_elements=[breaker_standing.c.breaker],
            set_=values,
            where=breaker_standing.c.generation < record.generation,
        )
    )
    await rehold(connection, await types_behind(connection, record.name), policies)


async def rehold(connection: AsyncConnection, names: Collection[str], policies: PolicySet) -> None:
    """Hold these types, or let them go. A reopening is the same hold; only a new one gets a number."""
    if not names:
        return
    # In order, and before the breakers are read: whoever moves another of their breakers goes before or after us.
    locked = sa.select(job_types, PAUSED.label("paused")).where(any_text(job_types.c.job_type, sorted(names)))
    rows = (await connection.execute(locked.order_by(job_types.c.job_type).with_for_update())).all()
    needs = await needs_now(connection, [row.job_type for row in rows])
    behind = {row.job_type: breakers_of(row.job_type, needs.get(row.job_type, ())) for row in rows}
    standing = await _standing(connection, {name for names in behind.values() for name in names})
    for row in rows:
        if row.held_reason not in (None, QuarantineReason.BREAKER_OPEN.value):
            continue  # somebody else's hold
        holding = [
            standing[name] for name in behind[row.job_type] if name in standing and enforced(policies, name)
        ]
        wanted = _hold_of(row, holding)
        if wanted is not None:
            statement = sa.update(job_types).where(job_types.c.job_type == row.job_type)
            await connection.execute(statement.values(**wanted))


def enforced(policies: PolicySet, breaker: str) -> bool:
    """Whether a breaker may hold anything."""
    return policies.resolve(BreakerPolicy(), breaker).mode is Mode.ENFORCED


def _hold_of(row: Any, holding: Sequence[Any]) -> dict[str, Any] | None:
    """What to write to a type's row; None when it says so already."""
    if not holding:
        if row.held_reason is None:
            return None
        return {"held_reason": None, "held_since": None, "held_until": None, "held_breaker": None}
    first = min(holding, key=lambda breaker: (breaker.since or 0, breaker.breaker))
    ends = [breaker.until for breaker in holding]
    fresh = row.held_reason is None
    found = {
        # Opening while an operator has paused the type is the same hold.
        "hold_number": row.hold_number + (1 if fresh and not row.paused else 0),
        "held_reason": QuarantineReason.BREAKER_OPEN.value,
        "held_since": first.since if fresh else row.held_since,
        "held_until": None if None in ends else max(ends),
        "held_breaker": first.breaker,
    }
    return found if any(getattr(row, name) != value for name, value in found.items()) else None


async def needs_now(connection: AsyncConnection, types: Collection[str] | None) -> Mapping[str, list[str]]:
    """The dependencies of `types`, or of all when None, as their handlers declare them."""
    statement = sa.select(type_needs.c.job_type, type_needs.c.dependency).where(
        type_needs.c.seen_at > db_now() - FORGOTTEN_MS
    )
    if types is not None:
        statement = statement.where(any_text(type_needs.c.job_type, sorted(types)))
    found: dict[str, list[str]] = {}
    for row in await connection.execute(statement.order_by(type_needs.c.job_type, type_needs.c.dependency)):
        found.setdefault(row.job_type, []).append(row.dependency)
    return found


async def types_behind(connection: AsyncConnection, breaker: str) -> list[str]:
    """The job types that the breaker guards: the one that it is of, or those that declare the dependency."""
    if not breaker.startswith(DEPENDENCY):
        return [breaker]
    statement = sa.select(type_needs.c.job_type).where(
        type_needs.c.dependency == breaker.removeprefix(DEPENDENCY),
        type_needs.c.seen_at > db_now() - FORGOTTEN_MS,
    )
    return list((await connection.execute(statement)).scalars())


async def _standing(connection: AsyncConnection, names: Collection[str]) -> Mapping[str, Any]:
    statement = sa.select(breaker_standing).where(
        any_text(breaker_standing.c.breaker, sorted(names)), breaker_standing.c.holds
    )
    return {row.breaker: row for row in await connection.execute(statement)}
