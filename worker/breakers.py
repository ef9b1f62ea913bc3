"""The fleet's breakers as this worker sees them, and its share in moving them.

The hot path asks `Gate.admits`, comparisons in memory. Outcomes are reported in the background (see `reporter`).
Snapshots come by push and by a poll of one change counter a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from jobkit.domain.attribution import breakers_of
from jobkit.domain.breaker import (
    BreakerPolicy,
    BreakerRecord,
    BreakerState,
    Eject,
    Evidence,
    Mode,
    Outcome,
)
from jobkit.domain.errors import Unavailable
from jobkit.domain.policy import PolicySet, check_policies
from jobkit.domain.tripping import (
    cooldown,
    decide_open_until,
    decide_probe,
    decide_probe_time,
)
from jobkit.ports import BreakerStore, Ledger
from jobkit.runtime.lifecycle import Loops
from worker.breaker import Breaker, Exile
from worker.fallback import FallbackStore
from worker.gate import Answer, Gate, Generations
from worker.reporter import Reporter, draw

_log = logging.getLogger(__name__)

SWAP_TRIES = 3
Changed = Callable[[str, BreakerRecord], None]
Needs = Callable[[str], Sequence[str]]
"""The dependencies that a job type's handler declares."""
Moved = Callable[[BreakerRecord], None]


class Breakers:
    """All breakers before the types that this worker serves. `base` is the environment's policy; `changed` is told of
    a breaker whose jobs may have to stop or may go on."""

    def __init__(
        self,
        store: FallbackStore,
        ledger: Ledger,
        base: BreakerPolicy,
        worker_id: str,
        changed: Changed,
        needs: Needs = lambda job_type: (),
    ) -> None:
        self.store: BreakerStore = store
        self.worker_id = worker_id
        self._fallback = store
        self._ledger = ledger
        self._base = base
        self._policies = PolicySet()
        self._changed = changed
        self._needs = needs
        self._breakers: dict[str, Breaker] = {}
        self._unrecorded: dict[str, BreakerRecord] = {}
        self._looked_up: set[str] = set()
        self._version: tuple[bool, int] | None = None
        self._offset = 0.0
        self._loops = Loops()
        self._reporter = Reporter(self, self._loops)
        # Told of each move that this worker made, in order.
        self.on_moved: Moved = lambda record: None

    def start(self) -> None:
        self._loops.spawn("breaker-push", self._follow)
        self._loops.every(1.0, "breaker-poll", self._poll)
        self._loops.every(self._base.flush_interval / 1000, "breaker-flush", self._flush)
        self._loops.every(0.5, "breaker-ledger", self._record)

    async def stop(self) -> None:
        """Report what is left, then stop. Safe to repeat."""
        await self._loops.stop()
        try:
            await self._reporter.finish(self._breakers.values())
            await self._record()
        except Unavailable as error:
            _log.warning("breaker reports left unsent: %s", error)

    # -- what the lanes ask

    def of(self, name: str) -> Breaker:
        """A breaker, watched from now on."""
        if name not in self._breakers:
            self._breakers[name] = Breaker(name, self._policies.resolve(self._base, name))
            self._version = None
        return self._breakers[name]

    def gate(self, job_type: str) -> Gate:
        """All breakers that jobs of the type stand behind."""
        needs = self._needs(job_type)
        return Gate(job_type, [self.of(name) for name in breakers_of(job_type, needs)], needs)

    @property
    def exiled(self) -> list[str]:
        """Breakers whose jobs this worker leaves to others."""
        return sorted(name for name, breaker in self._breakers.items() if breaker.exile is not None)

    def over(self, until: int | None) -> bool:
        """Whether a time has come, by the store's clock as last measured; None never comes."""
        return until is not None and asyncio.get_running_loop().time() * 1000 + self._offset >= until

    def due(self, record: BreakerRecord) -> bool:
        """Whether the open time is over."""
        return self.over(record.open_until)

    def apply(self, policies: PolicySet) -> None:
        """From now on these policies count; what a breaker has come to stays. An older revision changes nothing.
        Raises ValueError for policies that nobody can go by; then the earlier ones count on."""
        if policies.revision < self._policies.revision:
            return
        check_policies(policies)
        self._policies = policies
        for breaker in self._breakers.values():
            policy = policies.resolve(self._base, breaker.name)
            if policy != breaker.policy:
                _log.info("breaker %s goes by policy revision %d", breaker.name, policies.revision)
                breaker.policy = policy
                self._changed(breaker.name, breaker.record)

    @property
    def policy_revision(self) -> int:
        """The revision of the policies that count."""
        return self._policies.revision

    async def refresh(self, names: Iterable[str]) -> None:
        """Read these anew; failing that, keep what was last heard."""
        wanted = list(names)
        if not wanted:
            return
        for record in (await self._read(wanted)).values():
            self.learn(record)

    async def refresh_gates(self, job_types: Iterable[str]) -> None:
        """Read every breaker before these types, dependencies too; they exist from here on."""
        wanted = {b.name: b for job_type in job_types for b in self.gate(job_type).breakers}
        await self.refresh(wanted)
        for name, breaker in wanted.items():
            if breaker.record.is_dependency and not breaker.generation:
                await self.store.create(name)

    # -- evidence

    def finished(self, began: Generations, answer: Answer, *, apart: Collection[str] = ()) -> None:
        """An attempt ended: what it says goes to the breakers it is about, `apart` from some."""
        for name, outcome in answer.outcomes.items():
            if name not in apart:
                self._note(self.of(name), outcome, began.get(name, -1))

    def report(self, name: str, job_id: UUID, code: str, generation: int) -> None:
        """An attempt that began under `generation` ended: "" for a success, else its error code."""
        self._note(self.of(name), Outcome(job_id, code, name), generation)

    def _note(self, breaker: Breaker, outcome: Outcome, generation: int) -> None:
        if generation != breaker.generation:
            return
        name = breaker.name
        if not breaker.takes_evidence:
            if breaker.policy.mode is Mode.SHADOW and breaker.record.state is BreakerState.HALF_OPEN:
                # Nothing is held, so every attempt is a probe.
                self._loops.once(f"shadow-{name}", lambda: self.answered(name, generation, outcome))
            return
        breaker.note(outcome)
        if outcome.failed:
            self._reporter.begin(breaker)

    async def open_until(self, name: str, after: timedelta, generation: int) -> None:
        """A handler was told when to come back, for everything behind the breaker."""

        def decide(record: BreakerRecord, now: int) -> BreakerRecord | None:
            until = now + round(after.total_seconds() * 1000)
            return decide_open_until(record, until, "RETRY_LATER", now, generation)

        if self.of(name).policy.mode is not Mode.DISABLED:
            await self.move(name, decide)

    async def answered(self, name: str, generation: int, outcome: Outcome) -> None:
        """A probe of this generation ended. One that is ignored is only logged."""
        policy = self.of(name).policy
        if outcome.ignored:
            told = Evidence(generation, (outcome,), self.worker_id, draw())
            await self.store.report(name, told, policy.outcomes_needed, policy.failure_window)
            return

        def decide(record: BreakerRecord, now: int) -> BreakerRecord | None:
            good = not outcome.code
            after = decide_probe(record, policy, generation, good, outcome.code, now, draw())
            # The next probe is another job: one bad job must not keep the others waiting.
            return after if after is None or good else replace(after, spared=str(outcome.job_id))

        await self.move(name, decide, outcome)

    async def half_open(self, name: str) -> BreakerRecord:
        """The breaker, HALF_OPEN if its open time is over."""
        await self.move(name, decide_probe_time)
        return self.of(name).record

    async def move(
        self,
        name: str,
        decide: Callable[[BreakerRecord, int], BreakerRecord | None],
        probe: Outcome | None = None,
    ) -> None:
        """Read, decide, swap; again when somebody else was first. `probe`: what this follows from."""
        for _ in range(SWAP_TRIES):
            record = (await self._read([name]))[name]
            moved = decide(record, await self.store.now())
            if moved is None:
                self.learn(record)
                return
            if await self.swap(record, moved, probe):
                return
        await self.refresh([name])

    async def swap(self, before: BreakerRecord, after: BreakerRecord, probe: Outcome | None = None) -> bool:
        """Whether nobody else had moved it."""
        if after.generation != before.generation and self._fallback.alone:
            *earlier, last = after.transitions
            after = replace(after, transitions=(*earlier, replace(last, scope=self.worker_id)))
        if not await self.store.swap(after.name, before.generation, after, probe):
            return False
        if after.generation != before.generation:
            why = after.transitions[-1].reason or after.transitions[-1].cause.value.lower()
            _log.warning("breaker %s: %s -> %s (%s)", after.name, before.state, after.state, why)
            self._unrecorded[after.name] = after
            self.on_moved(after)
        self.learn(after)
        return True

    def hurry(self, breaker: Breaker) -> None:
        """Jobs behind it may go on: those who stopped of themselves are to look."""
        self._changed(breaker.name, breaker.record)

    # -- this worker alone

    async def leave(self, breaker: Breaker, now: int, decision: Eject, fraction: float) -> None:
        """The trouble is this worker's own: leave the jobs to the others for a while, if enough others are in."""
        if breaker.exile is not None:
            return
        length = cooldown(breaker.policy, 0, fraction)
        out = await self.store.eject(
            breaker.name, breaker.generation, self.worker_id, decision.limit, self.lease_of(breaker, length)
        )
        if out:
            _log.warning(
                "breaker %s: this worker leaves the jobs to others (%s)", breaker.name, decision.reason
            )
            self.exile(breaker, Exile(now + length, 1, decision.code))

    def lease_of(self, breaker: Breaker, length: int) -> timedelta:
        """How long the store is to remember an exile of `length` ms: the trial that ends it takes its time."""
        return timedelta(milliseconds=length + breaker.policy.failure_window)

    def exile(self, breaker: Breaker, exile: Exile | None) -> None:
        """This worker is out from now on, or in again."""
        breaker.exile = exile
        self._changed(breaker.name, breaker.record)

    # -- what others did

    async def now(self) -> int:
        """The store's milliseconds."""
        return await self.store.now()

    async def hear(self, told: Iterable[BreakerRecord]) -> None:
        """The control plane says how breakers stand. Where it knows of later moves than we do, look; where the store
        cannot be asked, believe it. It never makes anything older."""
        news = [r for r in told if r.name in self._breakers and r.generation > self.of(r.name).generation]
        await self.refresh(record.name for record in news)
        for record in news if self._fallback.alone else ():
            if await self.store.swap(record.name, self.of(record.name).generation, record):
                self.learn(record)

    async def _read(self, names: Sequence[str]) -> dict[str, BreakerRecord]:
        """A record for each. A store that was wiped is reminded, by what we know or else by the ledger: a held type
        must not flow until somebody looks. Raises Unavailable, also when a type that we never heard of cannot be
        looked up in the ledger."""
        found = await self.store.read(names)
        missing = [name for name in names if name not in found]
        await self._look_up([name for name in missing if not self.of(name).generation])
        for name in missing:
            known = found[name] = self.of(name).record
            if known.generation:
                await self.store.swap(name, 0, known)
        return found

    async def _look_up(self, names: Sequence[str]) -> None:
        """Once for each: from then on we hear of its moves."""
        new = [name for name in names if name not in self._looked_up]
        if new:
            latest = await self._ledger.latest(new)
            self._looked_up.update(new)
            for name in new:
                if name in latest:
                    self.learn(latest[name])

    def learn(self, record: BreakerRecord) -> None:
        """How a breaker stands now."""
        breaker = self.of(record.name)
        if record == breaker.record:
            return
        breaker.learn(record)
        self._fallback.remember(record)
        self._changed(record.name, record)

    async def _flush(self) -> None:
        await self._reporter.flush(list(self._breakers.values()))

    async def _poll(self) -> None:
        # Which store it was, too: two stores' counters may meet by chance.
        count = await self.store.version()
        version = (self._fallback.alone, count)
        self._offset = await self.store.now() - asyncio.get_running_loop().time() * 1000
        if version != self._version:
            await self.refresh(list(self._breakers))
            self._version = version
        for name, record in self._fallback.take_exiles().items():
            self.exile(self.of(name), Exile(record.open_until or record.generation, 1, record.error_code))
        for record in self._fallback.take_taken():
            self._unrecorded[record.name] = record
            self.on_moved(record)
        for breaker in list(self._breakers.values()):
            if breaker.policy.mode is Mode.SHADOW and self.due(breaker.record):
                await self.half_open(breaker.name)

    async def _follow(self) -> None:
        async for name in self.store.changes():
            if name in self._breakers:
                await self.refresh([name])

    async def _record(self) -> None:
        """Bring transitions to the ledger; those that fail now are tried again, and the control plane looks too."""
        for name, record in list(self._unrecorded.items()):
            await self._ledger.record(record)
            if self._unrecorded.get(name) is record:
                del self._unrecorded[name]
