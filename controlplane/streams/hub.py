"""All streams of this replica."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge

from controlplane.streams.session import Session
from controlplane.streams.shelf import Answer
from controlplane.streams.view import StreamView
from jobkit.domain.errors import Precondition, SelfhealError, Unavailable

_log = logging.getLogger(__name__)

COME_BACK = timedelta(seconds=1)


class Hub:
    """Knows every session by its worker; drops those that are silent for longer than `silence` seconds."""

    def __init__(self, replica: str, silence: float, registry: CollectorRegistry) -> None:
        self.replica = replica
        self.silence = silence
        self._sessions: dict[str, Session] = {}
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._listeners: list[Callable[[], None]] = []
        connected = Gauge(
            "selfheal_workers_connected", "Control streams of workers on this replica.", registry=registry
        )
        connected.set_function(lambda: len(self._sessions))
        self._acks = Counter(
            "selfheal_stream_push_acks_total",
            "Answers of workers to pushes; stale ones answer a push that was superseded.",
            ["kind", "result"],
            registry=registry,
        )

    @property
    def sessions(self) -> Mapping[str, Session]:
        """By worker."""
        return self._sessions

    def views(self) -> list[StreamView]:
        return [session.view() for session in self._sessions.values()]

    def on_join(self, heard: Callable[[], None]) -> None:
        """Call `heard` whenever a worker has connected."""
        self._listeners.append(heard)

    def join(self, session: Session) -> None:
        """From now on the worker is seen and gets pushes. An older stream of the same worker ends: a half-open one
        would be there until its silence is noticed."""
        if self._closed:
            raise _shutting_down()
        worker_id = session.identity.worker_id
        older = self._sessions.get(worker_id)
        if older is not None:
            if older.identity.instance_id != session.identity.instance_id:
                _log.warning("worker %s has a new process, or two workers have one name", worker_id)
            older.end(Precondition("the worker opened another stream", reason="STREAM_REPLACED"))
        self._sessions[worker_id] = session
        self._empty.clear()
        for heard in self._listeners:
            heard()

    def leave(self, session: Session) -> None:
        """Safe to repeat."""
        if self._sessions.get(session.identity.worker_id) is session:
            del self._sessions[session.identity.worker_id]
        if not self._sessions:
            self._empty.set()

    def count(self, kind: str, answer: Answer) -> None:
        self._acks.labels(kind, answer.value).inc()

    async def sweep(self) -> None:
        """Drop who is silent. Run it often."""
        limit = asyncio.get_running_loop().time() - self.silence
        for session in [s for s in self._sessions.values() if s.heard_at < limit]:
            _log.info("worker %s is silent, dropping its stream", session.identity.worker_id)
            self.drop(session, _silent(self.silence))

    def drop(self, session: Session, why: SelfhealError) -> None:
        """Forget it now, whatever becomes of the call: half-open connections end when they like."""
        session.end(why)
        self.leave(session)

    async def close(self, patience: float = 1.0) -> None:
        """End every stream, in a way that invites workers to another replica, and wait `patience` seconds until they
        have heard. Safe to repeat."""
        self._closed = True
        for session in self._sessions.values():
            session.end(_shutting_down())
        try:
            async with asyncio.timeout(patience):
                await self._empty.wait()
        except TimeoutError:
            _log.info("%d streams did not end in time", len(self._sessions))


def behind(sessions: Collection[Session], kind: str, version: int) -> list[Session]:
    """Who has not been given this version."""
    return [session for session in sessions if not session.ended and session.shelf.wants(kind, version)]


def _silent(limit: float) -> Unavailable:
    return Unavailable(
        f"nothing was heard from the worker for {limit:g} s", reason="STREAM_SILENT", retry_after=COME_BACK
    )


def slow(limit: float) -> Unavailable:
    """Why a worker that does not read is dropped."""
    return Unavailable(
        f"the worker did not read for {limit:g} s", reason="STREAM_SLOW", retry_after=COME_BACK
    )


def _shutting_down() -> Unavailable:
    return Unavailable("this process is shutting down", reason="SHUTTING_DOWN", retry_after=COME_BACK)
