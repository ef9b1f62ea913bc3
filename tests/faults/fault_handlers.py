"""What the jobs of the fault tests do. Copied into the folder where a worker starts, and loaded there by
WORKER_HANDLERS=fault_handlers; types begin with TRIAL_PREFIX.

Each run leaves two lines in the file FAULT_TALLY, appended in one write each, so that any number of processes may
share it and a killed one has written what it has begun: "S job_id delivery monotonic_ns pid attempt" when it starts
and "E … outcome" when it ends. CLOCK_MONOTONIC is the same for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from jobkit import JobContext, Permanent, TransientError, job_handler

PREFIX = os.environ["TRIAL_PREFIX"]
TALLY = os.environ["FAULT_TALLY"]
# One code for each failing run's kind would open the type's breaker: eight of them stay below its rate.
CODES = 8
# The last digit of the ids of "flaky" jobs that fail once; 3 of 16, just below the budget of retries.
FAILS_FIRST = "012"


def _note(*words: object) -> None:
    line = " ".join(map(str, words)) + "\n"
    tally = os.open(TALLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(tally, line.encode())
    finally:
        os.close(tally)


@contextlib.contextmanager
def counted(job: JobContext) -> Iterator[None]:
    """Write down that the run starts, and how it ends."""
    run = (job.job_id, job.delivery)
    _note("S", *run, time.monotonic_ns(), os.getpid(), job.attempt)
    outcome = "ok"
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        _note("E", *run, time.monotonic_ns(), os.getpid(), outcome)


@job_handler(f"{PREFIX}.good")
async def good(job: JobContext) -> dict[str, Any]:
    """Succeeds at once."""
    with counted(job):
        return {"n": job.payload.get("n"), "delivery": job.delivery}


@job_handler(f"{PREFIX}.flaky")
async def flaky(job: JobContext) -> dict[str, Any]:
    """One job in six, told by its id, fails its first attempt: as many retries as the fleet's budget allows."""
    with counted(job):
        if job.attempt == 1 and job.job_id[-1] in FAILS_FIRST:
            raise TransientError(f"FLAKY_{hash(job.job_id) % CODES}", "as asked for")
        return {"attempt": job.attempt}


@job_handler(f"{PREFIX}.held")
async def held(job: JobContext) -> dict[str, Any]:
    """Succeeds, once nobody holds its breaker open any more."""
    with counted(job):
        return {}


@job_handler(f"{PREFIX}.slow")
async def slow(job: JobContext) -> dict[str, Any]:
    """Takes `seconds`, 0.4 unless told."""
    with counted(job):
        await asyncio.sleep(job.payload.get("seconds", 0.4))
        return {}


@job_handler(f"{PREFIX}.plain")
def plain(job: JobContext) -> dict[str, Any]:
    """A plain function, in a thread, for `seconds`, 0.02 unless told."""
    with counted(job):
        time.sleep(job.payload.get("seconds", 0.02))
        return {}


@job_handler(f"{PREFIX}.freezing")
async def freezing(job: JobContext) -> dict[str, Any]:
    """Blocks the event loop of its process for `seconds` in its first `times` (1) deliveries."""
    with counted(job):
        if job.delivery <= job.payload.get("times", 1):
            time.sleep(job.payload["seconds"])
        return {"delivery": job.delivery}


@job_handler(f"{PREFIX}.deaf")
async def deaf(job: JobContext) -> dict[str, Any]:
    """Ignores its cancellation for `seconds` in its first attempt."""
    with counted(job):
        until = time.monotonic() + (job.payload["seconds"] if job.attempt == 1 else 0)
        while time.monotonic() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        return {}


@job_handler(f"{PREFIX}.leaky")
async def leaky(job: JobContext) -> dict[str, Any]:
    """Leaves `tasks` tasks and `threads` threads behind that live for `seconds`."""
    with counted(job):
        seconds = job.payload.get("seconds", 5)
        for _ in range(job.payload.get("tasks", 3)):
            asyncio.ensure_future(asyncio.sleep(seconds))  # noqa: RUF006 - that is the fault
        for _ in range(job.payload.get("threads", 1)):
            threading.Thread(target=time.sleep, args=(seconds,), daemon=True).start()
        return {}


@job_handler(f"{PREFIX}.refused")
async def refused(job: JobContext) -> dict[str, Any]:
    """Ends in quarantine for as long as the file `while` exists, which opens no breaker."""
    with counted(job):
        if os.path.exists(job.payload["while"]):
            raise Permanent("REFUSED", f"refused in run {job.attempt}")
        return {}


@job_handler(f"{PREFIX}.sick", max_attempts=50)
async def sick(job: JobContext) -> dict[str, Any]:
    """Fails with one code, and so opens its breaker, for as long as the file `while` exists."""
    with counted(job):
        if os.path.exists(job.payload["while"]):
            raise TransientError("SICK", "as asked for")
        return {}


@job_handler(f"{PREFIX}.poison")
async def poison(job: JobContext) -> dict[str, Any]:
    """Kills its process in its first `times` deliveries (for ever unless told)."""
    with counted(job):
        if job.delivery <= job.payload.get("times", 1_000_000):
            os.kill(os.getpid(), signal.SIGKILL)
        return {}
