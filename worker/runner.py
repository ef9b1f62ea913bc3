"""One token from hand to acknowledgement: claim -> execute -> settle -> ack. Nothing is acknowledged before the
job's outcome is recorded (or, in a long run, its claim: see `hand`)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from jobkit.domain.errors import Unavailable
from jobkit.domain.job import ClaimedJob, Token
from jobkit.domain.lean import lean
from jobkit.domain.outcome import Deferred, Interrupted, Outcome
from jobkit.domain.retry import Postpone, Release, Retry, RetryPolicy, decide_next, rung_at_least
from jobkit.ports import Dispatch, Miss
from jobkit.runtime.publisher import Publisher
from worker.breakers import Breakers
from worker.budgets import Budgets
from worker.claimer import Claimer
from worker.claims import Claims
from worker.executor import Executor
from worker.gate import Answer, Gate, Generations, Probe
from worker.hand import Hand
from worker.registry import Registry
from worker.settler import Settler
from worker.suspects import Suspects
from worker.watch import Watch

_log = logging.getLogger(__name__)

# Not written out where it is asked: a union is made anew each time.
GOES_ON = (Release, Retry, Postpone)


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a probed token came to; no `answer` when it says nothing."""

    claimed: bool
    answer: Answer | None = None


@lean
@dataclass(frozen=True, slots=True)
class Ran:
    """How an attempt went for whoever paces the next: `good`, or refused, or (None) neither; the handler took `took`
    seconds. `codes` are what it said by breaker."""

    good: bool | None
    took: float
    codes: Mapping[str, str]

    def of(self, breaker: str) -> bool | None:
        """`good`, as far as it is about what this breaker guards."""
        if breaker in self.codes:
            return not self.codes[breaker]
        return None if self.codes else self.good


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """The worker's organs, shared by all lanes."""

    claimer: Claimer
    claims: Claims
    executor: Executor
    suspects: Suspects
    settler: Settler
    publisher: Publisher
    breakers: Breakers
    budgets: Budgets
    registry: Registry
    policy: RetryPolicy
    watch: Watch
    max_retry_after: timedelta


class Runner:
    """Runs tokens; the lanes decide when."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts

    def strays(self, job_type: str) -> int:
        """Handlers that ignored their deadline and go on: each keeps its slot."""
        return self._parts.executor.strays_of(job_type)

    async def run(self, hand: Hand, gate: Gate) -> Ran | None:
        """A token of an open gate. None: nothing ran."""
        job = await self._claim(hand)
        if job is None:
            return None
        if gate.makes_wait:
            await gate.turn()
        began = gate.generations
        if not gate.admits:
            # It was shut while we claimed: back to its place, unburned.
            await self._settle(hand, job, Interrupted.DRAINED, 0.0)
            return None
        if job.attempts == job.attempts_base:
            self._parts.budgets.first(job.job_type)
        with gate.attempt():
            outcome, took = await self._execute(job, gate, began)
            answer = gate.evidence(job, outcome, took)
            self._parts.breakers.finished(began, answer)
        await self._settle(hand, job, outcome, took)
        codes = answer.codes
        # Who asks to be left alone for a while has refused, too.
        good = False if isinstance(outcome, Deferred) else not any(codes.values()) if codes else None
        return Ran(good, took, codes)

    async def probe(self, hand: Hand, gate: Gate, probe: Probe) -> ProbeAnswer:
        """A token that is let through a shut gate. A failure with a counted code is refunded."""
        job = await self._claim(hand)
        if job is None:
            return ProbeAnswer(claimed=False)
        outcome, took = await self._execute(job, gate, probe.generations)
        answer = gate.evidence(job, outcome, took)
        await self._settle(hand, job, outcome, took, probe=gate.refunds(outcome, probe, answer.codes))
        return ProbeAnswer(claimed=True, answer=answer)

    async def _open(self, name: str, after: timedelta, generation: int) -> None:
        try:
            await self._parts.breakers.open_until(name, after, generation)
        except Unavailable as error:
            _log.warning("the breaker %s could not be opened: %s", name, error)

    async def _claim(self, hand: Hand) -> ClaimedJob | None:
        token = hand.delivery.token
        try:
            if token is None:
                await hand.lane.quarantine(hand.delivery)
                return None
            claimed = await self._parts.claimer.claim(token.job_id)
        except Unavailable:
            # The database is away, or the intake: keep the token for a moment, then put it back where it was.
            await asyncio.sleep(random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            await hand.give_back()
            return None
        if isinstance(claimed, ClaimedJob):
            self._parts.claims.add(claimed)
            hand.guarded = True
            return claimed
        await self._missed(hand, token, claimed)
        return None

    async def _missed(self, hand: Hand, token: Token, miss: Miss) -> None:
        """No claim to be had. Only a redelivered token may be the job's last, or one whose job seems abandoned: it
        waits until the other claim's lease, or the job's backoff, is over. Any other is a surplus, and dropped."""
        if miss.retry_in is not None and (hand.delivery.redelivered or miss.expired):
            await self._parts.publisher.publish([Dispatch(token, rung_at_least(miss.retry_in))])
        await hand.ack()

    async def _execute(self, job: ClaimedJob, gate: Gate, began: Generations) -> tuple[Outcome, float]:
        started = time.monotonic()
        with self._parts.watch.attempt(job) as tell:
            outcome = await self._parts.suspects.run(job)
            tell(outcome)
        took = time.monotonic() - started
        if isinstance(outcome, Deferred):
            outcome = replace(outcome, after=min(outcome.after, self._parts.max_retry_after))
            if outcome.wide:
                name = gate.spoken_for(outcome)
                await self._open(name, outcome.after, began[name])
        return outcome, took

    async def _settle(
        self, hand: Hand, job: ClaimedJob, outcome: Outcome, took: float, *, probe: bool = False
    ) -> None:
        parts = self._parts
        handler = parts.registry.find(job.job_type)
        policy = parts.policy
        if handler is not None and handler.max_attempts is not None:
            policy = replace(policy, max_attempts=handler.max_attempts)
        decision = decide_next(outcome, job, policy, random.random(), probe=probe)  # noqa: S311 - jitter
        if isinstance(decision, Retry) and decision.counted:
            delay = parts.budgets.retry(job.job_type, decision.delay)
            decision = replace(decision, delay=delay)
        # What goes back goes by the token if we still have it, and then we must keep it until it has gone.
        goes_on = isinstance(decision, GOES_ON)
        has_token = hand.keep() if goes_on else not hand.let_go
        try:
            await parts.claims.flush_progress(job)
            stands = await parts.settler.settle(job, decision, timedelta(seconds=took), has_token=has_token)
        finally:
            parts.claims.remove(job)
        if stands:
            parts.watch.settled(job, outcome, decision)
        if isinstance(decision, Release):
            await hand.give_back()
        else:
            await hand.ack()
