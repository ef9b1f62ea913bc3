"""Accepting jobs: a batch of submits is one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobkit.adapters.sql.engine import Database, in_halves, packed, upsert
from jobkit.adapters.sql.tables import job_labels, jobs, request_keys
from jobkit.adapters.sql.terms import any_text, db_now, earlier_of
from jobkit.domain.errors import AlreadyExists, FieldViolation, InvalidJob
from jobkit.domain.job import JobState, NewJob
from jobkit.ports import Accepted


class SqlIntake:
    """The `Intake` port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(
        self, batch: Sequence[NewJob], *, session: UUID | None, now: int, marks: Mapping[str, int]
    ) -> list[Accepted | Exception]:
        async def run(part: Sequence[NewJob]) -> list[Accepted | Exception]:
            return await self._database.write(lambda c: _insert(c, part, session, now, marks))

        async def alone(_: NewJob) -> Accepted | Exception:
            return InvalidJob([FieldViolation("payload", "cannot be stored")])

        return await in_halves(batch, run, alone) if batch else []


async def _insert(
    connection: AsyncConnection,
    batch: Sequence[NewJob],
    session: UUID | None,
    now: int,
    marks: Mapping[str, int],
) -> list[Accepted | Exception]:
    keyed = [job for job in batch if job.request_id]
    owners = await _claim_keys(connection, keyed) if keyed else {}
    answers: list[Accepted | Exception] = []
    fresh: list[NewJob] = []
    for job in batch:
        owner = owners.get(job.request_id) if job.request_id else None
        if owner is None or owner[0] == job.job_id:
            fresh.append(job)
            answers.append(Accepted(job.job_id, existed=False))
        elif owner[1] == job.content_hash:
            answers.append(Accepted(owner[0], existed=True))
        else:
            answers.append(
                AlreadyExists(
                    f"request_id '{job.request_id}' was used with other content",
                    reason="REQUEST_ID_REUSED",
                    metadata={"requestId": job.request_id, "jobId": str(owner[0])},
                )
            )
    if fresh:
        rows = [_row(job, session, now, marks.get(job.job_type, 0)) for job in fresh]
        await connection.execute(_INSERT, rows)
        labels = [
            {"key": key, "value": value, "job_id": job.job_id}
            for job in fresh
            for key, value in job.labels.items()
        ]
        if labels:
            await connection.execute(sa.insert(job_labels), labels)
    return answers


async def _claim_keys(connection: AsyncConnection, batch: Sequence[NewJob]) -> dict[str, tuple[UUID, bytes]]:
    """Who owns each request_id: the first to claim it. Sorted, so that two batches lock in one order."""
    first: dict[str, NewJob] = {}
    for job in batch:
        first.setdefault(job.request_id, job)
    ordered = sorted(first)
    insert: Any = upsert(connection)(request_keys).on_conflict_do_nothing()
    await connection.execute(
        insert,
        [
            {"request_id": key, "job_id": first[key].job_id, "content_hash": first[key].content_hash}
            for key in ordered
        ],
    )
    found = await connection.execute(
        sa.select(request_keys).where(any_text(request_keys.c.request_id, ordered))
    )
    return {row.request_id: (row.job_id, row.content_hash) for row in found}


# Whatever the clock of the host says: a job that is due in the future would lose its token, which is here now.
_INSERT = sa.insert(jobs).values(due_at=earlier_of(sa.bindparam("b_due", type_=sa.BigInteger), db_now()))


def _row(job: NewJob, session: UUID | None, now: int, mark: int) -> dict[str, Any]:
    state = JobState.PENDING if session is None else JobState.QUEUED
    timeout = job.attempt_timeout
    return {
        "job_id": job.job_id,
        "job_type": job.job_type,
        "state": state.value,
        "b_due": now,
        "session_id": session,
        "payload": job.payload,
        "labels": packed(dict(job.labels)) if job.labels else None,
        "request_id": job.request_id or None,
        "max_attempts": job.max_attempts,
        "attempt_timeout_ms": round(timeout.total_seconds() * 1000) if timeout else None,
        "traceparent": job.trace.traceparent or None,
        "tracestate": job.trace.tracestate or None,
        "baggage": job.trace.baggage or None,
        "hold_mark": mark,
        "created_at": now,
        "updated_at": now,
    }
