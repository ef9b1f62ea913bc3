"""What the ledger tells: transitions in commit order, and the incidents that they make up.

An incident is the time from a fleet breaker's opening until it closes, reopenings included. What it spared is an
estimate by a published formula, made from the jobs that waited and the retry policy:

    A job that could run from `b` on, while the breaker was open since `o`, waited from max(b, o). Left to run, it
    would have failed at once each time, so its runs would have begun at the times that `run_times` gives (0, 5, 15
    and 35 s by the default policy), until its attempts were used up. Runs that would have begun by now are saved.

So a job held for longer than its whole backoff counts all the attempts that it had left, and one held for a moment
counts one. Sums are the highest seen: they are looked at while the incident lasts and when it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate

from jobkit.domain.breaker import Cause, Transition
from jobkit.domain.retry import RetryPolicy, backoff


@dataclass(frozen=True, slots=True)
class Entry:
    """One transition as the ledger has it. Revisions grow by one in commit order."""

    revision: int
    breaker: str
    move: Transition


@dataclass(frozen=True, slots=True)
class Stretch:
    """Entries in order; all that the ledger has up to `revision` are among them or before them."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Incident:
    """Times are store milliseconds. `incident_id` is the revision of the transition that opened it,
    `close_revision` that of the one that closed it; `probes` is how often it turned half-open, `jobs_held` the most
    jobs that waited behind it at once. `first_failure_at` is known when evidence opened it."""

    incident_id: int
    breaker: str
    opened_at: int
    cause: Cause
    actor: str = ""
    reason: str = ""
    error_code: str = ""
    first_failure_at: int | None = None
    closed_at: int | None = None
    close_revision: int | None = None
    close_cause: Cause | None = None
    probes: int = 0
    reopened: int = 0
    jobs_held: int = 0
    attempts_saved: int = 0

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    @property
    def calls_avoided(self) -> int:
        """Calls that the dependency was spared: the attempts saved, less the probes that it did get."""
        return max(self.attempts_saved - self.probes, 0)

    @property
    def time_to_detect(self) -> timedelta | None:
        """From the window's first failure to the opening."""
        if self.first_failure_at is None:
            return None
        return timedelta(milliseconds=max(self.opened_at - self.first_failure_at, 0))

    @property
    def time_to_recover(self) -> timedelta | None:
        """From the opening to the closing."""
        if self.closed_at is None:
            return None
        return timedelta(milliseconds=max(self.closed_at - self.opened_at, 0))

    @property
    def good_probe_at(self) -> int | None:
        """When the probe succeeded that closed it; None when a person did."""
        return self.closed_at if self.close_cause is Cause.EVIDENCE else None


@dataclass(frozen=True, slots=True)
class Tally:
    """What nobody has counted before: fleet transitions by (breaker, state after), attempts saved by breaker."""

    transitions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    saved: Mapping[str, int] = field(default_factory=dict)


def run_times(policy: RetryPolicy) -> tuple[int, ...]:
    """When the runs of a job begin that fails at once every time, in ms from its first; without jitter."""
    delays = (backoff(policy, failures, 0.5) for failures in range(1, policy.max_attempts))
    starts = accumulate(delays, initial=timedelta())
    return tuple(round(start / timedelta(milliseconds=1)) for start in starts)
