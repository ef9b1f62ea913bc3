"""One breaker as this worker last heard of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Mode, Outcome


@dataclass(frozen=True, slots=True)
class Exile:
    """This worker is out: it takes a job on trial after `until` (store ms). `times` in a row so far."""

    until: int
    times: int
    code: str


class Breaker:
    """Attempts carry the `generation` that they began under. `exile` is this worker's own, None while it is in.
    `workers` had done such work when we last asked; `suspected`: the evidence suffices, unless somebody who has not
    told yet knows better, or it is somebody else's turn to find out."""

    def __init__(self, name: str, policy: BreakerPolicy) -> None:
        self.record = BreakerRecord(name)
        self.policy = policy
        self.outcomes: list[Outcome] = []
        self.exile: Exile | None = None
        self.permits: set[int] = set()
        self.workers = 1
        self.suspected = False
        self._running = 0
        self._ended = asyncio.Event()
        self._proven = False
        self._tried_at: float | None = None
        self._failing = 0
        self._failed_at = 0.0
        self._failed = asyncio.Event()
        self._decided = asyncio.Event()
        self._decided.set()

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def generation(self) -> int:
        return self.record.generation

    @property
    def holds(self) -> bool:
        """Whether it holds the fleet's jobs."""
        return self.record.state.holds and self.policy.mode is Mode.ENFORCED

    @property
    def admits(self) -> bool:
        """Whether this worker may start jobs."""
        exiled = self.exile is not None and self.policy.mode is Mode.ENFORCED
        return not self.holds and not exiled

    @property
    def takes_evidence(self) -> bool:
        return self.record.state is BreakerState.CLOSED and self.policy.mode is not Mode.DISABLED

    @property
    def reporting(self) -> bool:
        """Whether a report is on its way, or a decision was put off."""
        return not self._decided.is_set()

    @reporting.setter
    def reporting(self, value: bool) -> None:
        if value:
            self._decided.clear()
        else:
            self._decided.set()

    @property
    def hesitates(self) -> bool:
        """Whether to start nothing until the report that is on its way is answered: so many of this worker's last
        attempts failed that the answer may well be to stop, or the fleet's evidence suffices and only has to be
        complete. Where calls fail within a millisecond this saves more of them than any threshold. A breaker that
        is not enforced stops nothing, not even for that long."""
        if self.policy.mode is not Mode.ENFORCED:
            return False
        return self.reporting and (self.suspected or self._failing >= self._telling)

    @property
    def _telling(self) -> int:
        """Failures in a row that are worth an answer: this worker's part of what opens the breaker. Where nothing
        has ever succeeded here, the first one is."""
        return max(self.policy.jobs_needed // max(self.workers, 1), 2) if self._proven else 1

    @property
    def at_once(self) -> int | None:
        """How many attempts this worker may run at once for the moment; None: as many as it likes. Between a failure
        and the next success the fleet as a whole is to try no more than is needed to know, and before the first
        success of all each worker tries one. But not for longer than everybody needs to tell: what runs may take its
        time, and other jobs must not wait for that."""
        if self.policy.mode is not Mode.ENFORCED or self.record.forced:
            return None
        since = self._failed_at if self._failing else self._tried_at
        if since is None or (self._proven and not self._failing):
            return None
        caution = (2 if self._failing else 1) * self.policy.flush_interval / 1000
        if asyncio.get_running_loop().time() - since > caution:
            return None
        if not self._proven:
            return 1
        return max((self.policy.jobs_needed - self._failing) // max(self.workers, 1), 1)

    async def decided(self) -> None:
        """Returns once no report is on its way."""
        await self._decided.wait()

    def begin(self) -> None:
        """An attempt begins, of whichever of the types behind this breaker."""
        self._running += 1
        if self._tried_at is None:
            self._tried_at = asyncio.get_running_loop().time()

    def end(self) -> None:
        """An attempt has ended and was told of."""
        self._running -= 1
        self._ended.set()

    @property
    def crowded(self) -> bool:
        """Whether as many attempts run as may at the moment."""
        most = self.at_once
        return most is not None and self._running >= most

    async def failure(self, seconds: float) -> None:
        """Returns once another attempt has failed, or after so long."""
        self._failed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._failed.wait()

    async def room(self) -> None:
        """Returns once an attempt has ended."""
        self._ended.clear()
        await self._ended.wait()

    def note(self, outcome: Outcome) -> None:
        """An outcome to report."""
        self.outcomes.append(outcome)
        if outcome.ignored:
            return
        self._proven = self._proven or not outcome.code
        self._failing = self._failing + 1 if outcome.code else 0
        if outcome.code:
            self._failed_at = asyncio.get_running_loop().time()
            self._failed.set()

    def take(self, most: int) -> tuple[Outcome, ...]:
        """Up to so many outcomes to report now, which are no longer here."""
        taken, self.outcomes = self.outcomes[:most], self.outcomes[most:]
        return tuple(taken)

    @property
    def failures_waiting(self) -> bool:
        """Whether there is one to report."""
        return any(outcome.failed for outcome in self.outcomes)

    def learn(self, record: BreakerRecord) -> None:
        """The record is now this one; evidence of another generation is worth nothing."""
        if record.generation != self.record.generation:
            self.outcomes.clear()
            self._failing = 0
        self.record = record
