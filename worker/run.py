"""One attempt in flight: from its start to its outcome, and on until its handler has really ended.

The outcome comes within `grace` of the deadline or of being told to stop, whatever the handler does. A handler that
goes on after that is a *stray*: its outcome is given, its slot is not.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta

from jobkit.domain.job import ClaimedJob
from jobkit.domain.lean import lean
from jobkit.domain.outcome import API_TIMEOUT, Interrupted, Outcome, Succeeded
from jobkit.handling import Handler, JobContext
from worker.threads import LaneThreads
from worker.verdict import failed, is_deliberate, outcome_of_error, outcome_of_result


@lean
@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, with what, and for how long."""

    job: ClaimedJob
    handler: Handler
    context: JobContext
    timeout: timedelta
    grace: timedelta


class Run(ABC):
    """Every method is for the loop's thread. `ended` is called once, when the handler no longer runs;
    `strayed` at most once before that, when its outcome was given without it."""

    def __init__(self, plan: Plan, strayed: Callable[[Run], None], ended: Callable[[Run], None]) -> None:
        self.plan = plan
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self.stray = False
        self.over = False
        self._strayed = strayed
        self._ended = ended
        self._why: Interrupted | None = None
        self._timed_out = False
        self._told = False
        self._in_grace = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._begin()
        self._arm(self.plan.timeout, self._on_deadline)

    def interrupt(self, why: Interrupted) -> bool:
        """Tell the handler to stop; False when the outcome is already there. The first reason stands, but LOST
        overrides every other: nothing may be written for a lost claim. Repeating it changes nothing."""
        if self.outcome.done():
            return False
        if self._why is None or why is Interrupted.LOST:
            self._why = why
        self._tell(patient=why is Interrupted.CANCELLED)
        return True

    def abandon(self) -> None:
        """Nobody waits for the outcome any more."""
        self.outcome.cancel()
        self._tell(patient=False)

    # -- what the kinds of handler differ in

    @abstractmethod
    def _begin(self) -> None:
        """Let the handler start."""

    @abstractmethod
    def _stop(self) -> None:
        """Ask it to end."""

    @property
    @abstractmethod
    def _noticed(self) -> bool:
        """Whether it learned that it should end."""

    @property
    def _waits_when_cancelled(self) -> bool:
        """Whether a cancelled run may go on to its deadline before it is given up."""
        return False

    # -- how they end

    def _tell(self, *, patient: bool) -> None:
        # Once only: a second cancellation would hit the handler in its clean-up, and a second grace prolong it.
        if not self._told:
            self._told = True
            self.plan.context.stop()
            self._stop()
        if self.over or self._in_grace or (patient and self._waits_when_cancelled):
            return
        self._in_grace = True
        self._arm(self.plan.grace, self._on_grace_over)

    def _on_deadline(self) -> None:
        self._timed_out = True
        self._tell(patient=False)

    def _on_grace_over(self) -> None:
        if not self.outcome.done():
            self.outcome.set_result(self._judge(None))
        self.stray = True
        self._strayed(self)

    def _finish(self, told: Outcome | None) -> None:
        """The handler has ended; `told` is None when it was stopped before it could say anything."""
        self.over = True
        self._disarm()
        if not self.outcome.done():
            self.outcome.set_result(self._judge(told))
        self._ended(self)

    def _judge(self, told: Outcome | None) -> Outcome:
        if self._why is None and not self._timed_out:
            return told or failed("CancelledError", "the handler cancelled itself")
        if self._why is Interrupted.LOST:
            return self._why
        # Whoever stops because it was told to often just returns. Only a run that was unaware has succeeded.
        if isinstance(told, Succeeded) and not self._noticed:
            return told
        if self._why is Interrupted.CANCELLED:
            return self._why
        if not self._timed_out:
            return self._why or Interrupted.DRAINED
        if told is not None and not self._noticed:
            return told
        seconds = self.plan.timeout.total_seconds()
        return failed(API_TIMEOUT, f"the attempt took longer than {seconds:g} s")

    def _arm(self, after: timedelta, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.call_later(after.total_seconds(), then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _conclude(self, error: BaseException) -> Outcome:
        outcome = outcome_of_error(error)
        # Noise otherwise: a handler that is told to stop may fail in any way.
        if not is_deliberate(error) and self._why is None:
            self.plan.context.logger.warning("handler raised %s", type(error).__name__, exc_info=error)
        return outcome


class TaskRun(Run):
    """An `async def` handler, as a task on the loop. Told to stop, it is cancelled at its next await."""

    _task: asyncio.Task[Outcome]
    _cancelled = False

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._attempt(), name=f"job {self.plan.context.job_id}")
        self._task.add_done_callback(self._on_done)

    def _stop(self) -> None:
        self._cancelled = self._task.cancel() or self._cancelled

    @property
    def _noticed(self) -> bool:
        return self._cancelled or self.plan.context.noticed

    async def _attempt(self) -> Outcome:
        try:
            return outcome_of_result(await self.plan.handler.run(self.plan.context))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # SystemExit in a task would end the loop, and so the worker
            return self._conclude(error)

    def _on_done(self, task: asyncio.Task[Outcome]) -> None:
        self._finish(None if task.cancelled() else task.result())


class ThreadRun(Run):
    """A plain `def` handler, in a thread of its lane. Nothing can stop a thread: told to stop, it may look at
    `job.cancelled`. A cancelled one is given until its deadline, since to say earlier that it was cancelled would
    often be untrue."""

    def __init__(
        self, plan: Plan, strayed: Callable[[Run], None], ended: Callable[[Run], None], threads: LaneThreads
    ) -> None:
        super().__init__(plan, strayed, ended)
        self._threads = threads
        self._begun = (
            threading.Lock()
        )  # whoever takes it first decides: the thread runs, or the loop withdraws

    def _begin(self) -> None:
        context = copy_context()
        self._threads.submit(lambda: context.run(self._attempt))

    def _stop(self) -> None:
        if self._begun.acquire(blocking=False):
            # It never ran, so its time was not up either: it goes back as it was.
            self._why = self._why or Interrupted.DRAINED
            self._timed_out = False
            self._finish(None)

    @property
    def _noticed(self) -> bool:
        return self.plan.context.noticed

    @property
    def _waits_when_cancelled(self) -> bool:
        return True

    def _attempt(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        try:
            outcome = outcome_of_result(self.plan.handler.run(self.plan.context))
        except BaseException as error:
            outcome = self._conclude(error)
        with suppress(RuntimeError):  # the loop is closed: the worker has gone without us
            self._loop.call_soon_threadsafe(self._finish, outcome)
