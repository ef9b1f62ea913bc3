"""Jobs that ended, counted by whichever component ended them: a worker what it ran, the job API and the control
plane what somebody cancelled or discarded, and what no worker will end any more."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from jobkit.tally import Counts


def finished(registry: CollectorRegistry) -> Counts:
    """By job type and outcome."""
    return Counts(
        "selfheal_jobs_finished_total", "Jobs that ended.", ["job_type", "outcome"], registry=registry
    )
