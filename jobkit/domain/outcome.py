"""What an attempt ended in. Errors are told to callers, outcomes are facts about a run, and decisions
(`retry.py`) are what follows: three vocabularies, never mixed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from jobkit.domain.job import JobError
from jobkit.domain.lean import lean

API_TIMEOUT = "API_TIMEOUT"
NETWORK_ERROR = "NETWORK_ERROR"
VALIDATION_ERROR = "VALIDATION_ERROR"


@lean
@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned; `result` is a JSON object in UTF-8, or None."""

    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler failed. `counts` says whether the failure is evidence against the breaker: a failure that
    says the *job* is bad never is. `dependency` is what the handler blamed, "" for nothing."""

    error: JobError
    counts: bool = True
    dependency: str = ""


@dataclass(frozen=True, slots=True)
class Deferred:
    """The handler asked to be run again after `after`, at the cost of no attempt. `wide`: it speaks for the whole
    job type, or for a `dependency` ("": the only one that the type has); that breaker opens until exactly then."""

    after: timedelta
    message: str = ""
    wide: bool = False
    dependency: str | None = None


class Interrupted(StrEnum):
    """The run was stopped and says nothing about the job or its dependency."""

    CANCELLED = "CANCELLED"  # somebody cancelled the job
    DRAINED = "DRAINED"  # the worker is going away: the job goes back
    LOST = "LOST"  # the claim went to somebody else: nothing may be written
    POSTPONED = "POSTPONED"  # not started: it may only run alone, and this process is not empty


@dataclass(frozen=True, slots=True)
class Convicted:
    """Not started: the process died under it `losses` times in a row while nothing ran beside it."""

    losses: int


Outcome = Succeeded | Failed | Deferred | Interrupted | Convicted
