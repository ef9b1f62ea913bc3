"""How slowly to go on where everything has failed so far: calls that fail at once must not be spent faster than the
fleet learns of them."""

from __future__ import annotations

from jobkit.domain.breaker import BreakerPolicy, BreakerState, Mode, Wait, Window
from jobkit.domain.moving import heeds_evidence


def decide_caution(policy: BreakerPolicy, window: Window, me: str) -> Wait | None:
    """How long the worker `me` starts nothing behind this breaker before it looks again; None: it may go on.

    As long as nothing has succeeded within the window, its tries are so far apart that as many as open the breaker
    take a flush interval, which the opening has to wait for anyhow. Where fewer failures are missing than there are
    workers, one of them tries on: the one that failed last. The others give it a flush interval, counted from their
    own last failure, so that nobody waits for long whatever becomes of the one.
    """
    record, now = window.record, window.now
    if policy.mode is not Mode.ENFORCED or record.state is not BreakerState.CLOSED:
        return None
    if not heeds_evidence(record, now) or any(not seen.code for seen in window.seen):
        return None
    failed_at = next((seen.at for seen in window.seen if seen.worker == me), None)
    missing = policy.jobs_needed - max(window.distinct_jobs.values(), default=0)
    if failed_at is None or missing <= 0:
        return None
    yields = missing < window.workers and window.seen[0].worker != me
    pause = policy.flush_interval if yields else policy.flush_interval // policy.jobs_needed
    left = failed_at + pause - now
    return Wait(left) if left > 0 else None
