"""The outage's workload on Celery: run in Celery's own environment, never imported by ours.

`celery -A celery_app worker …` works; `python celery_app.py COUNT SECONDS` submits so many, spread over so long."""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.request
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

from celery import Celery

RETRIES = os.environ["DRILL_RETRIES"]

app = Celery("drill", broker=os.environ["DRILL_BROKER"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


class Refused(Exception):
    """The dependency did not do it."""


@app.task(
    name="call",
    autoretry_for=(Refused,),
    max_retries=None if RETRIES == "unbounded" else int(RETRIES),
    retry_backoff=True,
    retry_backoff_max=int(os.environ["DRILL_BACKOFF_MAX"]),
    retry_jitter=True,
)
def call(key: str) -> None:
    who = urlencode({"who": socket.gethostname(), "key": key})
    request = urllib.request.Request(f"{os.environ['DRILL_URL']}?{who}", method="POST", data=b"")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
    except HTTPError as error:
        raise Refused(error.read().decode()) from None


def submit(count: int, seconds: float) -> None:
    task: Any = call
    began = time.monotonic()
    for number in range(count):
        task.apply_async((str(number),))
        time.sleep(max(began + seconds * (number + 1) / count - time.monotonic(), 0))


if __name__ == "__main__":
    submit(int(sys.argv[1]), float(sys.argv[2]))
