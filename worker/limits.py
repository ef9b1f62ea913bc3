"""The fleet-wide limits of this worker's types: who may start how much, asked of the store in blocks.

A type without a limit costs nothing here. For all the others together there is one round trip a second (two while one
of them recovers), and one at once when a lane has something to return or nothing to work with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from jobkit.domain.breaker import DEPENDENCY, Mode
from jobkit.domain.errors import Unavailable
from jobkit.domain.limit import LEASE_MS, LaneReport, Share
from jobkit.ports import LimitStore, TypeInfo
from jobkit.runtime.lifecycle import Loops
from worker.breaker import Breaker
from worker.exchange import exchange
from worker.quota import Quota

_log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
REPORT_SECONDS = 1.0
RECOVERY_SECONDS = 0.5
# Who has no slot at all asks again so soon, in case somebody has returned one.
EMPTY_SECONDS = 0.2
# A store that is away is left alone for so long.
AWAY_SECONDS = 1.0


class Allowance:
    """What this worker may do of a job type, or of all types behind a dependency, beside what breakers say. `lanes`
    tell, by job type, (attempts that run, attempts that could). `in_line` are those that wait for a slot."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.quota = Quota()
        self.lanes: dict[str, Callable[[], tuple[int, int]]] = {}
        self.in_line: dict[str, Callable[[], None]] = {}
        self.slot_limit: int | None = None
        self.revision = 0
        self.generation = 0
        self._holds = False
        self._told = False
        self._held = 0
        self._reported_at = 0.0
        self._not_before = 0.0
        self.granted = False

    @property
    def share(self) -> int | None:
        """Slots that are ours; None: as many as the process has."""
        return self.quota.share.slots if self.quota.limited else None

    def usage(self) -> tuple[int, int]:
        """Attempts that run, and that could, of all lanes."""
        used = [usage() for usage in self.lanes.values()]
        return sum(running for running, _ in used), sum(most for _, most in used)

    def call_next(self) -> None:
        """A slot is free: who has waited the longest may have it."""
        if self.in_line:
            self.in_line.pop(next(iter(self.in_line)))()

    def learn(self, info: TypeInfo, now: float) -> bool:
        """What operators want; whether that is news."""
        paused = info.pause is not None
        news = paused != self.paused or info.revision > self.revision
        self.paused = paused
        if info.revision > self.revision:
            if info.slot_limit != self.slot_limit:
                self._limit(now)
            self.slot_limit, self.revision = info.slot_limit, info.revision
        return news

    def heed(self, breaker: Breaker, now: float) -> None:
        """How its breaker stands now. One that was seen closing begins a recovery; one that closed before our time
        may have begun one, which the store knows. One that is not enforced neither holds nor paces."""
        if breaker.policy.mode is not Mode.ENFORCED:
            self._holds = False
            if self.generation and self.slot_limit is None:
                self.quota.unlimit()
            self.generation = 0
            return
        if breaker.holds:
            self._holds = True
        elif self._holds or (breaker.generation and not self._told):
            if self._holds:
                self.generation = breaker.generation
            self._holds = False
            self._limit(now)
        self._told = self._told or breaker.generation > 0

    def _limit(self, now: float) -> None:
        if not self.quota.limited:
            self.granted = False
            self._reported_at = 0.0
            self.quota.limit(now)

    def due(self, now: float) -> bool:
        """Whether to report now."""
        if not self.quota.limited or now < self._not_before:
            return False
        since = now - self._reported_at
        if since >= (RECOVERY_SECONDS if self.quota.rate is not None else REPORT_SECONDS):
            return True
        if since < TICK_SECONDS:
            return False
        in_use, _ = self.usage()
        returns = self._held > max(in_use, self.quota.share.slots)
        return returns or not self.granted or (not self.quota.share.slots and since >= EMPTY_SECONDS)

    def report(self, now: float) -> LaneReport:
        in_use, most = self.usage()
        self._reported_at = now
        if self.name.startswith(DEPENDENCY) and not (in_use or self.quota.started or self.quota.lacked):
            # Behind a dependency lies more than one queue: ours may be empty while other workers' are not.
            most = min(most, 1)
        return self.quota.report(in_use, most, (self.slot_limit, self.revision), self.generation, now)

    def answered(self, share: Share | None, now: float, asked_at: float) -> None:
        """None: there is no limit any more."""
        if share is None:
            self._held = 0
            self.quota.unlimit()
            return
        self.granted = True
        self._held = max(self.usage()[0], share.slots)
        self.quota.grant(share, now, asked_at + LEASE_MS / 1000)

    def unanswered(self, now: float, workers: int) -> None:
        """The store is away. Once our lease is over, the operator's limit is divided by what we know of the others,
        and a recovery goes without a pace."""
        self.quota.unfreeze()
        self._not_before = now + AWAY_SECONDS
        if self.granted and not self.quota.expired(now):
            return
        self.granted = False
        if self.slot_limit is None:
            self.quota.unlimit()
        else:
            self.quota.grant(Share(max(self.slot_limit // max(workers, 1), 1)), now)


class FleetLimits:
    """The allowances of a process. `changed` is called with a type whose lane has to look at its own."""

    def __init__(self, store: LimitStore, worker_id: str, changed: Callable[[str], None]) -> None:
        self._store = store
        self._worker_id = worker_id
        self._changed = changed
        self._allowances: dict[str, Allowance] = {}
        self._workers: Mapping[str, int] = {}
        self._loops = Loops()

    def start(self) -> None:
        self._loops.every(TICK_SECONDS, "limits", self.tick)

    async def stop(self) -> None:
        """Give everything back. Safe to repeat."""
        await self._loops.stop()
        leaving = {
            name: replace(allowance.report(0.0), in_use=0, most=0, leaving=True)
            for name, allowance in self._allowances.items()
            if allowance.quota.limited
        }
        if not leaving:
            return
        try:
            await self._store.report(self._worker_id, leaving)
        except Unavailable as error:
            _log.debug("our slots come back when their lease ends: %s", error)

    def of(self, name: str) -> Allowance:
        """The allowance of a type, or of a dependency by its breaker's name, from now on."""
        return self._allowances.setdefault(name, Allowance(name))

    @property
    def limited(self) -> bool:
        """Whether an operator has limited a type that runs here."""
        return any(allowance.slot_limit is not None for allowance in self._allowances.values())

    def learn(self, known: Mapping[str, TypeInfo], workers: Mapping[str, int]) -> None:
        """The catalog was read; `workers` says how many live ones serve a type ("*": every type)."""
        self._workers = workers
        self._take(known)

    def hear(self, told: Mapping[str, TypeInfo]) -> None:
        """The control plane says what operators want. It may be behind what was read: an older revision changes
        nothing."""
        self._take({name: info for name, info in told.items() if info.revision >= self.of(name).revision})

    def _take(self, known: Mapping[str, TypeInfo]) -> None:
        now = asyncio.get_running_loop().time()
        for name, info in known.items():
            if self.of(name).learn(info, now):
                self._tell(self.of(name))

    def _tell(self, allowance: Allowance) -> None:
        for job_type in allowance.lanes:
            self._changed(job_type)

    async def tick(self) -> None:
        """Report what is due, in one round trip."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        due = {name: allowance for name, allowance in self._allowances.items() if allowance.due(asked_at)}
        if not due:
            return
        reports = {name: allowance.report(asked_at) for name, allowance in due.items()}
        try:
            shares = await exchange(self._store, self._worker_id, reports)
        except Unavailable as error:
            _log.debug("no slots from the fleet: %s", error)
            for name, allowance in due.items():
                allowance.unanswered(loop.time(), self._workers.get(name, 0) + self._workers.get("*", 0))
        else:
            for name, share in shares.items():
                due[name].answered(share, loop.time(), asked_at)
        for allowance in due.values():
            self._tell(allowance)
