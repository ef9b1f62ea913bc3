"""Starts a component that breaks at one point of its work: `crash_launcher.py POINT NTH COMPONENT`, run by path in
the folder of a fleet. The product has no hook for it: a method is wrapped before `main` is called.

POINT is `before:STEP` or `after:STEP` (the process kills itself, as SIGKILL does, at the NTH call), `lost:STEP` (the
NTH call does its work and then raises what an adapter raises when the reply was lost) or `mute:STEP` (so do the NTH
call and the four after it, which is longer than any step is repeated at once).
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from itertools import count
from typing import Any

# What a step of design §2 is called, and the method that takes it.
STEPS = {
    "insert": "jobkit.adapters.sql.intake:SqlIntake.insert",
    "publish": "jobkit.adapters.rabbitmq.dispatcher:RabbitDispatcher.publish",
    "write": "jobkit.adapters.rabbitmq.wire:_OneWrite._write",
    "beat": "jobkit.adapters.sql.presence:SqlSessions.beat",
    "claim": "jobkit.adapters.sql.work:SqlWork.claim",
    "execute": "worker.executor:Executor.run",
    "renew": "jobkit.adapters.sql.work:SqlWork.renew",
    "settle": "jobkit.adapters.sql.work:SqlWork.settle",
    "ack": "jobkit.adapters.rabbitmq.lane:RabbitLane.ack",
    "give_back": "jobkit.adapters.rabbitmq.lane:RabbitLane.give_back",
    "orphans": "jobkit.adapters.sql.recovery:SqlRecovery.take_orphans",
    "rescue": "jobkit.adapters.sql.recovery:SqlRecovery.rescue",
}
LOST = {"lost": 1, "mute": 5}
# Written to the socket, and not confirmed yet.
PAUSES = {"write": 0.01}

Method = Callable[..., Awaitable[Any]]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken(method: Method, when: str, nth: int, pause: float) -> Method:
    """`method`, with the fault at its `nth` call."""
    calls = count(1)

    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        if when == "before" and number == nth:
            die()
        answer = await method(*args, **kwargs)
        if when == "after" and number == nth:
            await asyncio.sleep(pause)
            die()
        if nth <= number < nth + LOST.get(when, 0):
            from jobkit.domain.errors import store_unavailable  # noqa: PLC0415 - after the path is set

            raise store_unavailable("database")
        return answer

    return call


def arm(point: str, nth: int) -> None:
    """Wrap the method of `point`."""
    when, _, step = point.partition(":")
    module, _, path = STEPS[step].partition(":")
    owner, name = path.split(".")
    kind = getattr(import_module(module), owner)
    setattr(kind, name, broken(getattr(kind, name), when, nth, PAUSES.get(step, 0.0)))


def main() -> None:
    point, nth, *command = sys.argv[1:]
    sys.argv[1:] = command
    sys.path[0] = os.getcwd()  # not this file's folder
    arm(point, int(nth))
    from jobkit.cli.main import main as selfheal  # noqa: PLC0415

    sys.exit(selfheal())


if __name__ == "__main__":
    main()
