"""Recorded attempts played through a candidate policy: what the breaker would have done. Pure and deterministic.

The deciders are the fleet's own, with the draws that were recorded. The candidate judges each attempt anew: whether
its code is ignored, and whether it was slow (`attempts` says how exactly that is known).

As long as the replay stands where the breaker stood ("in step"), reports, probes and the moments at which workers
asked for one come when they came; with the policy that was in force the whole replay is in step, and gives the
recorded transitions. Where a candidate differs, the attempts that were recorded stand for what would have been:

- while it would have been open, recorded attempts would have been held: they count as saved;
- once its open time is over, the next recorded attempt is its probe, which it asks for at once.

Retries that would have moved, and calls that a longer opening would have spared a struggling dependency, cannot be
known. What operators did, they would have done.

*Falsely open* is the part of the time OPEN or HALF_OPEN in which the log shows that the work went well: the time is
cut into slices of ten seconds from each opening on, and a slice counts whole when more of the attempts recorded in it
succeeded than failed. An attempt in step that ended just after the opening had begun before it, and says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobkit.domain.attempts import Logged, Moved, Readmitted
from jobkit.domain.breaker import (
    NOBODY,
    SLOW_CALL,
    BreakerPolicy,
    BreakerRecord,
    BreakerState,
    Cause,
    Eject,
    Evidence,
    Outcome,
    Transition,
    Window,
)
from jobkit.domain.sightings import Sightings
from jobkit.domain.tripping import (
    cooldown,
    decide_alone,
    decide_evidence,
    decide_open_until,
    decide_probe,
    decide_probe_time,
)

SLICE_MS = 10_000
# Two workers may come to the same decision: the one that swapped first, within so long, has made it.
RACE_MS = 1_000


@dataclass(slots=True)
class Stretch:
    """A time OPEN or HALF_OPEN in store ms; `closed_at` None: until the end of the range. `recorded` says that it
    began with a recorded transition."""

    opened_at: int
    recorded: bool
    closed_at: int | None = None
    answers: dict[int, int] = field(default_factory=dict)

    def false_ms(self, end: int) -> int:
        """How much of it was open although the work went well."""
        until = end if self.closed_at is None else self.closed_at
        starts = (self.opened_at + number * SLICE_MS for number, sum_ in self.answers.items() if sum_ > 0)
        return sum(min(start + SLICE_MS, until) - start for start in starts if start < until)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What would have happened. `attempts` were looked at, `held` of them would not have run then; how long `untimed`
    ones took is not known, and they are as slow as they were."""

    transitions: tuple[Transition, ...]
    stretches: tuple[Stretch, ...]
    attempts: int
    held: int
    untimed: int

    def open_ms(self, end: int) -> int:
        return sum((end if s.closed_at is None else s.closed_at) - s.opened_at for s in self.stretches)

    def false_ms(self, end: int) -> int:
        return sum(stretch.false_ms(end) for stretch in self.stretches)


def simulate(policy: BreakerPolicy, before: BreakerRecord, log: Sequence[Logged], start: int) -> Simulated:
    """Play the log, in order, from a breaker that was `before` when it begins. Entries before `start` (store ms)
    only set the scene: there the breaker does what it did."""
    replay = Replay(policy, before, log)
    for entry in log:
        replay.play(entry, start)
    return replay.result()


class Replay:
    def __init__(self, policy: BreakerPolicy, before: BreakerRecord, log: Iterable[Logged]) -> None:
        self._policy = policy
        self._record = replace(before, transitions=())
        self._sightings = Sightings()
        self._out: dict[str, tuple[int, int]] = {}  # workers: until when, how often in a row
        self._moves: list[Transition] = []
        self._stretches: list[Stretch] = []
        self._attempts = self._held = self._untimed = 0
        made = [
            e.what.record for e in log if isinstance(e.what, Moved) and e.what.was != e.what.record.generation
        ]
        self._recorded = {record.generation: record.state for record in (before, *made)}
        self._tripped: Mapping[int, int] = {
            e.what.was: e.what.record.generation
            for e in log
            if isinstance(e.what, Moved) and e.what.record.state is BreakerState.OPEN
        }
        self._done: set[int] = {before.generation}
        self._real = before.generation

    def result(self) -> Simulated:
        counts = (self._attempts, self._held, self._untimed)
        return Simulated(tuple(self._moves), tuple(self._stretches), *counts)

    def play(self, entry: Logged, start: int) -> None:
        live = entry.at >= start
        match entry.what:
            case Moved() as move:
                self._swapped(move, entry.at, live)
                self._real = max(self._real, move.record.generation)
            case Readmitted(worker, trial):
                self._returned(worker, trial, entry.at, live)
            case Evidence() as evidence:
                self._reported(evidence, entry.at, live)

    @property
    def _in_step(self) -> bool:
        """Whether the breaker stood, or was about to stand, where the replay does: generations only grow."""
        return self._was_recorded(self._record) and self._record.generation >= self._real

    def _was_recorded(self, record: BreakerRecord) -> bool:
        # A probe may have moved it to another state in the very same ms.
        return self._recorded.get(record.generation) is record.state

    # -- reports

    def _reported(self, evidence: Evidence, at: int, live: bool) -> None:
        policy = self._policy
        outcomes = tuple(policy.judge(outcome) for outcome in evidence.outcomes)
        if live:
            self._attempts += len(outcomes)
            self._untimed += sum(outcome.took is None for outcome in outcomes)
        if self._record.state is not BreakerState.CLOSED:
            if not self._in_step:
                self._would_have_held(outcomes, evidence.fraction, at, live)
            elif live and self._record.state is BreakerState.HALF_OPEN:
                for outcome in outcomes:  # probes that were ignored
                    self._answer(outcome, evidence.fraction, at)
            return
        seen = replace(evidence, generation=self._record.generation, outcomes=outcomes)
        self._sightings.add(seen, at, policy.outcomes_needed, policy.failure_window)
        if not live:
            return
        if evidence.trial:
            for outcome in seen.counted:
                self._tried(seen, outcome, at)
            return
        window = self._window(at)
        decided = decide_evidence(policy, window, evidence.fraction, evidence.worker)
        if isinstance(decided, Eject):
            self._eject(evidence.worker, window, decided.limit, 0, evidence.fraction)
        elif isinstance(decided, BreakerRecord) and not self._others_did(at):
            self._move(decided)

    def _window(self, at: int) -> Window:
        policy = self._policy
        window = self._sightings.seen(self._record, at, policy.outcomes_needed, policy.failure_window)
        return replace(window, ejected={w: until for w, (until, _) in self._out.items() if until > at})

    def _others_did(self, at: int) -> bool:
        """Whether a report that follows made this move, because its worker was faster."""
        made = self._tripped.get(self._record.generation)
        return made is not None and at < made <= at + RACE_MS

    def _returned(self, worker: str, trial: Outcome | None, at: int, live: bool) -> None:
        """A worker was let in again after this trial."""
        judged = trial and self._policy.judge(trial)
        if judged and judged.failed and live and self._record.state is BreakerState.CLOSED:
            seen = Evidence(self._record.generation, (judged,), worker, trial=True)
            self._sightings.add(seen, at, self._policy.outcomes_needed, self._policy.failure_window)
            self._tried(seen, judged, at)
            return
        self._readmit(worker)

    def _readmit(self, worker: str) -> None:
        self._out.pop(worker, None)
        self._sightings.forget(worker)

    def _tried(self, evidence: Evidence, outcome: Outcome, at: int) -> None:
        if not outcome.code:
            self._readmit(evidence.worker)
            return
        window = self._window(at)
        opened = decide_alone(self._policy, window, outcome.code, evidence.fraction)
        if opened is not None:
            self._out.pop(evidence.worker, None)
            self._move(opened)
            return
        _, times = self._out.get(evidence.worker, (0, 0))
        self._eject(evidence.worker, window, window.workers, times, evidence.fraction)

    def _eject(self, worker: str, window: Window, limit: int, times: int, fraction: float) -> None:
        if worker not in window.ejected and len(window.ejected) >= limit:
            return
        length = cooldown(self._policy, times, fraction) + self._policy.failure_window
        self._out[worker] = (window.now + length, times + 1)

    def _would_have_held(self, outcomes: Sequence[Outcome], fraction: float, at: int, live: bool) -> None:
        """Attempts that ran, but would not have."""
        for outcome in outcomes:
            self._ask(at)
            if self._record.state is BreakerState.OPEN:
                self._held += live
            self._answer(outcome, fraction, at)

    # -- swaps

    def _swapped(self, move: Moved, at: int, live: bool) -> None:
        record = move.record
        last = record.transitions[-1] if record.transitions else None
        if record.generation == move.was:  # one of several good probes
            if live:
                self._answer(_probe(move), 0.5, at)
            else:
                self._adopt(record)
            return
        if record.generation in self._done:
            return  # a wiped store was reminded
        self._done.add(record.generation)
        # What a worker saw on its own is not in the log.
        alone = record.taken_along or (last is not None and last.scope != "")
        if not live or last is None or last.cause is Cause.OPERATOR or alone:
            self._adopt(record, told=live)
        elif last.cause is Cause.TIMER:
            self._ask(last.at)
        elif last.from_state is BreakerState.HALF_OPEN and last.fraction is not None:
            self._answer(_probe(move), last.fraction, last.at)
        elif record.state is BreakerState.CLOSED:
            self._answer(_probe(move), 0.5, last.at)
        elif last.fraction is None and record.open_until is not None:
            later = decide_open_until(self._record, record.open_until, last.error_code, last.at)
            if later is not None:
                self._move(later)
        # What is left is an opening by evidence: the reports have decided about that.

    def _ask(self, at: int) -> None:
        """A worker asks for a probe; out of step it asked as soon as it could."""
        until = self._record.open_until
        asked = at if self._in_step or until is None else min(until, at)
        half_open = decide_probe_time(self._record, asked)
        if half_open is not None:
            self._move(half_open)

    def _answer(self, attempt: Outcome, fraction: float, at: int) -> None:
        """What came of a probe, or of what stands for one."""
        outcome = self._policy.judge(attempt)
        if outcome.ignored:
            return
        code = outcome.code
        self._ask(at)
        if self._record.state is BreakerState.OPEN:
            self._count(at, not code)
            return
        generation = self._record.generation
        after = decide_probe(self._record, self._policy, generation, not code, code, at, fraction)
        if after is None:
            return
        if after.generation == generation:
            self._record = after
        else:
            self._move(after)

    # -- what follows

    def _adopt(self, record: BreakerRecord, *, told: bool = False) -> None:
        move = record.transitions[-1] if record.transitions else None
        self._settle(record, move if told else None)

    def _move(self, record: BreakerRecord) -> None:
        self._settle(record, record.transitions[-1])

    def _settle(self, record: BreakerRecord, move: Transition | None) -> None:
        was = self._record.state
        if record.state is BreakerState.CLOSED:
            self._sightings = Sightings()
        self._record = replace(record, transitions=())
        if move is None:
            return
        self._moves.append(move)
        if record.state.holds and not was.holds:
            self._stretches.append(Stretch(move.at, self._was_recorded(record)))
        elif was.holds and not record.state.holds and self._stretches:
            self._stretches[-1].closed_at = move.at

    def _count(self, at: int, good: bool) -> None:
        if self._stretches and at >= self._stretches[-1].opened_at:
            answers = self._stretches[-1].answers
            number = (at - self._stretches[-1].opened_at) // SLICE_MS
            answers[number] = answers.get(number, 0) + (1 if good else -1)


def _probe(move: Moved) -> Outcome:
    """The attempt that moved the breaker, as far as it is known: for what it counted as, its transition tells."""
    if move.probe is not None:
        return move.probe
    last = move.record.transitions[-1] if move.record.transitions else None
    failed = last is not None and last.to_state is BreakerState.OPEN and move.record.generation != move.was
    code = last.error_code if last is not None and failed else ""
    return Outcome(NOBODY, code, slow=code == SLOW_CALL)
