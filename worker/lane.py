"""One job type's lane: its own channel and consumer, its gate, its jobs in hand.

closed   consume; each token: slot -> claim -> execute -> settle -> acknowledge. While the type has a fleet-wide limit
         the lane consumes no more than it has slots, and starts at the pace that goes with them
paused   as open, and nobody probes
open     consume nothing; what was prefetched and not started goes back, in order
probing  one leased permit at a time: take tokens until a claim succeeds, and let that run answer. A worker that alone
         is out finds the queue empty where the others keep up with it: it stands in line with them for its one token
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from jobkit.domain.errors import Unavailable
from jobkit.ports import Delivery, Dispatcher, Lane
from jobkit.tally import Count
from worker.breakers import Breakers
from worker.gate import Answer, Probe
from worker.hand import Hand
from worker.limits import FleetLimits
from worker.prober import Prober
from worker.ration import Ration
from worker.runner import Ran, Runner
from worker.slots import Slots

_log = logging.getLogger(__name__)

TURN_SECONDS = 0.25
UNCONSUMED_SECONDS = 5.0
# A lane that hears nothing for so long opens another channel. A quorum queue that is deleted and at once declared
# again, by whoever publishes next, may keep a consumer that the broker sends to and that receives nothing (seen
# on RabbitMQ 3.10): neither side would ever notice.
SILENT_SECONDS = 60.0
# A changed prefetch is a new consumer: while slots come and go, not more often than this.
PREFETCH_SECONDS = 1.0
# How long a trial stands in line for its token at a time; the next turn of the lane begins another.
LINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LaneParts:
    """What all lanes of a process share. `ack_after` (seconds) bounds how long a token stays unacknowledged;
    `consumed` gives a type's count of what was delivered."""

    dispatcher: Dispatcher
    breakers: Breakers
    prober: Prober
    limits: FleetLimits
    runner: Runner
    slots: Slots
    ack_after: float
    consumed: Callable[[str], Count]


class TypeLane:
    """Runs from `run` until cancelled; `wake` makes it look at its gate at once."""

    def __init__(self, job_type: str, parts: LaneParts) -> None:
        self.job_type = job_type
        self._parts = parts
        self._slots = parts.slots
        self._runner = parts.runner
        self._consumed = parts.consumed(job_type)
        self._gate = parts.breakers.gate(job_type)
        self._ration = Ration(job_type, self._gate.breakers, parts.limits, self._usage, self._pump)
        # Asked for with each token, which would cost a system call each time.
        self._loop = asyncio.get_running_loop()
        self._consumed_at = self._loop.time()
        # What happened before there was a lane: the closing of what holds it now begins a recovery.
        self._ration.heed(self._consumed_at)
        self._again: asyncio.TimerHandle | None = None
        self._prefetch = 0
        self._prefetched_at = 0.0
        self._lane: Lane | None = None
        self._inbox: deque[Hand] = deque()
        self._hands: set[Hand] = set()
        self._tasks: set[asyncio.Task[Ran | None]] = set()
        self._woken = asyncio.Event()
        self._draining = False
        self._probing = 0
        self._in_line = False
        self._arrived = asyncio.Event()
        # Not all lanes at once.
        self._heard_at = self._consumed_at - random.uniform(0, SILENT_SECONDS / 2)  # noqa: S311

    @property
    def in_hand(self) -> int:
        """Tokens prefetched and not started."""
        return len(self._inbox)

    @property
    def without_token(self) -> int:
        """Runs whose token is no longer in hand: let go, or lost with its channel."""
        return sum(hand.let_go or not hand.delivery.live for hand in self._hands)

    @property
    def consuming(self) -> bool:
        """False when the broker has been without our consumer for longer than a restart of it takes; a lane that
        drains wants none."""
        return self._draining or self._loop.time() - self._consumed_at < UNCONSUMED_SECONDS

    def wake(self) -> None:
        self._woken.set()

    def stands_behind(self, breaker: str) -> bool:
        """Whether the breaker is one of its gate's."""
        return any(b.name == breaker for b in self._gate.breakers)

    def on_breaker(self) -> None:
        """A breaker of its gate moved, or its policy did: stop at once, or go on."""
        self._ration.heed(self._loop.time())
        self._arrived.set()
        self.wake()

    @property
    def _admits(self) -> bool:
        return self._gate.admits and not self._ration.paused

    @property
    def _held(self) -> bool:
        """Whether the fleet's jobs are held: then this worker's own trial has to wait."""
        return self._ration.paused or any(breaker.holds for breaker in self._gate.breakers)

    @property
    def _running(self) -> int:
        return len(self._tasks) + self._runner.strays(self.job_type)

    def _usage(self) -> tuple[int, int]:
        return self._running, self._slots.per_type if self._admits and not self._draining else 0

    async def run(self) -> None:
        """The lane's loop; raises Unavailable while the broker is away, and may then be run again. After `drain`
        it returns at once."""
        if self._draining:
            return
        self._lane = await self._parts.dispatcher.open_lane(self.job_type, self._receive)
        self._prefetch = 0
        try:
            while not self._draining:
                await self._turn(self._lane)
                self._woken.clear()
                try:
                    async with asyncio.timeout(TURN_SECONDS):
                        await self._woken.wait()
                except TimeoutError:
                    pass
        finally:
            if not self._draining:
                await self._close()

    async def drain(self) -> None:
        """Start nothing more and give back what was not started; what runs goes on."""
        self._draining = True
        self._arrived.set()
        self.wake()
        if self._lane is not None:
            await self._lane.pause()
            await self._give_back_all(self._lane)

    async def finish(self) -> None:
        """After `drain`: wait for what runs, then close the channel."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()

    async def _close(self) -> None:
        self._inbox.clear()
        if self._lane is not None:
            await self._lane.close()

    # -- one look at the gate

    async def _turn(self, lane: Lane) -> None:
        now = self._loop.time()
        await self._let_go(now)
        await self._renew_silent(lane, now)
        share = self._ration.share
        limit = self._slots.per_type if share is None else min(share, self._slots.per_type)
        # The broker must not send tokens for slots that are taken by runs without one.
        taken = self.without_token + self._runner.strays(self.job_type)
        wanted = max(limit - taken, 0) if self._admits else int(self._in_line)
        if lane.consuming or not wanted:
            self._consumed_at = now
        if not wanted:
            await self._pause(lane)
        elif not lane.consuming or (wanted != self._prefetch and self._may_change(share is None, now)):
            if share is not None and wanted < self._prefetch:
                # What is in hand beyond our slots may be what another worker has slots for.
                await self._pause(lane)
            await lane.consume(wanted)
            self._prefetch, self._prefetched_at = wanted, now
        if self._admits:
            await self._return_stale(lane, now)
            self._pump()
        elif not self._ration.paused:
            await self._probe(lane)

    def _may_change(self, unlimited: bool, now: float) -> bool:
        return unlimited or now - self._prefetched_at >= PREFETCH_SECONDS

    async def _renew_silent(self, lane: Lane, now: float) -> None:
        if now - self._heard_at > SILENT_SECONDS and not self._tasks and not self._inbox:
            self._heard_at = now
            await lane.close()

    async def _pause(self, lane: Lane) -> None:
        if self._prefetch:
            self._prefetch = 0
            await lane.pause()
        await self._give_back_all(lane)

    async def _give_back_all(self, lane: Lane) -> None:
        waiting = [hand.delivery for hand in self._inbox]
        self._inbox.clear()
        if waiting:
            await lane.give_back(waiting)

    async def _return_stale(self, lane: Lane, now: float) -> None:
        stale = [hand for hand in self._inbox if now - hand.since > self._parts.ack_after]
        if stale:
            self._inbox = deque(hand for hand in self._inbox if hand not in stale)
            await lane.give_back([hand.delivery for hand in stale])

    async def _let_go(self, now: float) -> None:
        for hand in [h for h in self._hands if h.guarded and not h.let_go]:
            if now - hand.since > self._parts.ack_after:
                _log.info("a job of %s runs on without its token", self.job_type)
                await hand.let_go_of()

    # -- tokens

    def _receive(self, delivery: Delivery) -> None:
        if self._lane is not None:
            self._consumed.inc()
            self._heard_at = self._loop.time()
            self._inbox.append(Hand(self._lane, delivery, self._heard_at))
            self._arrived.set()
            self._pump()

    def _pump(self) -> None:
        """Start what may start: the gate open, the slots of the process and of the fleet allowing it."""
        if not self._inbox or self._draining or not self._admits:
            return
        while self._inbox and not self._gate.hesitates and self._has_room() and not self._must_wait():
            hand = self._inbox.popleft()
            if hand.delivery.live:
                self._start(hand)

    def _has_room(self) -> bool:
        return self._running < self._slots.per_type and self._slots.admits(self.job_type)

    def _must_wait(self) -> bool:
        """For a slot of the fleet, or for the next start of its pace: then we look again in time."""
        loop = self._loop
        wait = self._ration.wait(self._running, loop.time())
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if 0 < wait < TURN_SECONDS:
            self._again = loop.call_later(wait, self._pump)
        return wait > 0

    def _start(self, hand: Hand) -> None:
        self._ration.on_start(self._loop.time())
        self._slots.take(self.job_type)
        self._hands.add(hand)
        task = self._loop.create_task(self._runner.run(hand, self._gate))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, hand))

    def _ended(self, task: asyncio.Task[Ran | None], hand: Hand | None = None) -> None:
        self._tasks.discard(task)
        if hand is not None:
            self._hands.discard(hand)
        self._slots.free(self.job_type)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Unavailable):
            _log.info("a token of %s comes again: %s", self.job_type, error)
        elif error is not None:
            _log.error("a run of %s failed outside its handler", self.job_type, exc_info=error)
        ran = task.result() if not task.cancelled() and error is None else None
        self._ration.on_end(ran, self._loop.time())
        self._pump()

    # -- probing

    async def _probe(self, lane: Lane) -> None:
        """Ask for leave to probe, as often as may be; with it, the next claimable job is the probe."""
        prober = self._parts.prober
        while self._probing < self._gate.probes and prober.due(self._gate) and self._has_room():
            try:
                probe = await prober.ask(self._gate)
            except Unavailable as error:
                _log.debug("no permit for %s: %s", self.job_type, error)
                return
            if probe is None:
                return
            self._probing += 1
            self._slots.take(self.job_type)
            task: asyncio.Task[Ran | None] = asyncio.create_task(self._run_probe(lane, probe))
            self._tasks.add(task)
            task.add_done_callback(self._probe_ended)

    async def _run_probe(self, lane: Lane, probe: Probe) -> Ran | None:
        answer: Answer | None = None
        try:
            while not self._draining and (hand := await self._next(lane, probe)) is not None:
                self._hands.add(hand)
                try:
                    came = await self._runner.probe(hand, self._gate, probe)
                finally:
                    self._hands.discard(hand)
                if came.claimed:
                    answer = came.answer
                    break
        except Unavailable as error:
            _log.debug("probe of %s: %s", self.job_type, error)
        finally:
            await self._parts.prober.ended(self._gate, probe, answer)
        return None

    async def _next(self, lane: Lane, probe: Probe) -> Hand | None:
        """The token to probe with; None: there is none."""
        delivery = await self._take(lane)
        if delivery is not None:
            return Hand(lane, delivery, self._loop.time())
        return None if probe.permits else await self._stand_in_line()

    async def _stand_in_line(self) -> Hand | None:
        """A token as a consumer gets it: while others consume, there is hardly one to take."""
        self._in_line = True
        self._arrived.clear()
        self.wake()
        try:
            async with asyncio.timeout(LINE_SECONDS):
                while not self._inbox and not self._draining and not self._held:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass
        finally:
            self._in_line = False
            self.wake()  # what came beside it goes back
        if self._draining or self._held or not self._inbox:
            return None
        return self._inbox.popleft()

    async def _take(self, lane: Lane) -> Delivery | None:
        """The next token; not that of the job that failed as the last probe, while another one waits."""
        first = await self._take_one(lane)
        if first is None or first.token is None or str(first.token.job_id) not in self._gate.spared:
            return first
        second = await self._take_one(lane)
        if second is None:
            return first
        await lane.give_back([first])
        return second

    async def _take_one(self, lane: Lane) -> Delivery | None:
        delivery = await lane.take()
        if delivery is not None:
            self._consumed.inc()
        return delivery

    def _probe_ended(self, task: asyncio.Task[Ran | None]) -> None:
        self._probing -= 1
        self._ended(task)
