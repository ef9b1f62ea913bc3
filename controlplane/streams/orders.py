"""Commands on their way to workers of this replica, and their answers on the way back."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from uuid import UUID

from google.rpc.code_pb2 import ABORTED
from selfheal.control.v1 import control_stream_pb2 as wire

from controlplane.streams.hub import Hub
from controlplane.streams.session import Session
from jobkit.host.channels import COMMANDS, NEWS
from jobkit.ports import Signals, WorkerCommand, WorkerCommands

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
BATCH = 500
MAX_ANSWERS = 10_000


class Orders:
    """Run `run` as a loop: it looks once a second, and at once when hurried. A command is sent once a stream, and
    again on the next stream until its answer is recorded."""

    def __init__(self, hub: Hub, commands: WorkerCommands, signals: Signals) -> None:
        self._hub = hub
        self._commands = commands
        self._signals = signals
        self._hurried = asyncio.Event()
        self._answers: deque[tuple[UUID, int, str]] = deque(maxlen=MAX_ANSWERS)
        hub.on_join(self.hurry)

    def hurry(self) -> None:
        """There may be a command or an answer: look now."""
        self._hurried.set()

    def answered(self, command_id: UUID, code: int, error: str) -> None:
        """A worker said what became of a command."""
        self._answers.append((command_id, code, error))
        self.hurry()

    async def run(self) -> None:
        """Raises Unavailable while the database is away, and may then be run again."""
        while True:
            self._hurried.clear()
            await self._record()
            await self.deliver()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._hurried.wait()
            except TimeoutError:
                pass

    async def _record(self) -> None:
        recorded = False
        while self._answers:
            recorded = await self._commands.answer(*self._answers[0]) or recorded
            self._answers.popleft()
        if recorded:
            await self._signals.send(COMMANDS, [NEWS])

    async def deliver(self) -> None:
        """Put what is not answered into the outboxes of those that are meant."""
        if not self._hub.sessions:
            return
        for command in await self._commands.unanswered(list(self._hub.sessions), BATCH):
            session = self._hub.sessions.get(command.worker_id)
            if session is not None and str(command.command_id) not in session.commanded:
                self._send(session, command)

    def _send(self, session: Session, command: WorkerCommand) -> None:
        if command.instance_id not in ("", session.identity.instance_id):
            self.answered(
                command.command_id, ABORTED, "the worker's process was started anew before it heard"
            )
            return
        drain = wire.DrainCommand(reason=command.reason, actor=command.actor)
        message = wire.Command(command_id=str(command.command_id), drain=drain)
        if session.outbox.command(message):
            session.commanded.add(message.command_id)
