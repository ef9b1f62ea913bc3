"""What the jobs of a drill depend on: something of limited capacity that fails in all the ways that real ones do.

It lives in the drill's own process (`call`), and answers over HTTP to whoever is elsewhere (`serve`). Every call is
written down with the Unix time at which it began and ended, so that a drill can count what was wasted, and when.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

COLLAPSE_SECONDS = 3.0


class Refused(Exception):
    """It did not do what was asked: `code` says why (DOWN, OVERLOADED, FAULTY)."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Weather:
    """How the dependency is at the moment. Times are seconds: `latency` of a call that it takes, `fails_in` of one
    that it turns away. Of those that it takes, `error_rate` fail, after their latency. `down`: it turns all away.
    `hangs`: it takes every call and never answers."""

    latency: float = 0.02
    error_rate: float = 0.0
    fails_in: float = 0.0005
    down: bool = False
    hangs: bool = False


@dataclass(slots=True)
class Call:
    """One call; `ended` and `code` ("" for a good one) once it has. An abandoned one ended as ABANDONED."""

    who: str
    key: str
    began: float
    ended: float = math.inf
    code: str = ""


class Dependency:
    """`capacity` calls a second are served, with bursts of up to `burst`; what comes above it is turned away.
    `places` calls at once are worked on; others wait in line. More than `collapses_at` calls within a second, while
    it is up,
    knock it over: it is down for COLLAPSE_SECONDS."""

    def __init__(
        self,
        weather: Weather | None = None,
        *,
        capacity: float = math.inf,
        burst: float = 15.0,
        places: int | None = None,
        collapses_at: float = math.inf,
        seed: int = 1,
    ) -> None:
        self.weather = weather or Weather()
        self.faulty_for: set[str] = set()
        self.calls: list[Call] = []
        self.collapses = 0
        self.in_flight = 0
        self._capacity, self._burst = capacity, burst
        self._tokens, self._filled_at = burst, time.monotonic()
        self._places = asyncio.Semaphore(places) if places is not None else None
        self._collapses_at = collapses_at
        self._recent: deque[float] = deque()
        self._fallen_until = 0.0
        self._dice = random.Random(seed)

    async def call(self, who: str = "", key: str = "") -> None:
        """One call by the worker `who` about `key`. Raises Refused."""
        call = Call(who, key, time.time())
        self.calls.append(call)
        self.in_flight += 1
        call.code = "ABANDONED"
        try:
            await self._serve(who)
            call.code = ""
        except Refused as refusal:
            call.code = refusal.code
            raise
        finally:
            call.ended = time.time()
            self.in_flight -= 1

    async def _serve(self, who: str) -> None:
        now = time.monotonic()
        weather = self.weather
        if weather.hangs:
            await asyncio.Event().wait()
        if who in self.faulty_for:
            await self._turn_away("FAULTY", weather)
        if weather.down or self._has_fallen(now):
            await self._turn_away("DOWN", weather)
        if not self._takes(now):
            await self._turn_away("OVERLOADED", weather)
        if self._places is None:
            await self._work()
            return
        async with self._places:
            await self._work()

    async def _work(self) -> None:
        weather = self.weather
        await asyncio.sleep(weather.latency)
        if self._dice.random() < weather.error_rate:
            raise Refused("FAULTY")

    @staticmethod
    async def _turn_away(code: str, weather: Weather) -> None:
        await asyncio.sleep(weather.fails_in)
        raise Refused(code)

    def _takes(self, now: float) -> bool:
        if math.isinf(self._capacity):
            return True
        self._tokens = min(self._tokens + (now - self._filled_at) * self._capacity, self._burst)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _has_fallen(self, now: float) -> bool:
        if now < self._fallen_until:
            return True
        self._recent.append(now)
        while self._recent[0] <= now - 1:
            self._recent.popleft()
        if len(self._recent) <= self._collapses_at:
            return False
        self.collapses += 1
        self._fallen_until = now + COLLAPSE_SECONDS
        self._recent.clear()
        return True

    # -- what was written down

    def between(self, since: float, until: float = math.inf) -> list[Call]:
        """Calls that began within these Unix times."""
        return [call for call in self.calls if since <= call.began < until]

    def in_flight_at(self, moment: float, calls: Iterable[Call] | None = None) -> int:
        """How many calls had begun and not ended."""
        return sum(c.began <= moment < c.ended for c in (self.calls if calls is None else calls))


def good(calls: Iterable[Call]) -> list[Call]:
    """Those that were served."""
    return [call for call in calls if not call.code and call.ended < math.inf]


def bad(calls: Iterable[Call]) -> list[Call]:
    """Those that were not."""
    return [call for call in calls if call.code]


@asynccontextmanager
async def serve(dependency: Dependency) -> AsyncIterator[str]:
    """The URL at which `POST ?who=…&key=…` is a call: 200, or 503 with the code as its text."""

    async def answer(request: web.Request) -> web.Response:
        try:
            await dependency.call(request.query.get("who", ""), request.query.get("key", ""))
        except Refused as refusal:
            return web.Response(status=503, text=refusal.code)
        return web.Response(text="")

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/"
    finally:
        await runner.cleanup()
