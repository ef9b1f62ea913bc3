"""Whatever the order of events, the breaker keeps its promises: a state machine over deciders and store."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.domain.breaker import (
    TRANSITIONS_KEPT,
    BreakerPolicy,
    BreakerRecord,
    BreakerState,
    Eject,
    Evidence,
    Outcome,
    Wait,
)
from jobkit.domain.tripping import (
    close_by_hand,
    decide_evidence,
    decide_open_until,
    decide_probe,
    decide_probe_time,
    heeds_evidence,
    open_by_hand,
    reset,
)

T = TypeVar("T")
NAME = "email"
LEASE = timedelta(milliseconds=500)
POLICY = BreakerPolicy(
    failure_threshold=2,
    failure_sample=6,
    failure_window=2_000,
    cooldown=1_000,
    max_cooldown=3_000,
    success_threshold=2,
    probes=2,
)
FRACTIONS = st.floats(0, 1, exclude_max=True)
WORKERS = st.integers(0, 3)


def now(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, as all of the embedded store's."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


class Breaker(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = 1_000_000
        self.store = MemoryBreakerStore(lambda: self.clock)
        now(self.store.create(NAME))
        self.known = [self.record] * 4  # what each worker read last, perhaps long ago
        self.permits: dict[tuple[int, int], int] = {}  # (worker, generation) -> end of the lease
        self.generations = [0]

    @property
    def record(self) -> BreakerRecord:
        return now(self.store.read([NAME]))[NAME]

    def swap(
        self, seen: BreakerRecord, after: BreakerRecord | Wait | None, by_evidence: bool = False
    ) -> bool:
        if not isinstance(after, BreakerRecord):
            return False
        before = self.record
        won = now(self.store.swap(NAME, seen.generation, after))
        assert won or self.record == before
        if won:
            assert before.generation == seen.generation, "an old generation changed the state"
            if by_evidence:
                assert heeds_evidence(before, self.clock), "a forced breaker heeded evidence"
            if after.generation != before.generation:
                assert after.generation > max(self.generations)
                self.generations.append(after.generation)
        return won

    @rule(worker=WORKERS)
    def read(self, worker: int) -> None:
        self.known[worker] = self.record

    @rule(ms=st.sampled_from([1, 150, 250, 600, 1_500, 5_000]))
    def time_passes(self, ms: int) -> None:
        self.clock += ms

    @rule()
    def the_open_time_passes(self) -> None:
        self.clock = max(self.clock, self.record.open_until or 0)

    @rule(worker=WORKERS, fraction=FRACTIONS)
    def everything_fails(self, worker: int, fraction: float) -> None:
        self.known[worker] = self.record
        self.report(worker, [(job, "A") for job in range(4)], fraction)

    @rule(worker=WORKERS, outcomes=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "A", "B"]))),
          fraction=FRACTIONS)  # fmt: skip
    def report(self, worker: int, outcomes: list[tuple[int, str]], fraction: float) -> None:
        before = self.record
        evidence = Evidence(
            self.known[worker].generation,
            tuple(Outcome(UUID(int=job), code, NAME) for job, code in outcomes),
            str(worker),
        )
        window = now(self.store.report(NAME, evidence, POLICY.outcomes_needed, POLICY.failure_window))
        assert window.record == before
        assert all(window.distinct_jobs[code] <= count for code, count in window.failures.items())
        assert len(window.recent) <= POLICY.outcomes_needed
        decision = decide_evidence(POLICY, window, fraction, str(worker))
        if isinstance(decision, Eject):
            assert window.workers > 1, "one worker alone is the fleet"
            out = now(self.store.eject(NAME, window.record.generation, str(worker), decision.limit, LEASE))
            assert len(self.ejected) <= window.workers // 2 or not out, "more than half are out"
            return
        if isinstance(decision, Wait):
            assert 0 < decision.ms <= POLICY.flush_interval
        if self.swap(window.record, decision, by_evidence=True):
            assert before.state is BreakerState.CLOSED
            assert max(window.distinct_jobs.values()) >= POLICY.failure_threshold
            proof = self.record.transitions[-1].proof
            assert proof is not None
            assert 0 < len(proof.workers) <= 5
            assert 0 < len(proof.jobs) <= 5

    @property
    def ejected(self) -> set[str]:
        return set(now(self.store.window(NAME, 1, POLICY.failure_window)).ejected)

    @rule(worker=WORKERS)
    def readmit(self, worker: int) -> None:
        now(self.store.readmit(NAME, str(worker)))
        window = now(self.store.window(NAME, 50, POLICY.failure_window))
        assert str(worker) not in window.ejected
        assert all(seen.worker != str(worker) for seen in window.seen)

    @rule(worker=WORKERS, ms=st.integers(-100, 2_000))
    def retry_later(self, worker: int, ms: int) -> None:
        seen = self.known[worker]
        after = decide_open_until(seen, self.clock + ms, "R", self.clock, seen.generation)
        if self.swap(seen, after, by_evidence=True):
            assert self.record.open_until == self.clock + ms

    @rule(worker=WORKERS)
    def ask(self, worker: int) -> None:
        """A worker with an idle lane: half-open what is due, and take a permit."""
        self.swap(self.record, decide_probe_time(self.record, self.clock))
        seen = self.known[worker] = self.record
        if seen.state is BreakerState.HALF_OPEN and self.take(worker, seen.generation):
            self.permits[worker, seen.generation] = self.clock + 500

    @precondition(lambda self: self.record.state is BreakerState.HALF_OPEN)
    @rule(worker=WORKERS, fraction=FRACTIONS)
    def half_open_again(self, worker: int, fraction: float) -> None:
        """A probe whose permit is long gone fails, and the breaker comes to its next HALF_OPEN."""
        seen = self.record
        assert self.swap(seen, decide_probe(seen, POLICY, seen.generation, False, "B", self.clock, fraction))
        self.the_open_time_passes()
        self.ask(worker)

    @rule(worker=WORKERS)
    def ask_with_what_was_known(self, worker: int) -> None:
        generation = self.known[worker].generation
        if self.take(worker, generation):
            assert generation == self.record.generation
            self.permits[worker, generation] = self.clock + 500

    def take(self, worker: int, generation: int) -> bool:
        return now(self.store.take_permit(NAME, generation, str(worker), POLICY.probes, LEASE))

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), succeeded=st.booleans(), fraction=FRACTIONS)
    def answer(self, data: st.DataObject, succeeded: bool, fraction: float) -> None:
        """A probe ends, in time or long after anybody cares."""
        worker, generation = data.draw(st.sampled_from(sorted(self.permits)))
        before = self.record
        after = decide_probe(before, POLICY, generation, succeeded, "A", self.clock, fraction)
        if before.generation != generation:
            assert after is None
        elif self.swap(before, after) and not succeeded:
            assert self.record.state is BreakerState.OPEN
        now(self.store.return_permit(NAME, generation, str(worker)))
        del self.permits[worker, generation]

    @rule(
        worker=WORKERS,
        until=st.none() | st.integers(1, 3_000),
        what=st.sampled_from(["open", "close", "reset"]),
    )
    def by_hand(self, worker: int, until: int | None, what: str) -> None:
        seen, end = self.known[worker], None if until is None else self.clock + until
        if what == "reset":
            self.swap(seen, reset(seen, self.clock, "ann", ""))
        else:
            move = open_by_hand if what == "open" else close_by_hand
            self.swap(seen, move(seen, self.clock, end, "ann", ""))
        self.known[worker] = self.record

    @invariant()
    def permits_are_bounded(self) -> None:
        current = self.record.generation
        held = [
            worker
            for (worker, generation), until in self.permits.items()
            if generation == current and until > self.clock
        ]
        assert len(held) <= POLICY.probes

    @invariant()
    def an_open_breaker_ends(self) -> None:
        record = self.record
        if record.state is not BreakerState.OPEN:
            return
        if record.open_until is None:
            assert record.forced, "only a person opens for good"
            return
        assert record.open_until - self.clock <= POLICY.max_cooldown * (1 + POLICY.jitter)
        assert decide_probe_time(record, record.open_until) is not None

    @invariant()
    def a_record_is_consistent(self) -> None:
        record = self.record
        assert (record.opened_at is None) is (record.state is BreakerState.CLOSED)
        assert len(record.transitions) == min(len(self.generations) - 1, TRANSITIONS_KEPT)
        assert [move.generation for move in record.transitions] == self.generations[1:][-TRANSITIONS_KEPT:]
        states = [move.to_state for move in record.transitions] or [BreakerState.CLOSED]
        assert states[-1] is record.state
        assert all(
            later.from_state is earlier.to_state
            for earlier, later in zip(record.transitions, record.transitions[1:], strict=False)
        )
        assert 0 <= record.successes < POLICY.success_threshold


Breaker.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreaker = Breaker.TestCase
