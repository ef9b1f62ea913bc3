"""Whatever happens in whatever order, no job is lost: clients, workers, operators, crashes and reconcilers act on the
SQL adapter as hypothesis pleases, and after each step every row is compared with the one before it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.tables import jobs
from jobkit.domain.errors import Precondition
from jobkit.domain.filter import JobFilter
from jobkit.domain.job import TRANSITIONS, ClaimedJob, JobState, QuarantineReason, Token
from jobkit.domain.retry import Cancel, Complete, Decision, Forget, Isolate, Postpone, Release, Retry
from jobkit.ports import Held, Lease, Miss
from tests.contract.store_contract import LEASE, OTHER_SESSION, SESSION, TIMED_OUT, Store, new_id
from tests.model.timeless import without_fsync
from tests.templates import migrated

R = TypeVar("R")
TYPES = ("email", "sms")
DECISIONS: list[Decision] = [
    Complete(b"{}"),
    Retry(timedelta(), TIMED_OUT),
    Retry(timedelta(seconds=60), TIMED_OUT),
    Retry(timedelta(), None, counted=False),
    Postpone(timedelta()),
    Isolate(QuarantineReason.RETRIES_EXHAUSTED, TIMED_OUT),
    Isolate(QuarantineReason.POISON, TIMED_OUT),
    Release(),
    Cancel(),
    Forget(),
]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker believes to hold."""

    held: Held
    claim_id: UUID


class JobMachine(RuleBasedStateMachine):
    ids = Bundle("ids")
    claims = Bundle("claims")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory(prefix="selfheal-model-")
        path = Path(self._folder.name) / "jobs.db"
        path.write_bytes(migrated())
        database = Database(f"sqlite:///{path}")
        without_fsync(database)
        self.store = Store(database)
        self.run(self.store.types.ensure(TYPES, 10))
        self.accepted: set[UUID] = set()
        self.held: set[str] = set()
        self.before: dict[UUID, Any] = {}

    def teardown(self) -> None:
        with contextlib.closing(self._runner):
            self.run(self.lists_agree_with_reads())
            self.run(self.store.database.close())
        self._folder.cleanup()

    def run(self, action: Coroutine[Any, Any, R]) -> R:
        return self._runner.run(action)

    def rows(self) -> dict[UUID, Any]:
        async def work(connection: Any) -> dict[UUID, Any]:
            return {row.job_id: row for row in await connection.execute(sa.select(jobs))}

        return self.run(self.store.database.read(work))

    def row(self, job_id: UUID) -> Any:
        return self.run(self.store.row(job_id))

    # -- clients and operators

    @rule(target=ids, job_type=st.sampled_from(TYPES), known_publisher=st.booleans())
    def submit(self, job_type: str, known_publisher: bool) -> UUID:
        job_id = self.run(self.store.submit(job_type, session=SESSION if known_publisher else None))
        self.accepted.add(job_id)
        return job_id

    @rule(job_id=ids)
    def cancel(self, job_id: UUID) -> None:
        state = JobState(self.row(job_id).state)
        try:
            job, _ = self.run(self.store.steering.cancel(job_id))
        except Precondition:
            assert state in (JobState.SUCCEEDED, JobState.DISCARDED)
        else:
            assert job.state is (JobState.RUNNING if state is JobState.RUNNING else JobState.CANCELLED)

    @rule(job_id=ids)
    def retry(self, job_id: UUID) -> None:
        read = self.run(self.store.get(job_id))
        try:
            job, token = self.run(self.store.steering.retry(job_id, b"{}", OTHER_SESSION))
        except Precondition:
            assert read.quarantine is None
        else:
            assert read.quarantine is not None
            assert (token is None) == (read.quarantine.reason is QuarantineReason.BREAKER_OPEN)
            assert job.payload == b"{}"

    @rule(job_id=ids)
    def discard(self, job_id: UUID) -> None:
        read = self.run(self.store.get(job_id))
        try:
            job, _ = self.run(self.store.steering.discard(job_id))
        except Precondition:
            assert read.quarantine is None
        else:
            assert job.state is JobState.DISCARDED

    @rule(job_type=st.sampled_from(TYPES))
    def hold_or_lift(self, job_type: str) -> None:
        self.run(self.store.lift(job_type) if job_type in self.held else self.store.hold(job_type))
        self.held ^= {job_type}

    # -- workers

    @rule(target=claims, job_id=ids)
    def claim(self, job_id: UUID) -> Any:
        row, now = self.row(job_id), self.run(self.store.database.now())
        waits = JobState(row.state).waiting and row.due_at <= now
        abandoned = row.state == "RUNNING" and row.lease_until < now and not row.cancel_requested
        claim_id = new_id()
        answer = self.run(self.store.work.claim([job_id], claim_id=claim_id, worker_id="w", lease=LEASE))[
            job_id
        ]
        if isinstance(answer, Miss) and answer.expired is not None:
            assert abandoned
            answer = self.run(
                self.store.work.take_over(answer.expired, claim_id=claim_id, worker_id="w", lease=LEASE)
            )
        if not isinstance(answer, ClaimedJob):
            assert not waits
            assert not abandoned
            return multiple()
        assert waits or abandoned or row.due_at > now  # the tolerance for tokens that come early
        assert answer.delivery == row.deliveries + 1
        assert answer.losses == row.losses + abandoned
        return Claim(Held(job_id, answer.delivery), claim_id)

    @rule(claim=claims)
    def claim_again_after_a_lost_reply(self, claim: Claim) -> None:
        before = self.row(claim.held.job_id)
        live = before.state == "RUNNING" and before.claim_id == claim.claim_id
        if not live:
            return  # nobody repeats a claim whose outcome is settled
        answer = self.run(
            self.store.work.claim([claim.held.job_id], claim_id=claim.claim_id, worker_id="w", lease=LEASE)
        )[claim.held.job_id]
        assert isinstance(answer, ClaimedJob)
        assert (answer.delivery, answer.losses) == (before.deliveries, before.losses)

    @rule(claim=claims, decision=st.sampled_from(DECISIONS))
    def settle(self, claim: Claim, decision: Decision) -> None:
        job_id, delivery = claim.held.job_id, claim.held.delivery
        before = self.row(job_id)
        live = before.state == "RUNNING" and before.deliveries == delivery
        answer = self.run(self.store.settle(job_id, delivery, decision))
        after = self.row(job_id)
        if not live or isinstance(decision, Forget):
            assert after == before
            assert answer == (not isinstance(decision, Forget) and before.settled_delivery == delivery)
            return
        assert answer
        assert after.settled_delivery == delivery
        if before.cancel_requested:
            assert after.state == ("SUCCEEDED" if isinstance(decision, Complete) else "CANCELLED")

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        before = self.row(claim.held.job_id)
        live = before.state == "RUNNING" and before.deliveries == claim.held.delivery
        ours, asked_to_cancel = self.run(self.store.work.renew([claim.held], lease=LEASE))
        assert ours == ({claim.held.job_id} if live else set())
        assert asked_to_cancel == ({claim.held.job_id} if live and before.cancel_requested else set())
        assert live or self.row(claim.held.job_id) == before

    @rule(claim=claims, processed=st.integers(0, 100))
    def progress(self, claim: Claim, processed: int) -> None:
        before = self.row(claim.held.job_id)
        self.run(self.store.work.progress([(claim.held, processed, 100)]))
        after = self.row(claim.held.job_id)
        if before.state == "RUNNING" and before.deliveries == claim.held.delivery:
            assert after.progress_processed == processed
        else:
            assert after == before

    @rule(claim=claims)
    def mark_alone(self, claim: Claim) -> None:
        before = self.row(claim.held.job_id)
        live = before.state == "RUNNING" and before.deliveries == claim.held.delivery
        assert self.run(self.store.work.mark_alone(claim.held)) == live
        assert live or self.row(claim.held.job_id) == before

    # -- time and crashes

    @rule(job_id=ids)
    def the_worker_dies(self, job_id: UUID) -> None:
        if self.row(job_id).state == "RUNNING":
            self.run(self.store.expire_lease(job_id))

    @rule(job_id=ids)
    def its_time_comes(self, job_id: UUID) -> None:
        if JobState(self.row(job_id).state).waiting:
            self.run(self.store.set(job_id, due_at=0))

    @rule()
    def everything_restarts(self) -> None:
        async def told() -> list[Token]:
            return [
                token async for page in self.store.recovery.waiting_pages(3) async for token in _tokens(page)
            ]

        tokens = self.run(told())
        waiting = {i for i, row in self.rows().items() if JobState(row.state).waiting and row.session_id}
        assert [token.job_id for token in tokens] == sorted(waiting)

    # -- reconcilers

    @rule(target=leases)
    def look_for_expired_leases(self) -> Any:
        return multiple(*self.run(self.store.recovery.expired(2)))

    @rule(lease=consumes(leases))
    def rescue(self, lease: Lease) -> None:
        before = self.row(lease.held.job_id)
        seen = before.deliveries == lease.held.delivery and before.lease_until == lease.lease_until
        tokens, ended = self.run(self.store.recovery.rescue(OTHER_SESSION, [lease]))
        after = self.row(lease.held.job_id)
        if before.state != "RUNNING" or not seen:
            assert (tokens, ended, after) == ([], {}, before)
        elif before.cancel_requested:
            assert (tokens, ended, after.state) == ([], {before.job_type: 1}, "CANCELLED")
        else:
            assert [token.job_id for token in tokens] == [before.job_id]
            assert after.losses == before.losses + 1

    @rule()
    def take_overdue(self) -> None:
        before, now = self.rows(), self.run(self.store.database.now())
        nobodys = {
            i
            for i, row in before.items()
            if JobState(row.state).waiting and row.session_id is None and row.due_at <= now
        }
        taken = {token.job_id for token in self.run(self.store.recovery.take_overdue(OTHER_SESSION, 100))}
        assert taken == nobodys

    @rule(job_type=st.sampled_from(TYPES))
    def take_lost(self, job_type: str) -> None:
        tokens = self.run(self.store.recovery.take_lost(OTHER_SESSION, job_type, 1_000, 100))
        assert all(JobState(self.before[token.job_id].state).waiting for token in tokens)

    @rule(job_id=ids, session=st.sampled_from([SESSION, OTHER_SESSION]))
    def the_broker_refuses_its_token(self, job_id: UUID, session: UUID) -> None:
        before = self.row(job_id)
        self.run(self.store.sessions.orphan(session, [job_id]))
        touched = before.session_id == session and before.state in ("QUEUED", "RETRYING")
        assert touched or self.row(job_id) == before

    # -- what must hold after every step

    @invariant()
    def rows_change_only_as_they_may(self) -> None:
        rows = self.rows()
        assert set(rows) == self.accepted
        for job_id, row in rows.items():
            self._makes_sense(row)
            if job_id in self.before:
                self._follows(self.before[job_id], row)
        self.before = rows

    def _makes_sense(self, row: Any) -> None:
        state = JobState(row.state)
        running = state is JobState.RUNNING
        assert 0 <= row.attempts_base <= row.attempts <= row.deliveries
        assert 0 <= row.losses_alone <= row.losses <= row.deliveries
        assert (row.claim_id is not None) == (row.lease_until is not None) == running
        assert (row.quarantine_reason is not None) == (state is JobState.QUARANTINED)
        assert (row.quarantined_at is not None) == (state is JobState.QUARANTINED)
        assert (row.finished_at is not None) == state.finished
        assert running or state.finished or not row.cancel_requested
        assert state is not JobState.PENDING or row.session_id is None
        assert state is not JobState.QUEUED or row.session_id is not None or row.deliveries
        assert running or not row.alone
        assert row.settled_delivery is None or row.settled_delivery <= row.deliveries

    def _follows(self, before: Any, after: Any) -> None:
        was, now = JobState(before.state), JobState(after.state)
        if was.finished:
            assert after == before
        assert now is was or now in TRANSITIONS[was], f"{was} -> {now}"
        assert after.deliveries - before.deliveries in (0, 1)
        assert after.attempts - before.attempts in (0, 1)
        assert after.holds >= before.holds
        assert after.hold_mark >= before.hold_mark
        if after.deliveries > before.deliveries:
            assert now is JobState.RUNNING
        if now is JobState.RUNNING and was is JobState.RUNNING and after.deliveries > before.deliveries:
            assert after.losses == before.losses + 1

    async def lists_agree_with_reads(self) -> None:
        """Each job is found under the state that it reads as, and under no other."""
        read = await self.store.reader.get(sorted(self.accepted))
        assert set(read) == self.accepted
        for state in JobState:
            page, more = await self.store.reader.page(JobFilter(state=state), 1000, None)
            assert more is None
            assert {job.job_id for job in page} == {i for i, job in read.items() if job.state is state}


async def _tokens(page: list[tuple[Token, int]]) -> Any:
    for token, _ in page:
        yield token


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
