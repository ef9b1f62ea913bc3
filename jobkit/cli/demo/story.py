"""The story: what is done to the system, and what has to be seen of it before the next thing is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from selfheal.control.v1 import breaker_pb2

from jobkit.cli.demo.bank import Bank
from jobkit.cli.demo.handlers import PAYMENT, THUMBNAIL
from jobkit.cli.demo.view import Looker, View
from jobkit.client import JobClient, JobClientError, Submission

RATE = 20  # jobs a second of each type
CAPACITY = 60  # payments a second that the bank takes
TICKS, LOOKS = 10, 5  # submits and looks a second
PATIENCE = 120.0  # seconds for anything that the system does by itself, on a busy machine
SHORTEST = 1.0


@dataclass(frozen=True, slots=True)
class Script:
    """How long what takes; seconds."""

    speed: float

    @property
    def healthy(self) -> float:
        return max(18 / self.speed, SHORTEST)

    @property
    def cooldown(self) -> float:
        return max(13 / self.speed, SHORTEST)

    @property
    def after_probe(self) -> float:
        """From the failed probe to the bank's return."""
        return max(8 / self.speed, SHORTEST)


class Teller(Protocol):
    """Who tells it. A phase is an index of `PHASES`; a tone is "", "note", "good" or "bad"."""

    def begin(self, phase: int) -> None: ...
    def say(self, text: str, tone: str = "") -> None: ...
    def show(self, view: View) -> None: ...


PHASES = ("all is well", "outage", "held", "probe", "draining", "healed")


class StoryFailed(Exception):
    """Something that had to happen did not."""


class Story:
    """Runs once. `through_outage` counts the thumbnails that were drawn while payments were held."""

    def __init__(self, script: Script, bank: Bank, client: JobClient, looker: Looker, teller: Teller) -> None:
        self._script = script
        self._bank = bank
        self._client = client
        self._looker = looker
        self._teller = teller
        self._view: View | None = None
        self._looked = asyncio.Condition()
        self._feeding = True
        self._fed = asyncio.Event()
        self._generation = 0
        self.through_outage = 0

    async def run(self) -> None:
        """To the end. Raises StoryFailed, JobClientError, aiohttp's errors."""
        await self._feed_once()
        bodies: tuple[Coroutine[Any, Any, None], ...] = (self._tell(), self._feed(), self._look())
        tasks = [asyncio.create_task(body) for body in bodies]
        try:
            # Feeding may end before the story does; whatever else ends, ends it, well or badly.
            while not (tasks[0].done() or any(task.done() and task.exception() for task in tasks)):
                waiting = [task for task in tasks if not task.done()]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        for error in done:
            if isinstance(error, Exception):
                raise error

    # -- what happens

    async def _tell(self) -> None:
        teller, bank = self._teller, self._bank
        teller.begin(0)
        teller.say(f"two kinds of jobs, {RATE} a second each: payments call a bank, thumbnails need nobody")
        await self._until(lambda view: view.payments.done > RATE, "payments are done")
        await asyncio.sleep(self._script.healthy)
        await self._outage()
        teller.begin(3)
        bank.up = True
        teller.say(
            f"the bank is back. It takes {bank.capacity:.0f} payments a second and not one more", "good"
        )
        teller.say("nobody tells the workers: their next probe will find out")
        held = (await self._until(lambda view: view.state == "CLOSED", "the breaker closes")).payments.waiting
        teller.begin(4)
        teller.say(
            f"{held} payments wait. All at once they would knock the bank over again, so they are paced"
        )
        await self._until(lambda view: view.payments.waiting <= RATE // 4, "the backlog is gone")
        teller.say("the backlog is gone: new payments flow as they come", "good")
        await asyncio.sleep(self._script.healthy / 4)
        await self._finish()
        teller.begin(5)

    async def _outage(self) -> None:
        teller, bank = self._teller, self._bank
        teller.begin(1)
        bank.up = False
        teller.say("the bank dies: it hangs up on everyone who calls", "bad")
        opened = await self._until(lambda view: view.state != "CLOSED", "the breaker opens")
        teller.begin(2)
        teller.say(
            f"{bank.hung_up} failed calls were enough. Payments are held where they are, in order", "note"
        )
        teller.say("they go on arriving; none of them is run, and none burns an attempt", "note")
        probed = await self._until(lambda view: view.breaker.reopened > 0, "a probe is sent")
        drawn = probed.thumbnails.done - opened.thumbnails.done
        teller.say(f"meanwhile {drawn} thumbnails were drawn as if nothing had happened", "good")
        await asyncio.sleep(self._script.after_probe)
        assert self._view is not None
        self.through_outage = self._view.thumbnails.done - opened.thumbnails.done

    async def _finish(self) -> None:
        self._teller.say("no new jobs; what is left runs to its end")
        self._feeding = False
        await self._fed.wait()
        last = asyncio.get_running_loop().time()

        def ended(view: View) -> bool:
            # A look that began before the last submit was answered may not know of its jobs.
            busy = any(flow.waiting or flow.running for flow in view.flows.values())
            return view.began > last and not busy

        await self._until(ended, "all jobs end")

    # -- what goes on meanwhile

    async def _feed(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self._feeding:
            await self._feed_once()
            due += 1 / TICKS
            await asyncio.sleep(max(due - loop.time(), 0))
        self._fed.set()

    async def _feed_once(self) -> None:
        jobs = [Submission(PAYMENT, {"bank": self._bank.address}), Submission(THUMBNAIL)]
        for answer in await self._client.submit_many(jobs * (RATE // TICKS)):
            if isinstance(answer, JobClientError):
                raise answer

    async def _look(self) -> None:
        while True:
            view = await self._looker.look()
            self._tell_moves(view)
            self._teller.show(view)
            async with self._looked:
                self._view = view
                self._looked.notify_all()
            await asyncio.sleep(1 / LOOKS)

    def _tell_moves(self, view: View) -> None:
        for move in view.breaker.transitions:
            if move.generation > self._generation:
                self._generation = move.generation
                self._teller.say(*_move(move))

    async def _until(self, seen: Callable[[View], bool], what: str) -> View:
        """The first view for which `seen` holds. Raises StoryFailed when it takes too long."""
        try:
            async with asyncio.timeout(PATIENCE), self._looked:
                await self._looked.wait_for(lambda: self._view is not None and seen(self._view))
                assert self._view is not None
                return self._view
        except TimeoutError:
            raise StoryFailed(f"waited {PATIENCE:.0f} s in vain until {what}") from None


def _move(move: breaker_pb2.BreakerTransition) -> tuple[str, str]:
    """A transition in words, and their tone."""
    states = breaker_pb2.BreakerState
    match move.to_state:
        case states.BREAKER_STATE_OPEN if move.from_state == states.BREAKER_STATE_HALF_OPEN:
            return (
                f"breaker HALF_OPEN -> OPEN: the probe met {move.error_code}; the next one waits longer",
                "bad",
            )
        case states.BREAKER_STATE_OPEN:
            jobs = move.evidence.distinct_jobs.get(move.error_code, 0)
            return f"breaker CLOSED -> OPEN: {move.error_code} on {jobs} different jobs", "bad"
        case states.BREAKER_STATE_HALF_OPEN:
            return "breaker OPEN -> HALF_OPEN: one waiting payment goes ahead as a probe", "note"
    return "breaker HALF_OPEN -> CLOSED: the probe came through", "good"
