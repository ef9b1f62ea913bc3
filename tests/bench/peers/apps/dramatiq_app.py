"""Dramatiq on RabbitMQ. `dramatiq dramatiq_app …` works; `python dramatiq_app.py` is the client."""

from __future__ import annotations

import os
import time

import client
import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from tally import Tally

dramatiq.set_broker(RabbitmqBroker(url=os.environ["BENCH_URL"]))
tally = Tally()


@dramatiq.actor
def noop(sent: float) -> None:
    tally.note(sent, time.time())


@dramatiq.actor
def io(sent: float) -> None:
    began = time.time()
    time.sleep(0.005)
    tally.note(sent, began)


if __name__ == "__main__":
    tasks = {"noop": noop, "io": io}
    client.serve(one=lambda task, sent: tasks[task].send(sent))
