"""What every call passes, whether it came over gRPC or REST: tracing, the bound on calls in flight,
translation of errors, and counting. Both doors use this one function, so that they cannot come to differ."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType

import grpc
from google.rpc.status_pb2 import Status

from jobkit.domain.errors import Exhausted, SelfhealError, Unavailable
from jobkit.domain.job import TraceContext
from jobkit.rpc import trace as tracing
from jobkit.rpc.metrics import CallObserver
from jobkit.rpc.status import Unimplemented, codes, to_status

RETRY_AFTER = timedelta(seconds=1)


class CallFailed(Exception):
    """A call's error, ready to be told: `status` with details and the HTTP code of the same table.
    `cause` is the exception that it was made from; nothing of it but `status` may reach the caller."""

    def __init__(self, cause: Exception, trace_id: str) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.status: Status = to_status(cause, trace_id)
        self.http = codes(cause).http


class Door:
    """One per component, shared by its gRPC and HTTP servers: `max_in_flight` bounds both together."""

    def __init__(self, observer: CallObserver, max_in_flight: int = 2000) -> None:
        self._observer = observer
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def in_flight(self) -> int:
        """Calls being served now."""
        return self._in_flight

    def open(self) -> None:
        """Let calls pass again after `close`."""
        self._closed = False

    def close(self) -> None:
        """Refuse new calls, in a way that invites callers to try again, here or at another replica."""
        self._closed = True
        self._idle.clear()
        self._note_idle()

    async def idle(self) -> None:
        """After `close`: wait until no call is served any more."""
        await self._idle.wait()

    def evict(self) -> None:
        """After `close`: end the calls that are still served, with the same answer."""
        for task in self._tasks:
            task.cancel()

    def _note_idle(self) -> None:
        if self._closed and not self._in_flight:
            self._idle.set()

    def passing(
        self, method: str, trace: TraceContext, request_id: str = "", *, bounded: bool = True
    ) -> AbstractContextManager[None]:
        """Serve one call of `method` (`package.Service/Method`) inside; raises CallFailed for every error.

        Infrastructure passes with `bounded=False`: a health probe that is shed for load gets the process
        restarted just when it is busiest. gRPC's own aborts pass unchanged, and so does cancellation.
        """
        tracing.enter(trace, request_id)
        return _Passage(self, method, trace, asyncio.current_task() if bounded else None)

    def begin(self, method: str, task: asyncio.Task[object] | None) -> None:
        """Count a call in; raises what refuses it. `end` must follow either way."""
        self._observer.started(method)
        self._enter(task)

    def end(self, method: str, task: asyncio.Task[object] | None, code: str, seconds: float) -> None:
        self._leave(task)
        self._observer.finished(method, code, seconds)

    def evicted(self, task: asyncio.Task[object] | None) -> bool:
        """Whether it is this door that has cancelled the call."""
        return self._closed and task is not None and bool(task.cancelling())

    def _enter(self, task: asyncio.Task[object] | None) -> None:
        """Count a bounded call in; raises what refuses it."""
        if task is None:
            return
        self._in_flight += 1
        if self._closed:
            raise _shutting_down()
        self._tasks.add(task)
        if self._in_flight > self._max_in_flight:
            raise _too_many(self._max_in_flight)

    def _leave(self, task: asyncio.Task[object] | None) -> None:
        if task is not None:
            self._in_flight -= 1
            self._tasks.discard(task)
            self._note_idle()


class _Passage(AbstractContextManager[None]):
    """One call. A class, since a generator would cost each call twice as much."""

    __slots__ = ("_began", "_door", "_method", "_task", "_trace")

    def __init__(
        self, door: Door, method: str, trace: TraceContext, task: asyncio.Task[object] | None
    ) -> None:
        self._door = door
        self._method = method
        self._trace = trace
        self._task = task
        self._began = time.perf_counter()

    def __enter__(self) -> None:
        try:
            self._door.begin(self._method, self._task)
        except SelfhealError as error:
            self.__exit__(type(error), error, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self._end(error)
        if failed is not None:
            raise failed from error

    def _end(self, error: BaseException | None) -> CallFailed | None:
        """What the caller is told in place of `error`."""
        code, told = ("OK", None) if error is None else self._judge(error)
        self._door.end(self._method, self._task, code, time.perf_counter() - self._began)
        return None if told is None else CallFailed(told, tracing.trace_id(self._trace))

    def _judge(self, error: BaseException) -> tuple[str, Exception | None]:
        """The code that counts it, and what is told in its place."""
        if isinstance(error, asyncio.CancelledError) and self._door.evicted(self._task):
            assert self._task is not None
            self._task.uncancel()
            return grpc.StatusCode.UNAVAILABLE.name, _shutting_down()
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return grpc.StatusCode.CANCELLED.name, None
        if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            return grpc.StatusCode.UNKNOWN.name, None  # the servicer chose; grpc does not tell us what
        told = Unimplemented(self._method) if isinstance(error, NotImplementedError) else error
        return codes(told).grpc.name, told


def _shutting_down() -> Unavailable:
    return Unavailable("this process is shutting down", reason="SHUTTING_DOWN", retry_after=RETRY_AFTER)


def _too_many(limit: int) -> Exhausted:
    return Exhausted(
        "too many requests in flight",
        reason="TOO_MANY_REQUESTS",
        retry_after=RETRY_AFTER,
        metadata={"limit": str(limit)},
    )
