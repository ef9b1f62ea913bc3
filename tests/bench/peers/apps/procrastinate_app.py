"""procrastinate on PostgreSQL. `procrastinate --app procrastinate_app.app worker …` works; `python
procrastinate_app.py` is the client, `python procrastinate_app.py schema` makes the tables."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import client
import uvloop
from procrastinate import App, PsycopgConnector
from tally import Tally

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_URL"], min_size=4, max_size=16))
tally = Tally()


@app.task(name="noop")
async def noop(sent: float) -> None:
    tally.note(sent, time.time())


@app.task(name="io")
async def io(sent: float) -> None:
    began = time.time()
    await asyncio.sleep(0.005)
    tally.note(sent, began)


TASKS = {"noop": noop, "io": io}


async def one(task: str, sent: float) -> None:
    await TASKS[task].defer_async(sent=sent)


async def many(task: str, moments: list[float]) -> None:
    await TASKS[task].batch_defer_async(*[{"sent": sent} for sent in moments])


async def main() -> None:
    async with app.open_async():
        if sys.argv[1:] == ["schema"]:
            if not await app.check_connection_async():  # no tables yet
                await app.schema_manager.apply_schema_async()
        else:
            await client.serve_async(one=one, many=many)


if __name__ == "__main__":
    asyncio.run(main())
