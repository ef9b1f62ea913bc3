"""One worker's stream: who it is, how it does, what it was given, and what waits to be sent to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage
from selfheal.control.v1 import control_stream_pb2 as wire

from controlplane.streams.outbox import Outbox
from controlplane.streams.shelf import Shelf
from controlplane.streams.view import Figures, Identity, StreamView
from jobkit.domain.errors import SelfhealError


@dataclass(frozen=True, slots=True)
class Began:
    """Where and when a stream began: its replica, and database milliseconds."""

    replica: str
    at: int


class Session:
    """`heard_at` is monotonic seconds; `heard_ms` the same for display. Once `ended` is set the stream's writer
    leaves; `why` says what the worker is told, None for a stream that the worker itself has ended."""

    def __init__(self, identity: Identity, began: Began, shelf: Shelf, outbox: Outbox, now: float) -> None:
        self.identity = identity
        self.shelf = shelf
        self.outbox = outbox
        self.figures = Figures()
        self.heard_at = now
        self.heard_ms = began.at
        self.ended = False
        self.why: SelfhealError | None = None
        self.commanded: set[str] = set()
        self._began = began

    def heard(self, now: float, now_ms: int) -> None:
        """Something came from the worker."""
        self.heard_at, self.heard_ms = now, now_ms

    def offer(self, kind: str, version: int, resources: Sequence[AnyMessage]) -> None:
        """Push a version, in place of one of its kind that still waits."""
        nonce = self.shelf.offer(kind, version)
        self.outbox.push(wire.Push(kind=kind, version=version, nonce=nonce, resources=resources))

    def end(self, why: SelfhealError | None) -> None:
        """Let the stream end; the first reason stands."""
        if not self.ended:
            self.ended, self.why = True, why
            self.outbox.wake()

    def view(self) -> StreamView:
        return StreamView(
            self.identity,
            self._began.replica,
            self._began.at,
            self.heard_ms,
            self.figures,
            self.shelf.view(),
        )
