"""Background loops with a supervisor, and a process that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)

MAX_BACKOFF = 5.0
# What went on for so long was well. Less may have been spent on waiting for a dependency that never answered.
WELL_SECONDS = 30.0
CANCEL_SECONDS = 1.0
SAME_REQUEST_SECONDS = 0.5


class Loops:
    """Background loops of one component. A loop that raises is logged and run again after a jittered backoff:
    every one of them can start anew at any time, so that one bad moment never takes a process down."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.failing: dict[str, str] = {}

    def spawn(
        self, name: str, body: Callable[[], Awaitable[None]], *, max_backoff: float = MAX_BACKOFF
    ) -> None:
        """Run `body` until `stop`; again when it returns or raises, after `max_backoff` seconds at most."""
        self._keep(asyncio.create_task(self._supervise(name, body, max_backoff), name=name))

    def every(
        self,
        seconds: float,
        name: str,
        body: Callable[[], Awaitable[None]],
        *,
        max_backoff: float = MAX_BACKOFF,
    ) -> None:
        """Run `body` every `seconds`, counted from the end of the run before."""

        async def repeat() -> None:
            while True:
                await body()
                self.failing.pop(name, None)
                await asyncio.sleep(seconds)

        self.spawn(name, repeat, max_backoff=max_backoff)

    def once(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        """Run `body` once in the background; what it raises is logged."""

        async def run() -> None:
            try:
                await body()
            except Exception:
                _log.exception("%s failed", name)

        self._keep(asyncio.create_task(run(), name=name))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _supervise(self, name: str, body: Callable[[], Awaitable[None]], max_backoff: float) -> None:
        delay = 0.1
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await body()
            except Exception as error:
                if name not in self.failing:
                    _log.warning("loop %s failed, going on: %s", name, error, exc_info=_unexpected(error))
                self.failing[name] = str(error)
            # aiormq makes another error of a cancellation: who was told to stop still has to.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                return
            lasted = asyncio.get_running_loop().time() - started
            if lasted > MAX_BACKOFF:
                delay = 0.1
            if lasted > WELL_SECONDS:
                self.failing.pop(name, None)  # the next failure is news again
            await asyncio.sleep(min(delay * random.uniform(0.5, 1.5), max_backoff))  # noqa: S311 - jitter
            delay = min(delay * 2, max_backoff)

    async def stop(self) -> None:
        """Cancel all and wait for them. Safe to repeat."""
        # Again until they are done: a library may swallow one cancellation (a lock, a timeout that fires with it).
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)


def _unexpected(error: Exception) -> bool:
    """Whether a traceback helps: a dependency that is away is news enough in one line."""
    return not str(getattr(error, "reason", "")).endswith("_UNAVAILABLE")


class StopSignal:
    """SIGTERM and SIGINT as an awaitable. A second one ends the process at once, as an impatient operator expects;
    not one that comes with the first, as from `make`, which passes on what its whole group was sent."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._asked_at = 0.0

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._event.is_set():
            self._asked_at = now
            self._event.set()
        elif now - self._asked_at > SAME_REQUEST_SECONDS:
            _log.warning("ends at once: asked again")
            logging.shutdown()
            os._exit(1)  # threads of gRPC and of handlers are in the middle of something: no teardown

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
