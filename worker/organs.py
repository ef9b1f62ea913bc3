"""What a worker is made of, put together once. Nothing runs yet: `app.build` starts and stops it in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prometheus_client import CollectorRegistry

from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.adapters.embedded.limits import MemoryLimitStore
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import Unavailable
from jobkit.domain.outcome import Interrupted
from jobkit.host.channels import ENDED
from jobkit.host.world import World, new_id
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.lifecycle import Loops
from worker.breakers import Breakers
from worker.budgets import Budgets
from worker.claimer import Claimer
from worker.claims import Claims
from worker.executor import Executor, Limits
from worker.fallback import FallbackStore
from worker.faults import FaultReader
from worker.figures import Figures
from worker.handlers.email import SmtpSettings, email_handler
from worker.handlers.simulator import SimulatorSettings, simulator
from worker.handlers.webhook import Webhook
from worker.lane import LaneParts
from worker.lanes import Lanes
from worker.limits import FleetLimits
from worker.policies import PolicyReader
from worker.prober import Prober
from worker.registry import Registry
from worker.runner import Runner, RunnerParts
from worker.settings import WorkerSettings
from worker.settler import Settler
from worker.slots import Slots
from worker.suspects import Suspects
from worker.watch import Watch

_log = logging.getLogger(__name__)

# A probe that neither answers nor dies may hold its permit for an attempt and this much more.
PERMIT_SLACK = timedelta(seconds=10)


class Organs:
    """The worker's parts, each built from those before it."""

    def __init__(
        self, settings: WorkerSettings, world: World, handlers: Registry, metrics: CollectorRegistry
    ) -> None:
        self._world = world
        self.instance_id = new_id().hex
        self.worker_id = settings.name or f"{socket.gethostname()}-{os.getpid()}-{new_id().hex[-6:]}"
        lease = self._lease = timedelta(seconds=settings.job_lease)
        timeout = timedelta(seconds=settings.attempt_timeout)
        self.loops = Loops()
        messaging = world.messaging(metrics)
        self.publisher = world.publisher("worker", DatabaseClock(), messaging)
        self.claims = Claims(world.work, lease, self._interrupt)
        self.slots = Slots(settings.concurrency, settings.max_concurrency)
        self.figures = Figures(self.slots)
        self.watch = Watch(metrics, messaging, world.tracing, self._tell_ended, self.figures.ended)
        limits = Limits(concurrency=settings.concurrency, attempt_timeout=timeout)
        self.faults = FaultReader(world.faults, settings.game_day_on)
        self.executor = Executor(
            handlers,
            limits,
            progress=self.claims.note_progress,
            freed=self._wake,
            sabotage=self.faults.sabotage,
        )
        self.fallback = FallbackStore(world.breakers, MemoryBreakerStore, self.worker_id)
        self.breakers = Breakers(
            self.fallback, world.ledger, settings.breaker_policy, self.worker_id, self._moved, handlers.needs
        )
        self.policies = PolicyReader(world.policies, self.breakers)
        self.limits = FleetLimits(world.limits, self.worker_id, self._wake)
        self.budgets = Budgets(world.limits, MemoryLimitStore())
        self.claimer = Claimer(world.work, self.worker_id, lease, new_id)
        parts = LaneParts(
            world.dispatcher,
            self.breakers,
            Prober(self.breakers, timeout + PERMIT_SLACK),
            self.limits,
            self._runner(settings, handlers),
            self.slots,
            settings.ack_after,
            messaging.consumed,
        )
        self.lanes = Lanes(handlers, world.types, world.presence, parts, settings.max_job_types)

    def _runner(self, settings: WorkerSettings, handlers: Registry) -> Runner:
        work = self._world.work
        suspects = Suspects(
            self.executor.run, work, settings.max_losses, settings.attempt_timeout, self._reserve
        )
        return Runner(
            RunnerParts(
                claimer=self.claimer,
                claims=self.claims,
                executor=self.executor,
                suspects=suspects,
                settler=Settler(work, self.publisher, self.worker_id),
                publisher=self.publisher,
                breakers=self.breakers,
                budgets=self.budgets,
                registry=handlers,
                policy=settings.retry_policy,
                watch=self.watch,
                max_retry_after=timedelta(seconds=settings.max_retry_after),
            )
        )

    # -- what one part tells another that was built after it

    def _interrupt(self, job_id: UUID, why: Interrupted, delivery: int) -> None:
        self.executor.cancel(job_id, why, delivery)

    def _wake(self, job_type: str) -> None:
        self.lanes.wake(job_type)

    def _reserve(self, reserved: bool) -> None:
        self.slots.reserve(reserved)
        if not reserved:
            self.lanes.wake_all()

    def _moved(self, name: str, record: BreakerRecord) -> None:
        self.lanes.on_breaker(name, record)

    def _tell_ended(self, ids: Sequence[UUID]) -> None:
        self.loops.once("ended", lambda: self._world.signals.send(ENDED, ids))

    # -- what the app runs

    async def beat(self) -> None:
        """Once a second: the publisher's row, the worker's row."""
        await self.publisher.beat()
        await self._world.presence.beat(self.worker_id, self.lanes.serves, self.claimer.take_fronts())

    async def renew(self) -> None:
        """Renew the claims that are due. With none, look at the jobs all the same: what is seen of leases counts
        only as long as the table answers."""
        await self.claims.renew()
        await self._world.work.renew([], lease=self._lease)
        self.claimer.sight.saw()

    def on_cancels(self, ids: Sequence[UUID]) -> None:
        """Somebody asked to cancel these: renew now, the reply says for certain."""
        if self.claims.hurry(ids):
            self.loops.once("renew-now", self.claims.renew)

    async def leave(self) -> None:
        """Say good-bye, so that nobody waits for this worker to be missed."""
        try:
            await self._world.presence.leave(self.worker_id)
        except Unavailable:
            return  # its beats stop, which says the same a little later

    async def retire(self, actor: str, reason: str) -> None:
        """Take no more work, as `drain` does; but what runs goes on to its end, and the process stays."""
        _log.warning("draining, by %s (%s): no more work is taken", actor, reason)
        await self.lanes.drain()
        self.loops.once("retired", self.lanes.finish)

    async def drain(self, grace: float) -> None:
        """No new work, then `grace` seconds for what runs; what is left goes back unburned."""
        await self.lanes.drain()
        finishing = asyncio.ensure_future(self.lanes.finish())
        done, _ = await asyncio.wait([finishing], timeout=grace)
        self.executor.close()
        if not done:
            # Their outcomes still have to be recorded: as long as a database that is up needs, and no longer.
            await asyncio.wait([finishing], timeout=10)
        finishing.cancel()


def handlers_of(settings: WorkerSettings, webhook: Webhook) -> Registry:
    """The shipped handlers and the configured modules. Raises BadHandlers."""
    fallback = None
    if settings.simulate:
        fallback = simulator(SimulatorSettings(settings.simulated_failure_rate, settings.simulated_seed))
    registry = Registry([webhook.handler], fallback=fallback)
    if settings.smtp_host:
        smtp = SmtpSettings(
            host=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_username or "",
            password=settings.smtp_password or "",
            security=settings.smtp_security,
            from_address=settings.smtp_from,
        )
        registry.add(email_handler(smtp))
    registry.load(settings.handlers)
    return registry
