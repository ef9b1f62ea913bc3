"""Commands to single workers, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.presence import millis_of
from jobkit.adapters.sql.tables import worker_commands
from jobkit.adapters.sql.terms import any_picked, any_text, db_now, db_start
from jobkit.ports import Action, WorkerCommand

_open = worker_commands.c.answered_at.is_(None)


class SqlCommands:
    """The `WorkerCommands` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, command: WorkerCommand) -> None:
        values = {
            "command_id": command.command_id,
            "worker_id": command.worker_id,
            "instance_id": command.instance_id,
            "action": command.action.value,
            "actor": command.actor,
            "reason": command.reason,
            "asked_at": db_now(),
            "code": 0,
            "error": "",
        }

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.insert(worker_commands).values(**values))

        await self._database.write(work)

    async def unanswered(self, worker_ids: Sequence[str], limit: int) -> list[WorkerCommand]:
        statement = (
            sa.select(worker_commands)
            .where(_open, any_text(worker_commands.c.worker_id, sorted(set(worker_ids))))
            .order_by(worker_commands.c.asked_at, worker_commands.c.command_id)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> list[WorkerCommand]:
            return [_command(row) for row in await connection.execute(statement)]

        return await self._database.read(work) if worker_ids else []

    async def answer(self, command_id: UUID, code: int, error: str) -> bool:
        statement = (
            sa.update(worker_commands)
            .where(worker_commands.c.command_id == command_id, _open)
            .values(answered_at=db_now(), code=code, error=error)
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(statement)).rowcount > 0

        return await self._database.write(work)

    async def latest(self, worker_ids: Sequence[str]) -> dict[str, WorkerCommand]:
        statement = (
            sa.select(worker_commands)
            .where(any_text(worker_commands.c.worker_id, sorted(set(worker_ids))))
            .order_by(worker_commands.c.asked_at, worker_commands.c.command_id)
        )

        async def work(connection: AsyncConnection) -> dict[str, WorkerCommand]:
            return {row.worker_id: _command(row) for row in await connection.execute(statement)}

        return await self._database.read(work) if worker_ids else {}

    async def purge(self, older_than: timedelta, limit: int) -> int:
        old = (
            sa.select(worker_commands.c.command_id)
            .where(worker_commands.c.asked_at < db_start() - millis_of(older_than))
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> int:
            found = await connection.execute(
                sa.delete(worker_commands).where(any_picked(worker_commands.c.command_id, old))
            )
            return found.rowcount

        return await self._database.write(work)


def _command(row: Any) -> WorkerCommand:
    return WorkerCommand(
        command_id=row.command_id,
        worker_id=row.worker_id,
        instance_id=row.instance_id,
        action=Action(row.action),
        actor=row.actor,
        reason=row.reason,
        asked_at=row.asked_at,
        answered_at=row.answered_at,
        code=row.code,
        error=row.error,
    )
