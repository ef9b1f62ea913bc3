"""Jobs that ended, counted by whichever component ended them: a worker what it ran, the job API and the control
plane what somebody cancelled or discarded, and what no worker will end any more."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter

CHILDREN = 4096


def finished(registry: CollectorRegistry) -> Callable[[str, str], Counter]:
    """Gives the counter of (job type, outcome). Kept, because to look one up costs more than to count with it; types
    are bounded."""
    counter = Counter(
        "selfheal_jobs_finished_total", "Jobs that ended.", ["job_type", "outcome"], registry=registry
    )
    return lru_cache(CHILDREN)(counter.labels)
