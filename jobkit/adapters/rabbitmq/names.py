"""Every name on the broker, spelled once. They are part of the contract: operators and other programs see them."""

from __future__ import annotations

JOBS = "jobs"  # direct exchange; the routing key is the job type
MAIN = "jobs.main"  # what the queues of all job types begin with
QUARANTINE = "jobs.quarantine"  # the intake of what cannot be decoded
DEFAULT_EXCHANGE = ""

JOB_ID = "x-job-id"
JOB_TYPE = "x-job-type"
ATTEMPT = "x-attempt"
ORIGIN = "x-queue"  # on quarantined messages: the queue that it came from
DELIVERY_COUNT = "x-delivery-count"  # added by quorum queues to what they deliver
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"


def main_queue(job_type: str) -> str:
    """The FIFO queue of a job type."""
    return f"{MAIN}.{job_type}"


def retry(delay: int) -> str:
    """The fanout exchange, and the queue bound to it, of a rung of the ladder; `delay` in milliseconds."""
    return f"jobs.retry.{delay}"
