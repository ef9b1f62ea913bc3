"""Our tasks, as WORKER_HANDLERS loads them."""

from __future__ import annotations

import asyncio
import os
import time

from tally import Tally

from jobkit import JobContext, job_handler

PREFIX = os.environ["BENCH_PREFIX"]
TYPES = range(int(os.environ.get("BENCH_TYPES", "1")))
tally = Tally()


async def noop(job: JobContext) -> None:
    tally.note(job.payload["sent"], time.time())


async def io(job: JobContext) -> None:
    began = time.time()
    await asyncio.sleep(0.005)
    tally.note(job.payload["sent"], began)


for number in TYPES:
    job_handler(f"{PREFIX}.noop.{number}")(noop)
job_handler(f"{PREFIX}.io.0")(io)
