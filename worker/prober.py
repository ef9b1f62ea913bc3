"""Letting single jobs through a gate that is shut: leased permits of the breakers that hold, in the order of their
names, and trials of this worker where it alone is out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from jobkit.domain.breaker import BreakerRecord, BreakerState, Evidence, Outcome
from jobkit.domain.errors import Unavailable
from jobkit.domain.tripping import cooldown, decide_alone
from worker.breaker import Breaker
from worker.breakers import Breakers
from worker.gate import Answer, Gate, Probe
from worker.reporter import draw

_log = logging.getLogger(__name__)


class Prober:
    """`lease` bounds how long a prober that dies keeps its permits."""

    def __init__(self, breakers: Breakers, lease: timedelta) -> None:
        self._breakers = breakers
        self._store = breakers.store
        self._lease = lease

    def due(self, gate: Gate) -> bool:
        """Whether asking for a probe makes sense: everything that keeps the gate shut may be tested now."""
        return all(self._due(breaker) for breaker in gate.breakers if not breaker.admits)

    def _due(self, breaker: Breaker) -> bool:
        if breaker.exile is not None and not self._breakers.over(breaker.exile.until):
            return False
        half_open = breaker.record.state is BreakerState.HALF_OPEN
        return not breaker.holds or half_open or self._breakers.due(breaker.record)

    async def ask(self, gate: Gate) -> Probe | None:
        """Leave to run one job, once every open time is over and every permit free; else None, with none taken."""
        taken: dict[str, int] = {}
        try:
            for breaker in sorted(gate.breakers, key=lambda breaker: breaker.name):
                if breaker.holds:
                    slot = await self._take(breaker)
                    if slot is None:
                        break
                    taken[breaker.name] = slot
            else:
                trials = tuple(b.name for b in gate.breakers if b.exile is not None and not b.admits)
                if taken or trials:
                    return Probe(gate.generations, taken, trials)
        except Unavailable:
            await self._give_back(taken, gate.generations)
            raise
        await self._give_back(taken, gate.generations)
        return None

    async def _take(self, breaker: Breaker) -> int | None:
        record = breaker.record
        if record.state is BreakerState.OPEN:
            record = await self._breakers.half_open(breaker.name)
        if record.state is not BreakerState.HALF_OPEN:
            return None
        slot = next(number for number in range(len(breaker.permits) + 1) if number not in breaker.permits)
        breaker.permits.add(slot)  # at once: another lane of ours may ask meanwhile
        free = False
        try:
            free = await self._store.take_permit(
                breaker.name, record.generation, self._holder(slot), breaker.policy.probes, self._lease
            )
        finally:
            if not free:
                breaker.permits.discard(slot)
        return slot if free else None

    async def ended(self, gate: Gate, probe: Probe, answer: Answer | None) -> None:
        """The job that was let through has ended; None: there was none, or it says nothing."""
        try:
            if answer is not None:
                await self._tell(probe, answer)
        finally:
            await self._give_back(probe.permits, probe.generations)

    async def _tell(self, probe: Probe, answer: Answer) -> None:
        for name, outcome in answer.outcomes.items():
            if name in probe.permits:
                await self._breakers.answered(name, probe.generations[name], outcome)
            if name in probe.trials:
                await self._tried(self._breakers.of(name), outcome)
        self._breakers.finished(probe.generations, answer, apart=(*probe.permits, *probe.trials))

    async def _tried(self, breaker: Breaker, outcome: Outcome) -> None:
        """This worker is in again, or out for twice as long; or there is nobody else, and it was the fleet."""
        exile, code = breaker.exile, outcome.code
        if exile is None:
            return
        if not code:
            await self._store.readmit(breaker.name, self._breakers.worker_id, outcome)
            _log.warning("breaker %s: this worker is in again", breaker.name)
            self._breakers.exile(breaker, None)
            return
        policy, fraction = breaker.policy, draw()
        seen = Evidence(breaker.generation, (outcome,), self._breakers.worker_id, fraction, trial=True)
        window = await self._store.report(breaker.name, seen, policy.outcomes_needed, policy.failure_window)
        if outcome.ignored:
            return
        if (opened := decide_alone(policy, window, code, fraction)) is not None:
            await self._store.readmit(breaker.name, self._breakers.worker_id)
            await self._breakers.move(breaker.name, _same(window.record, opened))
            self._breakers.exile(breaker, None)
            return
        length = cooldown(policy, exile.times, fraction)
        lease = self._breakers.lease_of(breaker, length)
        # It is out already, or its lease has ended: either way there is room for one.
        await self._store.eject(
            breaker.name, breaker.generation, self._breakers.worker_id, window.workers, lease
        )
        self._breakers.exile(
            breaker, replace(exile, until=window.now + length, times=exile.times + 1, code=code)
        )

    async def _give_back(self, permits: Mapping[str, int], generations: Mapping[str, int]) -> None:
        for name, slot in permits.items():
            self._breakers.of(name).permits.discard(slot)
            try:
                await self._store.return_permit(name, generations[name], self._holder(slot))
            except Unavailable as error:
                _log.debug("the permit's lease will end by itself: %s", error)

    def _holder(self, slot: int) -> str:
        return f"{self._breakers.worker_id}#{slot}" if slot else self._breakers.worker_id


def _same(seen: BreakerRecord, after: BreakerRecord) -> Callable[[BreakerRecord, int], BreakerRecord | None]:
    """`after`, if nobody moved the breaker since it was `seen`."""
    return lambda record, now: after if record.generation == seen.generation else None
