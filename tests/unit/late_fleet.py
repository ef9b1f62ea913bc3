"""A fleet in a clock of its own: attempts end at random, failures are told at once and successes with the next flush,
as `worker.reporter` does it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from uuid import UUID

from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, Eject, Evidence, Outcome, Wait
from jobkit.domain.sightings import Sightings
from jobkit.domain.tripping import decide_evidence

BEGIN = 1_700_000_000_000
POLICY = BreakerPolicy()
CLOSED = BreakerRecord("email")


@dataclass
class Worker:
    name: str
    flushes_at: int
    held_until: int = 0
    untold: list[Outcome] = field(default_factory=list)


class LateFleet:
    """`rate` attempts a second of all workers; of them `errors` fail. It stops when it opens, `opened_at` (ms);
    `failures` and `successes` are when they ended."""

    def __init__(self, workers: int, rate: float, errors: float = 0.0, seed: int = 1) -> None:
        self.now = BEGIN
        self.errors = errors
        self.opened_at: int | None = None
        self.ejections = 0
        self.failures: list[int] = []
        self.successes: list[int] = []
        self._dice = random.Random(seed)
        self._rate = rate / 1000
        self._sightings = Sightings()
        interval = POLICY.flush_interval
        self._workers = [Worker(f"w{n}", BEGIN + self._dice.randrange(interval)) for n in range(workers)]
        self._number = 0

    def run(self, ms: int) -> None:
        """So much time passes, or less if it opens."""
        end = self.now + ms
        while self.now < end and self.opened_at is None:
            self.now += 1
            self._report()
            # Poisson, near enough: as many attempts end within this ms.
            count = int(self._rate) + (self._dice.random() < self._rate % 1)
            for _ in range(count):
                self._attempt(self._dice.choice(self._workers))

    def _report(self) -> None:
        for worker in self._workers:
            flushes = worker.flushes_at <= self.now
            if flushes:
                worker.flushes_at += POLICY.flush_interval
            if (flushes and worker.untold) or worker.held_until == self.now:
                self._tell(worker)

    def _attempt(self, worker: Worker) -> None:
        if worker.held_until > self.now:
            return
        self._number += 1
        code = "A" if self._dice.random() < self.errors else ""
        (self.failures if code else self.successes).append(self.now)
        worker.untold.append(Outcome(UUID(int=self._number), code, "email"))
        if code:
            self._tell(worker)

    def _tell(self, worker: Worker) -> None:
        evidence = Evidence(0, tuple(worker.untold), worker.name)
        worker.untold.clear()
        sample, length = POLICY.outcomes_needed, POLICY.failure_window
        self._sightings.add(evidence, self.now, sample, length)
        window = self._sightings.seen(CLOSED, self.now, sample, length)
        decided = decide_evidence(POLICY, window, 0.5, worker.name)
        if isinstance(decided, Wait):
            worker.held_until = self.now + decided.ms
        elif isinstance(decided, Eject):
            self.ejections += 1
        elif decided is not None and self.opened_at is None:
            self.opened_at = self.now

    @property
    def decided_at(self) -> int:
        """When as many had failed in a row as open a breaker that hears of each attempt at once."""
        last = max(self.successes, default=0)
        return [at for at in self.failures if at >= last][POLICY.streak_needed - 1]
