"""What people do to single jobs: cancel, retry, discard."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.holds import holds_now, mark_now
from jobkit.adapters.sql.presence import answer_for
from jobkit.adapters.sql.rows import job_of, token_of
from jobkit.adapters.sql.tables import jobs
from jobkit.adapters.sql.terms import db_now
from jobkit.domain.errors import NotFound, Precondition
from jobkit.domain.job import Job, JobState, Token

WAITING = (JobState.PENDING.value, JobState.QUEUED.value, JobState.RETRYING.value)


class SqlSteering:
    """The `Steering` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cancel(self, job_id: UUID) -> tuple[Job, bool]:
        async def work(connection: AsyncConnection) -> tuple[Job, bool]:
            job = await _lock(connection, job_id)
            if job.state is JobState.RUNNING:
                await _update(connection, job_id, cancel_requested=True)
                return await _read(connection, job_id), False
            if job.state.finished:
                if job.state is JobState.CANCELLED:
                    return job, False
                raise Precondition(
                    f"job is {job.state.value} already", reason="JOB_NOT_CANCELLABLE", metadata=_about(job)
                )
            await _update(
                connection, job_id, state=JobState.CANCELLED.value, finished_at=db_now(), **_NO_QUARANTINE
            )
            return await _read(connection, job_id), True

        return await self._database.write(work)

    async def retry(self, job_id: UUID, payload: bytes | None, session: UUID) -> tuple[Job, Token | None]:
        async def work(connection: AsyncConnection) -> tuple[Job, Token | None]:
            job = await _lock(connection, job_id)
            changes: dict[str, Any] = {} if payload is None else {"payload": payload}
            if job.quarantine is None:
                raise Precondition(
                    f"job is {job.state.value}, not quarantined",
                    reason="JOB_NOT_QUARANTINED",
                    metadata=_about(job),
                )
            if job.quarantine.reason.by_hold:
                # Its place in line stays; it flows when the breaker closes or the pause ends.
                if changes:
                    await _update(connection, job_id, **changes)
                return await _read(connection, job_id), None
            row = await _update(
                connection,
                job_id,
                **back_to_work(session),
                **changes,
            )
            await answer_for(connection, session, [job_id])
            return await _read(connection, job_id), token_of(row)

        return await self._database.write(work)

    async def discard(self, job_id: UUID) -> tuple[Job, bool]:
        async def work(connection: AsyncConnection) -> tuple[Job, bool]:
            job = await _lock(connection, job_id)
            if job.state is JobState.DISCARDED:
                return job, False
            if job.quarantine is None:
                raise Precondition(
                    f"job is {job.state.value}, not quarantined",
                    reason="JOB_NOT_QUARANTINED",
                    metadata=_about(job),
                )
            await _update(connection, job_id, **given_up())
            return await _read(connection, job_id), True

        return await self._database.write(work)


_NO_QUARANTINE: dict[str, Any] = {"quarantine_reason": None, "quarantined_at": None}


def back_to_work(session: UUID) -> dict[str, Any]:
    """What makes a quarantined row run again: its attempts go on counting, its limit starts anew."""
    return {
        "state": JobState.QUEUED.value,
        "attempts_base": jobs.c.attempts,
        "losses": 0,
        "losses_alone": 0,
        "due_at": db_now(),
        "session_id": session,
        "hold_mark": mark_now,
        **_NO_QUARANTINE,
    }


def given_up() -> dict[str, Any]:
    """What makes a quarantined row a discarded one."""
    return {"state": JobState.DISCARDED.value, "finished_at": db_now(), **_NO_QUARANTINE}


def _about(job: Job) -> dict[str, str]:
    return {"jobId": str(job.job_id), "state": job.state.value}


async def _lock(connection: AsyncConnection, job_id: UUID) -> Job:
    return await _read(connection, job_id, lock=True)


async def _read(connection: AsyncConnection, job_id: UUID, *, lock: bool = False) -> Job:
    statement = sa.select(jobs, db_now().label("now")).where(jobs.c.job_id == job_id)
    if lock:
        statement = statement.with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFound("job", str(job_id))
    return job_of(row, await holds_now(connection, [row.job_type]), row.now)


async def _update(connection: AsyncConnection, job_id: UUID, **values: Any) -> Any:
    statement = sa.update(jobs).where(jobs.c.job_id == job_id).values(updated_at=db_now(), **values)
    return (await connection.execute(statement.returning(jobs))).one()
