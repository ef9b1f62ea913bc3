"""What stands before the jobs of one type: its own breaker and those of its dependencies. A job is admitted when all
of them admit it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from jobkit.domain.attribution import attribute, blamed, spoken_for
from jobkit.domain.breaker import Outcome as Sighting
from jobkit.domain.job import ClaimedJob
from jobkit.domain.lean import lean
from jobkit.domain.outcome import Deferred, Failed, Outcome, Succeeded
from worker.breaker import Breaker

# Caution ends by itself: so often do those who wait for it look.
LOOK_SECONDS = 0.1

Generations = Mapping[str, int]
"""By breaker, the generation under which an attempt began."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What allows one job through a gate that is shut: permits by breaker, and the breakers whose exile of this
    worker it puts to the test."""

    generations: Generations
    permits: Mapping[str, int] = field(default_factory=dict)
    trials: tuple[str, ...] = ()


@lean
@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt said, by the breakers that it is about."""

    outcomes: Mapping[str, Sighting]

    @property
    def codes(self) -> Mapping[str, str]:
        """What it counts as, by breaker: "" good, a code bad, absent nothing."""
        return {name: outcome.code for name, outcome in self.outcomes.items() if not outcome.ignored}


class _Attempt:
    """Not a generator: every attempt goes through it. It has no state of its own, so one serves all of a gate."""

    def __init__(self, breakers: Sequence[Breaker]) -> None:
        self._breakers = breakers

    def __enter__(self) -> None:
        for breaker in self._breakers:
            breaker.begin()

    def __exit__(self, *_: object) -> None:
        for breaker in self._breakers:
            breaker.end()


class Gate:
    """Cheap to ask, several times a job: comparisons in memory, and plain loops, since a generator costs more than
    what it looks at."""

    def __init__(self, job_type: str, breakers: Sequence[Breaker], depends_on: Sequence[str]) -> None:
        self.job_type = job_type
        self.breakers = tuple(breakers)
        self._depends_on = tuple(depends_on)
        self._blamed = blamed(job_type, self._depends_on)
        self._good = attribute(Succeeded(), job_type, self._depends_on)
        self._attempt = _Attempt(self.breakers)

    @property
    def admits(self) -> bool:
        """Whether jobs flow."""
        for breaker in self.breakers:  # noqa: SIM110 - see the class
            if not breaker.admits:
                return False
        return True

    @property
    def hesitates(self) -> bool:
        """Whether a moment's wait may spare a call: see `Breaker.hesitates`."""
        for breaker in self.breakers:  # noqa: SIM110
            if breaker.hesitates:
                return True
        return False

    @property
    def generations(self) -> Generations:
        return {breaker.name: breaker.generation for breaker in self.breakers}

    @property
    def probes(self) -> int:
        """How many jobs may run at once while it is shut."""
        return min((b.policy.probes if b.holds else 1 for b in self.breakers if not b.admits), default=1)

    @property
    def spared(self) -> frozenset[str]:
        """Ids of jobs that failed as the last probe: others go first."""
        return frozenset(b.record.spared for b in self.breakers if b.record.spared)

    @property
    def makes_wait(self) -> bool:
        """Whether an attempt has to wait for its `turn`."""
        for breaker in self.breakers:  # noqa: SIM110
            if breaker.hesitates or breaker.crowded:
                return True
        return False

    async def turn(self) -> None:
        """Returns once an attempt that is claimed may begin, or the gate is shut. Jobs are claimed many at a time:
        without this the first failure would come with all of them behind it."""
        await self._decided()
        while self.admits and (crowded := next((b for b in self.breakers if b.crowded), None)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await crowded.room()
            await self._decided()

    def attempt(self) -> AbstractContextManager[None]:
        """Around an attempt and the telling of how it went; enter it at once when it is its `turn`."""
        return self._attempt

    async def _decided(self) -> None:
        for breaker in self.breakers:
            if breaker.hesitates:
                await breaker.decided()

    def evidence(self, job: ClaimedJob, outcome: Outcome, seconds: float) -> Answer:
        """What an attempt of so long says, by each breaker's policy. It was not slow for those that its duration says
        nothing about."""
        good = isinstance(outcome, Succeeded)
        said = self._good if good else attribute(outcome, self.job_type, self._depends_on)
        took, trace = round(seconds * 1000), job.trace.traceparent[3:35]
        found = {}
        for breaker in self.breakers:
            if (name := breaker.name) in said:
                heeded = took if name in self._blamed else 0
                attempt = Sighting(job.job_id, said[name], self.job_type, trace, heeded)
                found[name] = breaker.policy.judge(attempt)
        return Answer(found)

    def spoken_for(self, outcome: Deferred) -> str:
        """The breaker that a wide request to come back later opens."""
        return spoken_for(outcome, self.job_type, self._depends_on)

    def refunds(self, outcome: Outcome, probe: Probe | None, codes: Mapping[str, str]) -> bool:
        """Whether the run of a probe burns no attempt: it failed with a code that counts on what it probed."""
        if probe is None or not isinstance(outcome, Failed):
            return False
        return any(codes.get(name) for name in (*probe.permits, *probe.trials))
