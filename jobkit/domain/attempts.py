"""The attempt log: what the breaker store took in, in its own order and time, so that it can be played again.

Three things move a breaker or what it knows: reports of attempts, each with the draw that a decision made of it uses;
swaps of its record; and a worker that is in again. Each brings the attempts that it is about, with what they ended in
and how long they took, so that another policy can judge them anew. What was refused (of an earlier generation) is not
in the log.

The duration of an attempt that failed or was slow is kept to the ms. Those of all others are rounded down, by up to
5 %: so none becomes slow by the policy that was in force, and for another one a success that took up to 5 % longer
than its `slow_call_duration` may not count as slow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jobkit.domain.breaker import BreakerRecord, Evidence, Outcome

Position = tuple[int, int]
"""Where an entry lies in its breaker's log: the store's ms when it was written, and a number within that."""

# Entries of one breaker that a store keeps until the control plane has taken them.
LOG_KEPT = 10_000
FIRST: Position = (0, 0)
"""The position before the first entry of all."""


def _floors(longest: int) -> Iterator[int]:
    floor = 0
    while floor <= longest:
        yield floor
        floor = max(floor + 1, floor * 105 // 100)


# What durations are rounded down to (ms), up to a year.
FLOORS = tuple(_floors(365 * 86_400_000))


def floor_of(milliseconds: int) -> int:
    """The index of what this duration is rounded down to."""
    return bisect_right(FLOORS, milliseconds) - 1


@dataclass(frozen=True, slots=True)
class Moved:
    """The record was swapped for this one, which keeps no more than its last transition (both of one generation where
    it was taken along); its generation `was` another one, or the same where a good probe was counted. `probe` is the
    attempt that moved it, where one did and is known."""

    record: BreakerRecord
    was: int
    probe: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Readmitted:
    """The worker is in again, after this `trial` where it is known; its part in the recent outcomes is forgotten."""

    worker: str
    trial: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """One entry; `at` is store ms. Evidence names the jobs of failures only."""

    position: Position
    at: int
    what: Evidence | Moved | Readmitted


@dataclass(frozen=True, slots=True)
class Raw:
    """An entry as it lies in the store, `text` being the adapters' own. It was written `after` that one (None: not
    known): where that one is missing, the store has dropped entries."""

    position: Position
    at: int
    text: str
    after: Position | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A time (store ms) of which entries are missing."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Span:
    """Where entries that were taken together lie; `after` as of the first of them."""

    first: Position
    last: Position
    after: Position | None = None


def find_gaps(spans: Iterable[Span]) -> Iterator[Gap]:
    """What was lost between spans, which come in the order of their first entries and may overlap."""
    reached: Position | None = None
    for span in spans:
        if reached is None:
            reached = span.last
            continue
        # A store that begins anew has lost what was not taken before.
        lost = span.after is not None and (span.after > reached or span.after == FIRST)
        if lost and span.first > reached:
            yield Gap(reached[0], span.first[0])
        reached = max(reached, span.last)
