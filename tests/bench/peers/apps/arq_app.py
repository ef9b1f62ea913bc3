"""arq on Redis. `arq arq_app.WorkerSettings` works; `python arq_app.py` is the client."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, ClassVar

import client
import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from tally import Tally

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
REDIS = RedisSettings.from_dsn(os.environ["BENCH_URL"])
tally = Tally()


async def noop(_: Any, sent: float) -> None:
    tally.note(sent, time.time())


async def io(_: Any, sent: float) -> None:
    began = time.time()
    await asyncio.sleep(0.005)
    tally.note(sent, began)


class WorkerSettings:
    """Read by arq's command."""

    functions: ClassVar = [noop, io]
    redis_settings = REDIS
    max_jobs = 100
    poll_delay = 0.01  # 0.5 s unless told: it bounds the drain and is most of a lone job's latency
    keep_result = 0


async def main() -> None:
    pool = await create_pool(REDIS)
    await client.serve_async(one=pool.enqueue_job)
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main())
