"""taskiq with taskiq-aio-pika. `taskiq worker taskiq_app:broker …` works; `python taskiq_app.py` is the client."""

from __future__ import annotations

import asyncio
import os
import time

import client
import uvloop
from tally import Tally
from taskiq_aio_pika import AioPikaBroker

broker = AioPikaBroker(os.environ["BENCH_URL"], qos=200)
tally = Tally()


@broker.task(task_name="noop")
async def noop(sent: float) -> None:
    tally.note(sent, time.time())


@broker.task(task_name="io")
async def io(sent: float) -> None:
    began = time.time()
    await asyncio.sleep(0.005)
    tally.note(sent, began)


async def main() -> None:
    await broker.startup()
    tasks = {"noop": noop, "io": io}
    await client.serve_async(one=lambda task, sent: tasks[task].kiq(sent))
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
