"""Accepting jobs: a batch of submits is one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobkit.adapters.sql.engine import Database, by_core, in_halves, packed
from jobkit.adapters.sql.hot import Hot, Run
from jobkit.adapters.sql.tables import job_labels, jobs, request_keys
from jobkit.adapters.sql.terms import TEXTS, any_text, db_now, each_row, earlier_of
from jobkit.domain.errors import AlreadyExists, FieldViolation, InvalidJob, store_unavailable
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
            rows = Rows(session, now, marks)

            def insert(run: Run) -> list[Accepted | Exception]:
                return _insert(run, part, rows, sqlite=self._database.is_sqlite)

            # Rows and their keys are one statement; labels have a table of their own.
            if any(job.labels for job in part):
                return await self._database.write(lambda c: by_core(c, insert))
            if self._database.is_sqlite:
                return await self._database.steps(insert)
            if any(job.request_id for job in part):
                return await self._insert_keyed(part, rows)
            await self._database.rows(_INSERT_EACH, rows.lists(part), write=True)
            return [Accepted(job.job_id, existed=False) for job in part]

        async def alone(_: NewJob) -> Accepted | Exception:
            return InvalidJob([FieldViolation("payload", "cannot be stored")])

        return await in_halves(batch, run, alone) if batch else []

    async def _insert_keyed(self, batch: Sequence[NewJob], rows: Rows) -> list[Accepted | Exception]:
        first = _firsts(batch)
        candidates = [job for job in batch if not job.request_id or first[job.request_id] is job]
        ordered = sorted(first)
        keys = {
            "b_key": ordered,
            "b_owner": [first[key].job_id for key in ordered],
            "b_hash": [first[key].content_hash for key in ordered],
        }
        written = await self._database.rows(_INSERT_KEYED, rows.lists(candidates) | keys, write=True)
        fresh = {row[0] for row in written}
        owners = {
            job.request_id: (job.job_id, job.content_hash) for job in first.values() if job.job_id in fresh
        }
        if earlier := [key for key in ordered if key not in owners]:
            found = await self._database.rows(_OWNERS, {"b_key": earlier}, write=True)
            owners |= {row[0]: (row[1], row[2]) for row in found}
        # A key that was taken and is gone when its owner is looked for has left with retention, just now.
        return [
            _told(job, owners)
            if not job.request_id or job.request_id in owners
            else store_unavailable("database")
            for job in batch
        ]


@dataclass(frozen=True, slots=True)
class Rows:
    """What makes rows of jobs: who publishes their tokens, database time, hold marks by type."""

    session: UUID | None
    now: int
    marks: Mapping[str, int]

    @property
    def shared(self) -> dict[str, Any]:
        """The parameters that all rows of a batch share."""
        state = JobState.PENDING if self.session is None else JobState.QUEUED
        return {"b_state": state.value, "b_session": self.session, "b_now": self.now}

    def lists(self, batch: Sequence[NewJob]) -> dict[str, Any]:
        """The parameters of one statement for all of `batch`."""
        return {f"b_{name}": values for name, values in _columns(batch, self.marks).items()} | self.shared

    def each(self, batch: Sequence[NewJob]) -> list[dict[str, Any]]:
        """Those of a statement for each."""
        columns, shared = _columns(batch, self.marks), self.shared
        names = [f"b_{name}" for name in columns]
        return [dict(zip(names, row, strict=True)) | shared for row in zip(*columns.values(), strict=True)]


def _insert(run: Run, batch: Sequence[NewJob], rows: Rows, *, sqlite: bool) -> list[Accepted | Exception]:
    first = _firsts(batch)
    owners: dict[str, tuple[UUID, bytes]] = {}
    if first:
        # Who owns each request_id: the first to claim it. Sorted, so that two batches lock in one order.
        ordered = sorted(first)
        run.many(_KEY_SQLITE if sqlite else _KEY_POSTGRESQL, [_key_of(first[key]) for key in ordered])
        owners = {row[0]: (row[1], row[2]) for row in run.rows(_OWNERS, {"b_key": ordered})}
    answers = [_told(job, owners) for job in batch]
    if fresh := _fresh(batch, answers):
        if sqlite:
            run.many(_INSERT, rows.each(fresh))
        else:
            run.many(_INSERT_EACH, [rows.lists(fresh)])
        labels = [
            {"key": key, "value": value, "job_id": job.job_id}
            for job in fresh
            for key, value in job.labels.items()
        ]
        if labels:
            run.many(_LABEL, labels)
    return answers


def _fresh(batch: Sequence[NewJob], answers: Sequence[Accepted | Exception]) -> list[NewJob]:
    return [j for j, a in zip(batch, answers, strict=True) if isinstance(a, Accepted) and not a.existed]


def _key_of(job: NewJob) -> dict[str, Any]:
    return {"request_id": job.request_id, "job_id": job.job_id, "content_hash": job.content_hash}


def _firsts(batch: Sequence[NewJob]) -> dict[str, NewJob]:
    """By request_id, the first of the batch that carries it."""
    first: dict[str, NewJob] = {}
    for job in batch:
        if job.request_id:
            first.setdefault(job.request_id, job)
    return first


def _told(job: NewJob, owners: Mapping[str, tuple[UUID, bytes]]) -> Accepted | Exception:
    """A job's answer, given who owns each request_id: itself, or an earlier job."""
    owner = owners.get(job.request_id) if job.request_id else None
    if owner is None or owner[0] == job.job_id:
        return Accepted(job.job_id, existed=False)
    if owner[1] == job.content_hash:
        return Accepted(owner[0], existed=True)
    return AlreadyExists(
        f"request_id '{job.request_id}' was used with other content",
        reason="REQUEST_ID_REUSED",
        metadata={"requestId": job.request_id, "jobId": str(owner[0])},
    )


def _columns(batch: Sequence[NewJob], marks: Mapping[str, int]) -> dict[str, list[Any]]:
    """What differs from row to row, by column."""
    return {
        "job_id": [job.job_id for job in batch],
        "job_type": [job.job_type for job in batch],
        "payload": [job.payload for job in batch],
        "labels": [packed(dict(job.labels)) if job.labels else None for job in batch],
        "request_id": [job.request_id or None for job in batch],
        "max_attempts": [job.max_attempts for job in batch],
        "attempt_timeout_ms": [
            round(job.attempt_timeout.total_seconds() * 1000) if job.attempt_timeout else None
            for job in batch
        ],
        "traceparent": [job.trace.traceparent or None for job in batch],
        "tracestate": [job.trace.tracestate or None for job in batch],
        "baggage": [job.trace.baggage or None for job in batch],
        "hold_mark": [marks.get(job.job_type, 0) for job in batch],
    }


_each = each_row(
    "each_job",
    job_id=sa.Uuid,
    job_type=sa.String,
    payload=sa.LargeBinary,
    labels=sa.LargeBinary,
    request_id=sa.String,
    max_attempts=sa.Integer,
    attempt_timeout_ms=sa.BigInteger,
    traceparent=sa.String,
    tracestate=sa.String,
    baggage=sa.String,
    hold_mark=sa.Integer,
)
_now: sa.ColumnElement[int] = sa.bindparam("b_now", type_=sa.BigInteger)
# What all rows of a batch share.
_SHARED: dict[str, sa.ColumnElement[Any]] = {
    "state": sa.bindparam("b_state", type_=sa.String),
    "session_id": sa.bindparam("b_session", type_=sa.Uuid),
    # Whatever the clock of the host says: a job that is due in the future would lose its token, which is here now.
    "due_at": earlier_of(_now, db_now()),
    "created_at": _now,
    "updated_at": _now,
}
_INSERT = Hot(
    sa.insert(jobs).values({c.name: sa.bindparam(f"b_{c.name}", type_=c.type) for c in _each.c} | _SHARED)
)
_INSERT_EACH = Hot(
    sa.insert(jobs).from_select(
        [*_each.c.keys(), *_SHARED],
        sa.select(*_each.c, *(value.label(name) for name, value in _SHARED.items())),
    )
)
_KEY_SQLITE = Hot(sqlite.insert(request_keys).on_conflict_do_nothing())
_KEY_POSTGRESQL = Hot(postgresql.insert(request_keys).on_conflict_do_nothing())
_LABEL = Hot(sa.insert(job_labels))
_each_key = each_row("each_key", key=sa.String, owner=sa.Uuid, hash=sa.LargeBinary)
# In the order of the keys, as every batch does, so that two of them queue up instead of deadlocking.
_owned = (
    postgresql.insert(request_keys)
    .from_select(["request_id", "job_id", "content_hash"], sa.select(*_each_key.c).order_by(_each_key.c.key))
    .on_conflict_do_nothing()
    .returning(request_keys.c.job_id)
    .cte("owned")
)
_INSERT_KEYED = Hot(
    sa.insert(jobs)
    .from_select(
        [*_each.c.keys(), *_SHARED],
        sa.select(*_each.c, *(value.label(name) for name, value in _SHARED.items())).where(
            sa.or_(_each.c.request_id.is_(None), _each.c.job_id.in_(sa.select(_owned.c.job_id)))
        ),
    )
    .returning(jobs.c.job_id)
)
_OWNERS = Hot(
    sa.select(request_keys).where(any_text(request_keys.c.request_id, sa.bindparam("b_key", type_=TEXTS)))
)
