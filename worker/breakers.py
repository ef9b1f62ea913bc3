"""The fleet's breakers as this worker sees them, and its share in moving them.

The hot path asks `Breaker.admits`, a comparison in memory. Outcomes are reported in the background: a failure at
once, successes every flush interval. Snapshots come by push and by a poll of one change counter a second.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Evidence, Wait
from jobkit.domain.errors import Unavailable
from jobkit.domain.tripping import decide_evidence, decide_open_until, decide_probe, decide_probe_time
from jobkit.ports import BreakerStore, Ledger
from jobkit.runtime.lifecycle import Loops
from worker.fallback import FallbackStore

_log = logging.getLogger(__name__)

SWAP_TRIES = 3
REPORT_SIZE = 500
Changed = Callable[[str, BreakerRecord], None]
Moved = Callable[[BreakerRecord], None]


def draw() -> float:
    """The jitter's random draw."""
    return random.random()  # noqa: S311 - no secret


class Breaker:
    """One job type's breaker, as last heard of. Attempts carry the `generation` that they began under."""

    def __init__(self, name: str) -> None:
        self.record = BreakerRecord(name)
        self.outcomes: list[tuple[UUID, str]] = []
        self.reporting = False

    @property
    def admits(self) -> bool:
        return self.record.state is BreakerState.CLOSED

    @property
    def generation(self) -> int:
        return self.record.generation


class Breakers:
    """All breakers of the types that this worker serves."""

    def __init__(
        self, store: FallbackStore, ledger: Ledger, policy: BreakerPolicy, worker_id: str, changed: Changed
    ) -> None:
        self._store: BreakerStore = store
        self._fallback = store
        self._ledger = ledger
        self._policy = policy
        self._worker_id = worker_id
        self._changed = changed
        self._breakers: dict[str, Breaker] = {}
        self._unrecorded: dict[str, BreakerRecord] = {}
        self._looked_up: set[str] = set()
        self._version: tuple[bool, int] | None = None
        self._offset = 0.0
        self._loops = Loops()
        # Told of each move that this worker made, in order.
        self.on_moved: Moved = lambda record: None

    def start(self) -> None:
        self._loops.spawn("breaker-push", self._follow)
        self._loops.every(1.0, "breaker-poll", self._poll)
        self._loops.every(self._policy.flush_interval / 1000, "breaker-flush", self._flush)
        self._loops.every(0.5, "breaker-ledger", self._record)

    async def stop(self) -> None:
        """Report what is left, then stop. Safe to repeat."""
        await self._loops.stop()
        try:
            await self._flush()
            await self._record()
        except Unavailable as error:
            _log.warning("breaker reports left unsent: %s", error)

    def of(self, job_type: str) -> Breaker:
        """The breaker of a type, watched from now on."""
        if job_type not in self._breakers:
            self._breakers[job_type] = Breaker(job_type)
            self._version = None
        return self._breakers[job_type]

    def due(self, record: BreakerRecord) -> bool:
        """Whether the open time is over, by the store's clock as last measured."""
        if record.open_until is None:
            return False
        return asyncio.get_running_loop().time() * 1000 + self._offset >= record.open_until

    async def refresh(self, names: Iterable[str]) -> None:
        """Read these anew; failing that, keep what was last heard."""
        wanted = list(names)
        if not wanted:
            return
        for record in (await self._read(wanted)).values():
            self._learn(record)

    async def now(self) -> int:
        """The store's milliseconds."""
        return await self._store.now()

    async def hear(self, told: Iterable[BreakerRecord]) -> None:
        """The control plane says how breakers stand. Where it knows of later moves than we do, look; where the store
        cannot be asked, believe it. It never makes anything older."""
        news = [r for r in told if r.name in self._breakers and r.generation > self.of(r.name).generation]
        await self.refresh(record.name for record in news)
        for record in news if self._fallback.alone else ():
            if await self._store.swap(record.name, self.of(record.name).generation, record):
                self._learn(record)

    async def _read(self, names: Sequence[str]) -> dict[str, BreakerRecord]:
        """A record for each. A store that was wiped is reminded, by what we know or else by the ledger: a held type
        must not flow until somebody looks. Raises Unavailable, also when a type that we never heard of cannot be
        looked up in the ledger."""
        found = await self._store.read(names)
        missing = [name for name in names if name not in found]
        await self._look_up([name for name in missing if not self.of(name).generation])
        for name in missing:
            known = found[name] = self.of(name).record
            if known.generation:
                await self._store.swap(name, 0, known)
        return found

    async def _look_up(self, names: Sequence[str]) -> None:
        """Once for each: from then on we hear of its moves."""
        new = [name for name in names if name not in self._looked_up]
        if new:
            latest = await self._ledger.latest()
            self._looked_up.update(new)
            for name in new:
                if name in latest:
                    self._learn(latest[name])

    def report(self, job_type: str, job_id: UUID, code: str, generation: int) -> None:
        """An attempt that began under `generation` ended: "" for a success, else its error code."""
        breaker = self.of(job_type)
        if generation != breaker.generation or not breaker.admits:
            return
        breaker.outcomes.append((job_id, code))
        if code and not breaker.reporting:
            breaker.reporting = True
            asyncio.get_running_loop().call_soon(
                lambda: self._loops.once(f"report-{job_type}", lambda: self._report(breaker))
            )

    async def open_until(self, job_type: str, after: timedelta, generation: int) -> None:
        """A handler was told when to come back, for the whole type."""

        def decide(record: BreakerRecord, now: int) -> BreakerRecord | None:
            until = now + round(after.total_seconds() * 1000)
            return decide_open_until(record, until, "RETRY_LATER", now, generation)

        await self._move(job_type, decide)

    async def probe_permit(self, job_type: str, lease: timedelta) -> int | None:
        """The generation to probe under, once the open time is over and a permit is free; else None."""
        record = self.of(job_type).record
        if record.state is BreakerState.OPEN:
            await self._move(job_type, decide_probe_time)
            record = self.of(job_type).record
        if record.state is not BreakerState.HALF_OPEN:
            return None
        free = await self._store.take_permit(
            job_type, record.generation, self._worker_id, self._policy.probes, lease
        )
        return record.generation if free else None

    async def probed(self, job_type: str, generation: int, code: str | None) -> None:
        """A probe's answer: "" for a success, a counted error code, or None when it says nothing."""
        if code is not None:

            def decide(record: BreakerRecord, now: int) -> BreakerRecord | None:
                return decide_probe(record, self._policy, generation, code == "", code, now, draw())

            await self._move(job_type, decide)
        try:
            await self._store.return_permit(job_type, generation, self._worker_id)
        except Unavailable as error:
            _log.debug("the permit's lease will end by itself: %s", error)

    async def _move(self, name: str, decide: Callable[[BreakerRecord, int], BreakerRecord | None]) -> None:
        """Read, decide, swap; again when somebody else was first."""
        for _ in range(SWAP_TRIES):
            record = (await self._read([name]))[name]
            moved = decide(record, await self._store.now())
            if moved is None:
                self._learn(record)
                return
            if await self._store.swap(name, record.generation, moved):
                self._moved(record, moved)
                return
        await self.refresh([name])

    def _moved(self, before: BreakerRecord, after: BreakerRecord) -> None:
        if after.generation != before.generation:
            _log.warning(
                "breaker %s: %s -> %s (%s)",
                after.name,
                before.state,
                after.state,
                after.transitions[-1].reason or after.transitions[-1].cause.value.lower(),
            )
            self._unrecorded[after.name] = after
            self.on_moved(after)
        self._learn(after)

    def _learn(self, record: BreakerRecord) -> None:
        breaker = self.of(record.name)
        if record == breaker.record:
            return
        if record.generation != breaker.generation:
            breaker.outcomes.clear()
        breaker.record = record
        self._fallback.remember(record)
        self._changed(record.name, record)

    async def _report(self, breaker: Breaker) -> None:
        """Send what is pending and act on what the fleet saw; while the answer is "wait", look again."""
        name = breaker.record.name
        try:
            while breaker.admits:
                outcomes, breaker.outcomes = breaker.outcomes[:REPORT_SIZE], breaker.outcomes[REPORT_SIZE:]
                window = await self._store.report(
                    name,
                    Evidence(breaker.generation, tuple(outcomes)),
                    self._policy.outcomes_needed,
                    self._policy.failure_window,
                )
                decision = decide_evidence(self._policy, window, draw())
                if isinstance(decision, BreakerRecord):
                    if await self._store.swap(name, window.record.generation, decision):
                        self._moved(window.record, decision)
                    else:
                        await self.refresh([name])
                    return
                if window.record.generation != breaker.generation:
                    self._learn(window.record)
                if isinstance(decision, Wait):
                    await asyncio.sleep(decision.ms / 1000)
                elif len(breaker.outcomes) < REPORT_SIZE and not any(code for _, code in breaker.outcomes):
                    return  # a few successes can wait for the next flush
        except Unavailable as error:
            _log.debug("evidence of %s was not taken: %s", name, error)
        finally:
            breaker.reporting = False

    async def _flush(self) -> None:
        for breaker in list(self._breakers.values()):
            if breaker.outcomes and not breaker.reporting:
                breaker.reporting = True
                await self._report(breaker)

    async def _poll(self) -> None:
        # Which store it was, too: two stores' counters may meet by chance.
        count = await self._store.version()
        version = (self._fallback.alone, count)
        self._offset = await self._store.now() - asyncio.get_running_loop().time() * 1000
        if version != self._version:
            await self.refresh(list(self._breakers))
            self._version = version

    async def _follow(self) -> None:
        async for name in self._store.changes():
            if name in self._breakers:
                await self.refresh([name])

    async def _record(self) -> None:
        """Bring transitions to the ledger; those that fail now are tried again, and the control plane looks too."""
        for name, record in list(self._unrecorded.items()):
            await self._ledger.record(record)
            if self._unrecorded.get(name) is record:
                del self._unrecorded[name]
