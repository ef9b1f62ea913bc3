"""Handlers of one's own, as `selfheal dev --handlers` and WORKER_HANDLERS load them. The tests copy this file into
the folder where the worker starts."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from jobkit import JobContext, Permanent, RetryLater, TransientError, job_handler

PREFIX = os.environ["TRIAL_PREFIX"]


@job_handler(f"{PREFIX}.echo")
async def echo(job: JobContext) -> dict[str, Any]:
    """Tells what it was given; `failures` in the payload is how many first runs fail."""
    if job.delivery <= job.payload.get("failures", 0):
        raise TransientError(job.payload.get("code", "NETWORK_ERROR"), "as asked for")
    if job.delivery <= job.payload.get("later", 0):
        raise RetryLater(0.3)
    return {
        "payload": job.payload,
        "attempt": job.attempt,
        "delivery": job.delivery,
        "labels": dict(job.labels),
        "traceparent": job.traceparent,
    }


@job_handler(f"{PREFIX}.held")
async def held(job: JobContext) -> dict[str, Any]:
    """Like `echo`, for a test that opens its breaker."""
    return await echo(job)


@job_handler(f"{PREFIX}.picky", max_attempts=2)
async def picky(job: JobContext) -> dict[str, Any]:
    """Takes only what is `good`."""
    if not job.payload.get("good"):
        raise Permanent("VALIDATION_ERROR", "the payload is not good")
    return {"attempt": job.attempt}


@job_handler(f"{PREFIX}.patient")
async def patient(job: JobContext) -> dict[str, Any]:
    """Waits until the file `release` appears; leaves the file `told` when it is cancelled."""
    job.progress(1, 2)
    Path(job.payload["begun"]).touch()
    try:
        while not Path(job.payload["release"]).exists():
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        Path(job.payload["told"]).touch()
        raise
    return {"released": True, "delivery": job.delivery}


@job_handler(f"{PREFIX}.blocking")
def blocking(job: JobContext) -> dict[str, Any]:
    """A plain function that looks whether it should stop."""
    Path(job.payload["begun"]).touch()
    while not job.cancelled:
        time.sleep(0.05)
    Path(job.payload["told"]).touch()
    return {}
