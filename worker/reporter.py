"""Evidence on its way to the store, and what follows from the window that comes back.

Failures are told at once, successes every flush interval. A report of failures carries the successes before them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from jobkit.domain.breaker import BreakerRecord, Eject, Evidence, Wait
from jobkit.domain.caution import decide_caution
from jobkit.domain.errors import Unavailable
from jobkit.domain.tripping import decide_evidence
from jobkit.ports import BreakerStore
from jobkit.runtime.lifecycle import Loops
from worker.breaker import Breaker

_log = logging.getLogger(__name__)

REPORT_SIZE = 500
# Those who wait for the same moment look one after the other, for the first to see it tells the rest: so far apart on
# average, and all within so long (seconds).
APART, ALL_WITHIN = 0.001, 0.1
# A report that has to wait for those of others does not keep the other breakers' successes waiting (seconds).
IN_TURN = 0.02


def draw() -> float:
    """The jitter's random draw."""
    return random.random()  # noqa: S311 - no secret


class Fleet(Protocol):
    """Whoever moves the breakers that are reported of."""

    store: BreakerStore
    worker_id: str

    async def swap(self, before: BreakerRecord, after: BreakerRecord) -> bool: ...

    async def refresh(self, names: Iterable[str]) -> None: ...

    async def leave(self, breaker: Breaker, now: int, decision: Eject, fraction: float) -> None: ...

    def learn(self, record: BreakerRecord) -> None: ...

    def hurry(self, breaker: Breaker) -> None:
        """Its jobs may go on."""


class Reporter:
    """At most one report of a breaker is on its way."""

    def __init__(self, fleet: Fleet, loops: Loops) -> None:
        self._fleet = fleet
        self._loops = loops

    def begin(self, breaker: Breaker) -> None:
        """Report in the background what this turn of the loop tells, unless a report is on its way."""
        if not breaker.reporting:
            breaker.reporting = True
            asyncio.get_running_loop().call_soon(self._spawn, breaker)

    async def flush(self, breakers: Iterable[Breaker]) -> None:
        """Report what is pending of all, one after the other."""
        for breaker in breakers:
            if breaker.outcomes and not breaker.reporting:
                breaker.reporting = True
                self._spawn(breaker)
                with suppress(TimeoutError):
                    async with asyncio.timeout(IN_TURN):
                        await breaker.decided()

    async def finish(self, breakers: Iterable[Breaker]) -> None:
        """The last reports. Raises Unavailable."""
        for breaker in breakers:
            while breaker.outcomes and breaker.takes_evidence:
                await self._report_once(breaker)

    def _spawn(self, breaker: Breaker) -> None:
        self._loops.once(f"report-{breaker.name}", lambda: self._report(breaker))

    async def _report(self, breaker: Breaker) -> None:
        """Send what is pending and act on what the fleet saw; while the answer is "wait", look again."""
        hesitated = False
        try:
            while breaker.takes_evidence:
                hesitated = hesitated or breaker.hesitates
                wait = await self._report_once(breaker)
                if wait is None:
                    return
                breaker.suspected = wait.ms > 0
                if wait.ms:
                    apart = min(2 * APART * (breaker.workers - 1), ALL_WITHIN)
                    await breaker.failure(wait.ms / 1000 + draw() * apart)
        except Unavailable as error:
            _log.debug("evidence of %s was not taken: %s", breaker.name, error)
        finally:
            hesitated = hesitated or breaker.hesitates
            breaker.reporting = breaker.suspected = False
            if hesitated:
                self._fleet.hurry(breaker)

    async def _report_once(self, breaker: Breaker) -> Wait | None:
        """How long to wait before the next look; None when none is needed."""
        name, policy, me = breaker.name, breaker.policy, self._fleet.worker_id
        fraction = draw()
        evidence = Evidence(breaker.generation, breaker.take(REPORT_SIZE), me, fraction)
        window = await self._fleet.store.report(name, evidence, policy.outcomes_needed, policy.failure_window)
        breaker.workers = window.workers
        decision = decide_evidence(policy, window, fraction, me)
        if isinstance(decision, BreakerRecord):
            if not await self._fleet.swap(window.record, decision):
                await self._fleet.refresh([name])
            return None
        if isinstance(decision, Eject):
            await self._fleet.leave(breaker, window.now, decision, fraction)
        if window.record.generation != breaker.generation:
            self._fleet.learn(window.record)
        if isinstance(decision, Wait):
            return decision
        # A few successes can wait for the next flush.
        if breaker.failures_waiting or len(breaker.outcomes) >= REPORT_SIZE:
            return Wait(0)
        return decide_caution(policy, window, me)
