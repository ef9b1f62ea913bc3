"""The breaker: its record, its policy, and what the fleet saw. What follows from them is in `tripping.py`.

Times are milliseconds of the store's own clock (Redis time), because the records travel between hosts whose
clocks differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

TRANSITIONS_KEPT = 16
MAX_CODES = 50  # error codes told apart within a window; further ones count as OTHER_CODE
OTHER_CODE = "OTHER"
JOBS_KEPT = 1_000  # distinct jobs remembered per code: the largest threshold that can be met
WINDOW_SLICES = 30  # attempts are counted to this fraction of the window, distinct jobs exactly


class BreakerState(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"

    @property
    def holds(self) -> bool:
        """Whether jobs behind the breaker are held."""
        return self is not BreakerState.CLOSED


class Cause(StrEnum):
    """Who or what moved a breaker."""

    EVIDENCE = "EVIDENCE"
    TIMER = "TIMER"
    OPERATOR = "OPERATOR"


@dataclass(frozen=True, slots=True)
class Transition:
    """One move; `generation` is the one that began with it, `at` is store milliseconds."""

    from_state: BreakerState
    to_state: BreakerState
    generation: int
    at: int
    cause: Cause
    actor: str = ""
    reason: str = ""
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class BreakerRecord:
    """The breaker's whole state. `opened_at` is the last opening, set while not CLOSED; `open_until` too,
    unless an operator opened it for good. `forced` says that an operator put it where it is: a forced CLOSED
    breaker ignores evidence until `open_until` (None: for good). `reopened` escalates the cooldown,
    `successes` counts good probes of this HALF_OPEN."""

    name: str
    state: BreakerState = BreakerState.CLOSED
    generation: int = 0
    opened_at: int | None = None
    open_until: int | None = None
    error_code: str = ""
    reopened: int = 0
    forced: bool = False
    successes: int = 0
    transitions: tuple[Transition, ...] = ()


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Times in milliseconds, `failure_sample` in attempts, `failure_rate` a fraction. A `failure_threshold`
    above `JOBS_KEPT` counts as that."""

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


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one worker saw since its last report, of attempts that began under `generation`.

    `outcomes` is in order of finishing: (job_id, error code) with "" for a success.
    """

    generation: int
    outcomes: tuple[tuple[UUID, str], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """What the whole fleet saw. `distinct_jobs` counts jobs by code within the window, `failures` attempts by
    code; `recent` is the last outcomes within the window, newest first ("" is a success);
    `first_failure_at` is the oldest failure still within the window."""

    now: int
    record: BreakerRecord
    distinct_jobs: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    recent: tuple[str, ...] = ()
    first_failure_at: int | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """The threshold is met, but other workers may hold successes that they have not reported yet: look at the
    window again in `ms` milliseconds."""

    ms: int
