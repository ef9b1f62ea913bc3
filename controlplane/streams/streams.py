"""The control streams of one replica, put together; `controlplane.app` starts and stops them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

from prometheus_client import CollectorRegistry

from controlplane.fleet import SHOW_SECONDS, Fleet
from controlplane.streams.hub import Hub
from controlplane.streams.orders import Orders
from controlplane.streams.pusher import Pusher
from controlplane.streams.reports import Reports
from controlplane.streams.servicer import ControlStreamServicer, StreamParts
from controlplane.streams.sources import sources_of
from controlplane.workers import WorkerDesk
from jobkit.host.channels import COMMANDS, REVISIONS, TYPES
from jobkit.host.world import World
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.lifecycle import Loops

SILENT_INTERVALS = 3
SWEEPS = 4  # a limit
COMMANDS_KEPT = timedelta(days=1)
PURGE_SECONDS = 600.0
PURGE_BATCH = 500


class Streams:
    """`heartbeat` in seconds: how often a worker is to be heard. `clock` is adjusted by somebody else."""

    def __init__(
        self, world: World, heartbeat: float, clock: DatabaseClock, registry: CollectorRegistry
    ) -> None:
        self._world = world
        sources = sources_of(world)
        self.hub = Hub(uuid4().hex[:12], heartbeat * SILENT_INTERVALS, registry)
        self.pusher = Pusher(self.hub, world.revisions, sources)
        self._orders = Orders(self.hub, world.commands, world.signals)
        self._reports = Reports(world.ledger, world.signals)
        self._fleet = Fleet(self.hub, world.fleet)
        self.desk = WorkerDesk(world, self._fleet, self._orders.hurry)
        kinds = frozenset(source.kind for source in sources)
        self.servicer = ControlStreamServicer(
            StreamParts(self.hub, self._orders, self._reports, clock, heartbeat, kinds)
        )
        self._stops: list[Callable[[], None]] = []

    def start(self, loops: Loops) -> None:
        signals = self._world.signals
        self._stops = [
            signals.listen(REVISIONS, lambda _: self.pusher.hurry()),
            signals.listen(TYPES, lambda _: self.pusher.hurry()),
            signals.listen(COMMANDS, lambda _: self._commanded()),
        ]
        loops.every(self.hub.silence / SWEEPS, "stream-sweep", self.hub.sweep)
        loops.spawn("stream-push", self.pusher.run, max_backoff=1.0)
        loops.spawn("stream-orders", self._orders.run, max_backoff=1.0)
        loops.spawn("stream-reports", self._reports.run, max_backoff=1.0)
        loops.every(SHOW_SECONDS, "stream-show", self._fleet.show, max_backoff=SHOW_SECONDS)
        loops.every(PURGE_SECONDS, "stream-purge", self._purge)

    async def stop(self) -> None:
        """End all streams. Safe to repeat."""
        for stop in self._stops:
            stop()
        await self.hub.close()
        await self._fleet.hide()

    def _commanded(self) -> None:
        self._orders.hurry()
        self.desk.heard()

    async def _purge(self) -> None:
        while await self._world.commands.purge(COMMANDS_KEPT, PURGE_BATCH) == PURGE_BATCH:
            pass
