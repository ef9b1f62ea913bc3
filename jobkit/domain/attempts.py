"""The attempt log: what the breaker store took in, in its own order and time, so that it can be played again.

Three things move a breaker or what it knows: reports of attempts, each with the draw that a decision made of it uses;
swaps of its record; and a worker that is in again. What was refused (of an earlier generation) is not in the log.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobkit.domain.breaker import BreakerRecord, Evidence

Position = tuple[int, int]
"""Where an entry lies in its breaker's log: the store's ms when it was written, and a number within that."""

# Entries of one breaker that a store keeps until the control plane has taken them.
LOG_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Moved:
    """The record was swapped for this one, which keeps no more than its last transition; its generation `was`
    another one, or the same where a good probe was counted."""

    record: BreakerRecord
    was: int


@dataclass(frozen=True, slots=True)
class Readmitted:
    """The worker is in again; its part in the recent outcomes is forgotten."""

    worker: str


@dataclass(frozen=True, slots=True)
class Logged:
    """One entry; `at` is store ms. Evidence names the jobs of failures only."""

    position: Position
    at: int
    what: Evidence | Moved | Readmitted


@dataclass(frozen=True, slots=True)
class Raw:
    """An entry as it lies in the store, `text` being the adapters' own."""

    position: Position
    at: int
    text: str
