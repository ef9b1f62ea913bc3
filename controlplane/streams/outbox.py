"""What waits to be sent on one stream. Bounded by its shape: of everything that has a newer version only the newest
waits, so that a slow reader costs no memory and holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from selfheal.control.v1 import control_stream_pb2 as wire

MAX_COMMANDS = 64


class Outbox:
    """One writer takes, everybody puts; nothing here waits but `next`."""

    def __init__(self, welcome: wire.StreamWelcome) -> None:
        self._welcome: wire.StreamWelcome | None = welcome
        self._pulse: int | None = None
        self._receipt: int | None = None
        self._commands: dict[str, wire.Command] = {}
        self._pushes: dict[str, wire.Push] = {}
        self._ready = asyncio.Event()
        self._ready.set()

    def pulse(self, sequence: int) -> None:
        """Answer the latest heartbeat."""
        self._pulse = sequence
        self._ready.set()

    def receipt(self, sequence: int) -> None:
        """Reports up to `sequence` are recorded."""
        self._receipt = max(sequence, self._receipt or 0)
        self._ready.set()

    def command(self, command: wire.Command) -> bool:
        """False: too many wait; try again later."""
        if len(self._commands) >= MAX_COMMANDS:
            return False
        self._commands[command.command_id] = command
        self._ready.set()
        return True

    def push(self, push: wire.Push) -> None:
        """In place of one of its kind that still waits."""
        self._pushes[push.kind] = push
        self._ready.set()

    def wake(self) -> None:
        """Let `next` return although there may be nothing."""
        self._ready.set()

    @property
    def waiting(self) -> int:
        """Messages that wait."""
        return len(self._commands) + len(self._pushes) + sum(1 for _ in self._singles())

    async def next(self) -> wire.ControlMessage | None:
        """Wait for the next message; None after `wake` when there is none."""
        await self._ready.wait()
        message = self._take()
        if message is None:
            self._ready.clear()
        return message

    def _singles(self) -> Iterator[object]:
        return (one for one in (self._welcome, self._pulse, self._receipt) if one is not None)

    def _take(self) -> wire.ControlMessage | None:
        """Short ones first: a pulse must not wait behind a push."""
        if self._welcome is not None:
            welcome, self._welcome = self._welcome, None
            return wire.ControlMessage(welcome=welcome)
        if self._pulse is not None:
            pulse, self._pulse = self._pulse, None
            return wire.ControlMessage(pulse=wire.StreamPulse(sequence=pulse))
        if self._receipt is not None:
            receipt, self._receipt = self._receipt, None
            return wire.ControlMessage(receipt=wire.ReportReceipt(sequence=receipt))
        if self._commands:
            return wire.ControlMessage(command=self._commands.pop(next(iter(self._commands))))
        if self._pushes:
            return wire.ControlMessage(push=self._pushes.pop(next(iter(self._pushes))))
        return None
