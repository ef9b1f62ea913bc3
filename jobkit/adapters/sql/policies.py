"""Breaker policies in the database."""

from __future__ import annotations

from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, packed, upsert
from jobkit.adapters.sql.standing import rehold
from jobkit.adapters.sql.tables import counters, job_types, policies
from jobkit.adapters.sql.terms import db_now
from jobkit.domain.breaker import Mode
from jobkit.domain.policy import PolicyOverride, PolicySet, StoredPolicy, check_etag
from jobkit.ports.revisions import POLICIES


class SqlPolicies:
    """The `Policies` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def revision(self) -> int:
        return await self._database.read(_revision)

    async def current(self) -> PolicySet:
        return await self._database.read(policies_now)

    async def list(self) -> list[StoredPolicy]:
        async def work(connection: AsyncConnection) -> list[StoredPolicy]:
            rows = await connection.execute(sa.select(policies).order_by(policies.c.pattern))
            return [_stored(row) for row in rows]

        return await self._database.read(work)

    async def get(self, pattern: str) -> StoredPolicy | None:
        return await self._database.read(lambda c: _find(c, pattern))

    async def put(
        self, pattern: str, override: PolicyOverride, *, etag: str, actor: str, reason: str
    ) -> StoredPolicy:
        async def work(connection: AsyncConnection) -> StoredPolicy:
            revision = await _next_revision(connection)  # locks: one writer at a time
            found = await _find(connection, pattern)
            check_etag(found or StoredPolicy(pattern, override, 0), etag)
            values = {
                "settings": pack(override),
                "revision": revision,
                "actor": actor,
                "reason": reason,
                "updated_at": db_now(),
            }
            statement: Any = upsert(connection)(policies).values(pattern=pattern, **values)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=[policies.c.pattern], set_=values)
            )
            # A mode may have changed: what was held in name only is held from now on, or the other way round.
            names = (await connection.execute(sa.select(job_types.c.job_type))).scalars().all()
            await rehold(connection, names, await policies_now(connection))
            stored = await _find(connection, pattern)
            assert stored is not None
            return stored

        return await self._database.write(work)


async def policies_now(connection: AsyncConnection) -> PolicySet:
    """All overrides, for a decision within a transaction."""
    rows = (await connection.execute(sa.select(policies.c.pattern, policies.c.settings))).all()
    return PolicySet(await _revision(connection), {row.pattern: unpack(row.settings) for row in rows})


def pack(override: PolicyOverride) -> bytes:
    """What is set, as JSON."""
    settings = override.settings
    if "ignored_error_codes" in settings:
        settings["ignored_error_codes"] = sorted(settings["ignored_error_codes"])
    return packed(settings)


def unpack(value: bytes) -> PolicyOverride:
    settings = orjson.loads(value)
    if "mode" in settings:
        settings["mode"] = Mode(settings["mode"])
    if "ignored_error_codes" in settings:
        settings["ignored_error_codes"] = frozenset(settings["ignored_error_codes"])
    return PolicyOverride(**settings)


async def _revision(connection: AsyncConnection) -> int:
    statement = sa.select(counters.c.value).where(counters.c.name == POLICIES)
    return (await connection.execute(statement)).scalar() or 0


async def _next_revision(connection: AsyncConnection) -> int:
    insert: Any = upsert(connection)(counters).values(name=POLICIES, value=1)
    statement = insert.on_conflict_do_update(
        index_elements=[counters.c.name], set_={"value": counters.c.value + 1}
    ).returning(counters.c.value)
    return int((await connection.execute(statement)).scalar_one())


async def _find(connection: AsyncConnection, pattern: str) -> StoredPolicy | None:
    row = (await connection.execute(sa.select(policies).where(policies.c.pattern == pattern))).one_or_none()
    return None if row is None else _stored(row)


def _stored(row: Any) -> StoredPolicy:
    return StoredPolicy(
        row.pattern, unpack(row.settings), row.revision, row.actor, row.reason, row.updated_at
    )
