"""Celery on RabbitMQ. `celery -A celery_app worker …` works; `python celery_app.py` is the client."""

from __future__ import annotations

import os
import time

import client
from celery import Celery
from tally import Tally

app = Celery("celery_app", broker=os.environ["BENCH_URL"])
app.conf.update(
    task_ignore_result=True,
    broker_pool_limit=32,  # a connection for each sending thread
    worker_prefetch_multiplier=64,  # "many tasks of short duration": 50 to 150
    broker_connection_retry_on_startup=True,
)
tally = Tally()


@app.task(name="noop")
def noop(sent: float) -> None:
    tally.note(sent, time.time())


@app.task(name="io")
def io(sent: float) -> None:
    began = time.time()
    time.sleep(0.005)  # a switch to another greenlet under gevent
    tally.note(sent, began)


if __name__ == "__main__":
    tasks = {"noop": noop, "io": io}
    client.serve(one=lambda task, sent: tasks[task].apply_async((sent,)))
