"""The breaker: its record, its policy, and what the fleet saw. What follows from them is in `tripping.py`.

Times are milliseconds of the store's own clock (Redis time), because the records travel between hosts whose
clocks differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID

from jobkit.domain.lean import lean

TRANSITIONS_KEPT = 16
SAMPLES_KEPT = 5  # workers, jobs and traces named in a transition's proof
SLOW_CALL = "SLOW_CALL"  # counted like an error code, against a rate of its own
DEPENDENCY = "@"  # begins the name of a dependency's breaker
MAX_CODES = 50  # error codes told apart within a window; further ones count as OTHER_CODE
OTHER_CODE = "OTHER"
NOBODY = UUID(int=0)  # a job that is not known
JOBS_KEPT = 1_000  # distinct jobs remembered per code: the largest threshold that can be met
# Of the outcomes before the sample only the counts are told: of so many samples, and of so many outcomes in all.
SAMPLES_BEFORE, OUTCOMES_KEPT = 5, 1_000
WINDOW_SLICES = 30  # attempts are counted to this fraction of the window, distinct jobs exactly


class BreakerState(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"

    @property
    def holds(self) -> bool:
        """Whether jobs behind the breaker are held."""
        return self is not BreakerState.CLOSED


class Mode(StrEnum):
    """What a breaker's decisions are good for."""

    ENFORCED = "ENFORCED"
    SHADOW = "SHADOW"  # decides and records, and never holds
    DISABLED = "DISABLED"  # sees nothing, decides nothing, holds nothing


class Cause(StrEnum):
    """Who or what moved a breaker."""

    EVIDENCE = "EVIDENCE"
    TIMER = "TIMER"
    OPERATOR = "OPERATOR"


@dataclass(frozen=True, slots=True)
class Proof:
    """What the fleet had seen when evidence moved a breaker: attempts and distinct jobs by error code within the
    window, how many recent attempts were looked at, samples of who saw it, and the window's oldest failure (store
    milliseconds)."""

    failures: Mapping[str, int]
    distinct_jobs: Mapping[str, int]
    sample: int
    workers: tuple[str, ...] = ()
    jobs: tuple[UUID, ...] = ()
    traces: tuple[str, ...] = ()
    first_failure_at: int | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """One move; `generation` is the one that began with it, `at` is store milliseconds. `scope` is "" for the fleet,
    or the id of the one worker that went by a breaker of its own. `fraction` is the draw of its cooldown's jitter,
    where it has one; the ledger does not keep it, the attempt log does."""

    from_state: BreakerState
    to_state: BreakerState
    generation: int
    at: int
    cause: Cause
    actor: str = ""
    reason: str = ""
    error_code: str = ""
    scope: str = ""
    proof: Proof | None = None
    fraction: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class BreakerRecord:
    """The breaker's whole state. `opened_at` is the last opening, set while not CLOSED; `open_until` too,
    unless an operator opened it for good. `forced` says that an operator put it where it is: a forced CLOSED
    breaker ignores evidence until `open_until` (None: for good). `reopened` escalates the cooldown,
    `successes` counts good probes of this HALF_OPEN. `spared` is the job whose probe failed last (its id, or ""): the
    next probe is another one, where another waits."""

    name: str
    state: BreakerState = BreakerState.CLOSED
    generation: int = 0
    opened_at: int | None = None
    open_until: int | None = None
    error_code: str = ""
    reopened: int = 0
    forced: bool = False
    successes: int = 0
    spared: str = ""
    transitions: tuple[Transition, ...] = ()

    @property
    def is_dependency(self) -> bool:
        """Whether it guards something that several job types need, and no job type."""
        return self.name.startswith(DEPENDENCY)

    @property
    def taken_along(self) -> bool:
        """Whether its last move was one of a worker on its own before it was the fleet's."""
        return len(self.transitions) > 1 and self.transitions[-2].generation == self.generation


def outcomes_kept(sample: int) -> int:
    """How many recent outcomes a store keeps for decisions that look at `sample`."""
    return max(sample, min((1 + SAMPLES_BEFORE) * sample, OUTCOMES_KEPT))


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Times in milliseconds, `failure_sample` in attempts, rates are fractions. A `failure_threshold` above
    `JOBS_KEPT` counts as that. A call that takes `slow_call_duration` (0: off) or longer is slow;
    `ignored_error_codes` say that the job is bad, and are no evidence of anything."""

    failure_threshold: int = 5
    failure_rate: float = 0.5
    failure_sample: int = 50
    failure_window: int = 60_000
    cooldown: int = 60_000
    max_cooldown: int = 600_000
    jitter: float = 0.1
    success_threshold: int = 1
    probes: int = 1
    flush_interval: int = 200
    mode: Mode = Mode.ENFORCED
    slow_call_duration: int = 0
    slow_call_rate: float = 0.5
    ignored_error_codes: frozenset[str] = frozenset()

    @property
    def jobs_needed(self) -> int:
        """Distinct jobs on which one code must be seen."""
        return min(self.failure_threshold, JOBS_KEPT)

    @property
    def streak_needed(self) -> int:
        """Attempts in a row, failed with one code, that open without waiting for the rate."""
        return 2 * self.jobs_needed

    @property
    def outcomes_needed(self) -> int:
        """How many recent outcomes a decision looks at: ask the store for this `sample`."""
        return max(self.failure_sample, self.streak_needed)

    def rate_of(self, code: str) -> float:
        """The share of recent attempts that this code must have."""
        return self.slow_call_rate if code == SLOW_CALL else self.failure_rate

    def judge(self, attempt: Outcome) -> Outcome:
        """The attempt as this policy counts it, whatever it was counted as before. Of one whose duration is not known
        the earlier word on its slowness stands, where slow calls count at all."""
        own = attempt.own_code
        ignored = own in self.ignored_error_codes
        slow = False
        if self.slow_call_duration and not own:
            took = attempt.took
            slow = attempt.slow if took is None else took >= self.slow_call_duration
        if slow is attempt.slow and ignored is attempt.ignored:
            return attempt
        return replace(attempt, code=SLOW_CALL if slow else own, slow=slow, ignored=ignored)


@lean
@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished attempt as evidence: its error code, "" for a success, SLOW_CALL for a `slow` one. What is
    `ignored` is no evidence, and only goes to the attempt log. It `took` so many ms (None: not known). `source` is
    the job type, which matters where several stand behind one dependency; `trace` is a trace id or ""."""

    job_id: UUID
    code: str
    source: str = ""
    trace: str = ""
    took: int | None = None
    slow: bool = False
    ignored: bool = False

    @property
    def own_code(self) -> str:
        """What the attempt itself ended with: an error code, "" for a success."""
        return "" if self.slow else self.code

    @property
    def failed(self) -> bool:
        """Whether it counts against the breaker."""
        return bool(self.code) and not self.ignored


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one worker saw since its last report, of attempts that began under `generation`; `outcomes` in order of
    finishing, ignored ones among them. `fraction` is the draw of what may follow from it, made beforehand so that it
    is recorded with it; `trial` says that the worker was out and this is what became of the job that it tried."""

    generation: int
    outcomes: tuple[Outcome, ...]
    worker: str = ""
    fraction: float = 0.5
    trial: bool = False

    @property
    def counted(self) -> tuple[Outcome, ...]:
        """The outcomes that are evidence."""
        return tuple(outcome for outcome in self.outcomes if not outcome.ignored)


@dataclass(frozen=True, slots=True)
class Seen:
    """One recent outcome as the whole fleet sees it. Jobs and traces are remembered of failures only; `at` is when it
    was reported, in store ms."""

    code: str
    worker: str = ""
    source: str = ""
    job_id: UUID | None = None
    trace: str = ""
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Window:
    """What the whole fleet saw. `distinct_jobs` counts jobs by code within the window, `failures` attempts by
    code; `seen` is the last outcomes within the window, newest first, and `before` counts those before them by
    code ("" is a success) where anything failed; `first_failure_at` is the oldest failure still within the window.
    `workers` and `sources` count who finished attempts within it; `ejected` are the workers that are out, each with
    the end of its lease."""

    now: int
    record: BreakerRecord
    distinct_jobs: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    seen: tuple[Seen, ...] = ()
    first_failure_at: int | None = None
    workers: int = 0
    sources: int = 0
    ejected: Mapping[str, int] = field(default_factory=dict)
    before: Mapping[str, int] = field(default_factory=dict)

    @property
    def recent(self) -> tuple[str, ...]:
        """The codes of `seen`, newest first; "" is a success."""
        return tuple(outcome.code for outcome in self.seen)


@dataclass(frozen=True, slots=True)
class Wait:
    """The threshold is met, but other workers may hold successes that they have not reported yet: look at the
    window again in `ms` milliseconds."""

    ms: int


@dataclass(frozen=True, slots=True)
class Eject:
    """The evidence is about the worker that reports it and not about the fleet: it is to leave this breaker's jobs
    to the others. `limit` is how many workers may be out at once."""

    code: str
    reason: str
    limit: int
