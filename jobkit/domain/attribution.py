"""Which breakers an attempt's outcome is about.

A failure counts on what it names. Unnamed it counts on the job type, and also on a dependency when that is the only
one declared: with several, nobody can tell which it was. A success speaks for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobkit.domain.breaker import DEPENDENCY
from jobkit.domain.outcome import Deferred, Failed, Outcome, Succeeded


def breaker_of(dependency: str) -> str:
    """The name of a dependency's breaker."""
    return f"{DEPENDENCY}{dependency}"


def breakers_of(job_type: str, depends_on: Sequence[str]) -> tuple[str, ...]:
    """All breakers that a job of the type stands behind: its own, then those of its dependencies by name."""
    return (job_type, *sorted({breaker_of(dependency) for dependency in depends_on}))


def attribute(outcome: Outcome, job_type: str, depends_on: Sequence[str]) -> Mapping[str, str]:
    """What the outcome says, by breaker: "" is good, a code is bad. Those that it says nothing about are absent. A
    dependency that the type does not declare holds none of its jobs, so a failure that names it counts as unnamed."""
    if isinstance(outcome, Succeeded):
        return dict.fromkeys(breakers_of(job_type, depends_on), "")
    if not isinstance(outcome, Failed) or not outcome.counts:
        return {}
    if outcome.dependency in depends_on:
        return {breaker_of(outcome.dependency): outcome.error.code}
    return dict.fromkeys(blamed(job_type, depends_on), outcome.error.code)


def blamed(job_type: str, depends_on: Sequence[str]) -> tuple[str, ...]:
    """The breakers that something unnamed is about: the type's, and that of its only dependency."""
    alone = len(set(depends_on)) == 1
    return (job_type, breaker_of(depends_on[0])) if alone else (job_type,)


def spoken_for(outcome: Deferred, job_type: str, depends_on: Sequence[str]) -> str:
    """The breaker that a wide request to come back later opens: the named dependency's or the only one's, else the
    type's."""
    if outcome.dependency is None:
        return job_type
    if outcome.dependency in depends_on:
        return breaker_of(outcome.dependency)
    return breaker_of(depends_on[0]) if not outcome.dependency and len(set(depends_on)) == 1 else job_type
