"""Suspects run alone: a job whose process died under it, again and again, gets a process to itself.

Who was beside a crash is no less suspect than who caused it. Alone, the next crash tells them apart, and nobody is
convicted for having been a bystander.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# From the second loss in a row on.
SUSPECT_LOSSES = 2


class Solitude:
    """Ordinary runs share the process; a suspect waits until it is empty, and keeps it empty while it runs.

    `reserve(True)` asks that nothing new be claimed, `reserve(False)` that claiming go on. So the process gets empty
    while a suspect waits, and a crash of the suspect takes nobody with it. Suspects that were claimed together run
    one after the other, for the one price of emptying the process. After that ordinary jobs go on for as long as they
    were kept from it, and suspects of that time gather for the next session: they cost at most half of the time.
    """

    def __init__(self, reserve: Callable[[bool], None]) -> None:
        self._reserve = reserve
        self._sharing = 0
        self._kept_waiting = 0
        self._suspects = 0
        self._reserved_at: float | None = None
        self._rest_until = 0.0
        self._alone = False
        self._turn = asyncio.Lock()
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> None:
        """Around an ordinary run; waits while a suspect runs. Every job goes through it, hence no generator."""
        if self._alone:  # this one's claim was under way when the process was reserved
            await self._until_let_in()
        self._sharing += 1

    async def __aexit__(self, *_: object) -> None:
        self._sharing -= 1
        if self._suspects and not self._sharing:
            await self._tell()

    async def _until_let_in(self) -> None:
        self._kept_waiting += 1
        async with self._changed:
            try:
                await self._changed.wait_for(lambda: not self._alone)
            finally:
                self._kept_waiting -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self, patience: float) -> AsyncIterator[bool]:
        """Around a suspect's run. False when its turn did not come, or the process did not get empty, within
        `patience` seconds: then the job is not to be run here and now."""
        self._suspects += 1
        end = _now() + patience
        try:
            if not await self._take_turn(end):
                yield False
                return
            try:
                yield await self._emptied(end)
            finally:
                self._alone = False
                self._turn.release()
                await self._tell()
        finally:
            self._suspects -= 1
            if not self._suspects:
                self._end_session()

    async def _take_turn(self, end: float) -> bool:
        try:
            async with asyncio.timeout_at(end):
                await self._turn.acquire()
        except TimeoutError:
            return False
        return True

    async def _emptied(self, end: float) -> bool:
        try:
            async with asyncio.timeout_at(end):
                await self._begin_session()
                async with self._changed:
                    await self._changed.wait_for(lambda: not self._sharing and not self._kept_waiting)
        except TimeoutError:
            return False
        self._alone = True
        return True

    async def _begin_session(self) -> None:
        if self._reserved_at is None:
            if (rest := self._rest_until - _now()) > 0:
                await asyncio.sleep(rest)
            self._reserved_at = _now()
            self._reserve(True)

    def _end_session(self) -> None:
        if self._reserved_at is not None:
            self._rest_until = _now() + (_now() - self._reserved_at)
            self._reserved_at = None
            self._reserve(False)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _now() -> float:
    return asyncio.get_running_loop().time()
