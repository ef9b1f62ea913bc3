"""What operators can ask of workers and do to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from controlplane.fleet import Fleet
from controlplane.streams.view import PushState, StreamView
from jobkit.domain.asked import check_texts, page_by_name
from jobkit.domain.errors import NotFound
from jobkit.host.channels import COMMANDS, NEWS
from jobkit.host.world import World, new_id
from jobkit.ports import Action, LiveWorker, WorkerCommand

_log = logging.getLogger(__name__)

ALIVE = timedelta(seconds=10)  # a worker beats once a second
ANSWER_SECONDS = 3.0
LOOK_SECONDS = 0.25
REFUSALS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as an operator sees it: its stream, its sign of life in the database (either may be missing), and the
    last command to it."""

    worker_id: str
    stream: StreamView | None
    alive: LiveWorker | None
    command: WorkerCommand | None = None


@dataclass(frozen=True, slots=True)
class Convergence:
    """How far one version of one kind has come. `refusals` are (worker, code, message), the first few."""

    kind: str
    version: int
    acked: int
    nacked: int
    pending: int
    refusals: tuple[tuple[str, int, str], ...]


class WorkerDesk:
    """The use cases, the same on every replica."""

    def __init__(self, world: World, fleet: Fleet, hurry: Callable[[], None]) -> None:
        self._world = world
        self._fleet = fleet
        self._hurry = hurry
        self._news = asyncio.Event()

    def heard(self) -> None:
        """A command was given or answered somewhere."""
        self._news.set()

    async def page(self, after: str, size: int) -> tuple[list[WorkerView], str, list[Convergence]]:
        """A page of those whose names come behind `after`, the token of the next one, and the whole fleet's
        convergence."""
        views = await self._all()
        page, following = page_by_name(views, lambda view: view.worker_id, after, size)
        streams = [view.stream for view in views if view.stream is not None]
        return await self._with_commands(page), following, converge(streams)

    async def get(self, worker_id: str) -> WorkerView:
        """Raises NotFound."""
        (view,) = await self._with_commands([await self._known(worker_id)])
        return view

    async def drain(self, worker_id: str, actor: str, reason: str) -> WorkerView:
        """Ask the worker to take no more work, and wait a moment for its answer. Raises NotFound, InvalidJob."""
        check_texts(actor, reason)
        stream = (await self._known(worker_id)).stream
        instance = stream.identity.instance_id if stream is not None else ""
        command = WorkerCommand(new_id(), worker_id, instance, Action.DRAIN, actor or "anonymous", reason)
        await self._world.commands.ask(command)
        _log.warning("worker %s is to drain, by %s (%s)", worker_id, command.actor, reason)
        self._hurry()
        await self._world.signals.send(COMMANDS, [NEWS])
        await self._answer(command)
        return await self.get(worker_id)

    async def _answer(self, command: WorkerCommand) -> None:
        """Wait for it, no longer than an operator likes to; signals may be lost."""
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            self._news.clear()
            latest = (await self._world.commands.latest([command.worker_id])).get(command.worker_id)
            if latest is None or latest.command_id != command.command_id or latest.answered_at is not None:
                return
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _all(self) -> list[WorkerView]:
        streams = await self._fleet.streams()
        alive = {worker.worker_id: worker for worker in await self._world.presence.live(ALIVE)}
        return [WorkerView(name, streams.get(name), alive.get(name)) for name in sorted({*streams, *alive})]

    async def _known(self, worker_id: str) -> WorkerView:
        for view in await self._all():
            if view.worker_id == worker_id:
                return view
        raise NotFound("worker", worker_id)

    async def _with_commands(self, views: Sequence[WorkerView]) -> list[WorkerView]:
        latest = await self._world.commands.latest([view.worker_id for view in views])
        return [_with_command(view, latest.get(view.worker_id)) for view in views]


def _with_command(view: WorkerView, command: WorkerCommand | None) -> WorkerView:
    """A command to an earlier run of the process is over."""
    if command is not None and view.stream is not None and command.instance_id:
        command = command if command.instance_id == view.stream.identity.instance_id else None
    return WorkerView(view.worker_id, view.stream, view.alive, command)


def converge(streams: Iterable[StreamView]) -> list[Convergence]:
    """By kind, the newest version first."""
    told: dict[tuple[str, int], list[tuple[str, PushState, int, str]]] = {}
    for stream in streams:
        for kind in stream.kinds:
            if kind.version:
                answer = (stream.identity.worker_id, kind.state, kind.code, kind.error)
                told.setdefault((kind.kind, kind.version), []).append(answer)
    return [
        Convergence(
            kind=kind,
            version=version,
            acked=sum(state is PushState.ACKED for _, state, _, _ in answers),
            nacked=sum(state is PushState.NACKED for _, state, _, _ in answers),
            pending=sum(state is PushState.PENDING for _, state, _, _ in answers),
            refusals=tuple(
                (worker, code, error)
                for worker, state, code, error in sorted(answers)
                if state is PushState.NACKED
            )[:REFUSALS_SHOWN],
        )
        for (kind, version), answers in sorted(told.items(), key=lambda item: (item[0][0], -item[0][1]))
    ]
