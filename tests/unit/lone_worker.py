"""One worker with a breaker of its own, by a clock that the test turns: what it lived through is in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

from jobkit.adapters import tape
from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.domain.attempts import Logged
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Evidence, Outcome, Transition
from jobkit.domain.tripping import decide_evidence, decide_probe, decide_probe_time

T = TypeVar("T")
NAME, WORKER = "email", "w"
START = 1_700_000_000_000

Ended = tuple[str, int]
"""An attempt's own code ("": a success), and how many ms it took."""


def now(call: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(call)


class LoneWorker:
    """It does with each attempt what workers do; `ledger` is what followed."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.clock = START
        self.record = BreakerRecord(NAME)
        self.ledger: list[Transition] = []
        self._store = MemoryBreakerStore(lambda: self.clock)
        self._jobs = 0

    @property
    def log(self) -> list[Logged]:
        return list(tape.read(NAME, now(self._store.log(NAME, 10_000))))

    def report(self, attempts: Iterable[Ended], fraction: float = 0.5, after: int = 200) -> None:
        """These ended since the last report; while the breaker is open there are none but probes."""
        self.clock += after
        if self.record.state is not BreakerState.CLOSED:
            for attempt in attempts:
                self.probe(attempt, fraction)
            return
        outcomes = tuple(self._outcome(attempt) for attempt in attempts)
        self._tell(outcomes, fraction)

    def probe(self, attempt: Ended, fraction: float = 0.5) -> None:
        """The next job is let through as soon as one may, unless the breaker is closed."""
        if self.record.state is BreakerState.OPEN:
            self.clock = max(self.clock, self.record.open_until or 0)
            self._move(decide_probe_time(self.record, self.clock))
        if self.record.state is not BreakerState.HALF_OPEN:
            return
        self.clock += attempt[1]
        outcome = self._outcome(attempt)
        if outcome.ignored:
            self._tell((outcome,), fraction)
            return
        bad, generation = outcome.code, self.record.generation
        after = decide_probe(self.record, self.policy, generation, not bad, bad, self.clock, fraction)
        self._move(after, outcome)

    def _outcome(self, attempt: Ended) -> Outcome:
        self._jobs += 1
        code, took = attempt
        return self.policy.judge(Outcome(UUID(int=self._jobs), code, NAME, took=took))

    def _tell(self, outcomes: tuple[Outcome, ...], fraction: float) -> None:
        policy = self.policy
        evidence = Evidence(self.record.generation, outcomes, WORKER, fraction)
        window = now(self._store.report(NAME, evidence, policy.outcomes_needed, policy.failure_window))
        decided = decide_evidence(policy, window, fraction, WORKER)
        if isinstance(decided, BreakerRecord):
            self._move(decided)

    def _move(self, after: BreakerRecord | None, probe: Outcome | None = None) -> None:
        assert after is not None
        before = self.record.generation
        assert now(self._store.swap(NAME, before, after, probe))
        if after.generation != before:
            self.ledger.append(replace(after.transitions[-1], proof=None))
        self.record = after
