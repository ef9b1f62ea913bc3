"""Signals between processes: hints that hurry, never the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID


class Signals(Protocol):
    """Small best-effort messages between processes. Losing one costs time (a poll finds out), never a job."""

    async def send(self, channel: str, ids: Sequence[UUID]) -> None:
        """Tell every listener of `channel`; silently does nothing when the carrier is away."""

    def listen(self, channel: str, heard: Callable[[Sequence[UUID]], None]) -> Callable[[], None]:
        """Call `heard` for each message until the returned function is called."""

    async def close(self) -> None:
        """Safe to repeat."""
