"""Commands to single workers: the database is the truth, the control stream carries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID


class Action(StrEnum):
    """What a worker can be told to do."""

    DRAIN = "DRAIN"


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """A command; times are database milliseconds. `instance_id` is the run of the process that is meant, "" for
    whichever comes. `code` and `error` are the answer's google.rpc code and message, 0 and "" for done."""

    command_id: UUID
    worker_id: str
    instance_id: str
    action: Action
    actor: str
    reason: str
    asked_at: int = 0
    answered_at: int | None = None
    code: int = 0
    error: str = ""


class WorkerCommands(Protocol):
    """Commands and their answers."""

    async def ask(self, command: WorkerCommand) -> None:
        """Record it as not answered; `asked_at` is the database's."""

    async def unanswered(self, worker_ids: Sequence[str], limit: int) -> list[WorkerCommand]:
        """Those to one of these workers, the oldest first."""

    async def answer(self, command_id: UUID, code: int, error: str) -> bool:
        """Record what became of it; the first answer stands. False: there is none to answer."""

    async def latest(self, worker_ids: Sequence[str]) -> dict[str, WorkerCommand]:
        """The newest command of each of these workers that has any."""

    async def purge(self, older_than: timedelta, limit: int) -> int:
        """Remove up to `limit` that were asked longer ago, answered or not; returns how many."""
