"""Every Redis key and channel. Names are put in and never parsed back: they may hold `:` `.` `_` `-`.

The braces are a hash tag: all keys of one breaker lie in one cluster slot, so a script may touch them together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerKeys:
    """The keys of one breaker, except for the two kinds that operators read."""

    record: str
    recent: str
    codes: str
    counts: str
    jobs: str
    permits: str
    workers: str
    sources: str
    ejected: str
    log: str

    @classmethod
    def of(cls, namespace: str, name: str) -> BreakerKeys:
        base = f"{namespace}:{{{name}}}"
        return cls(
            record=f"{base}:record",
            recent=f"{base}:recent",
            codes=f"{base}:codes",
            counts=f"{base}:counts",
            jobs=f"{base}:jobs:",  # + error code
            permits=f"{base}:permits",
            workers=f"{base}:workers",
            sources=f"{base}:sources",
            ejected=f"{base}:ejected",
            log=f"{base}:log",
        )


@dataclass(frozen=True, slots=True)
class LimitKeys:
    """The keys of one type's limit, in the slot of its breaker's."""

    slots: str
    budget: str

    @classmethod
    def of(cls, namespace: str, job_type: str) -> LimitKeys:
        base = f"{namespace}:{{{job_type}}}"
        return cls(slots=f"{base}:slots", budget=f"{base}:budget")


def operator_breaker(name: str) -> str:
    """JSON with the state, for people with redis-cli. Without namespace: the name is part of the contract."""
    return f"breaker:{name}"


def operator_failure(name: str, code: str) -> str:
    """Failed attempts in the window, an integer with a TTL."""
    return f"failure:{name}:{code}"


def changes(namespace: str) -> str:
    """The change counter, and the channel on which names of changed breakers are told."""
    return f"{namespace}:changes"


def signal(namespace: str, channel: str) -> str:
    """The pub/sub channel of a signal."""
    return f"{namespace}:signal:{channel}"


def fleet(namespace: str) -> str:
    """The names of the control plane's replicas that show a view of the fleet: a sorted set by when it is gone."""
    return f"{namespace}:fleet"


def fleet_view(namespace: str, replica: str) -> str:
    """One replica's view of the fleet, with a TTL."""
    return f"{namespace}:fleet:{replica}"
