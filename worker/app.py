"""The worker's composition root."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prometheus_client import CollectorRegistry

from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.domain.breaker import BreakerRecord
from jobkit.domain.errors import Unavailable
from jobkit.host.front import Front
from jobkit.host.process import Component
from jobkit.host.world import World, new_id
from jobkit.rpc.probes import add_metrics
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.health import Check
from jobkit.runtime.lifecycle import Loops
from jobkit.runtime.publisher import BEAT_SECONDS, Publisher
from worker.breakers import Breakers
from worker.claimer import Claimer
from worker.claims import CANCELS, Claims
from worker.executor import Executor, Limits
from worker.fallback import FallbackStore
from worker.handlers.email import SmtpSettings, email_handler
from worker.handlers.simulator import SimulatorSettings, simulator
from worker.handlers.webhook import Webhook, WebhookSettings
from worker.lane import LaneParts
from worker.lanes import Lanes
from worker.registry import Registry
from worker.runner import Runner, RunnerParts
from worker.settings import WorkerSettings
from worker.settler import Settler
from worker.slots import Slots
from worker.watch import Watch

_log = logging.getLogger(__name__)

WATCHES = "watches"
ENDED = "ended"
TYPES = "types"
# A probe that neither answers nor dies may hold its permit for an attempt and this much more.
PERMIT_SLACK = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class WorkerApp:
    """A running worker."""

    worker_id: str
    front: Front
    lanes: Lanes


@asynccontextmanager
async def build(settings: WorkerSettings, world: World) -> AsyncIterator[WorkerApp]:
    """A worker that runs while entered. Leaving drains it: readiness off, nothing new, what runs gets the grace,
    the rest goes back unburned, connections close in order. Raises OSError when a port is taken, BadHandlers."""
    async with AsyncExitStack() as stack:
        worker_id = settings.name or f"{socket.gethostname()}-{os.getpid()}-{new_id().hex[-6:]}"
        lease = timedelta(seconds=settings.job_lease)
        registry = CollectorRegistry()
        webhook = Webhook(WebhookSettings(settings.webhook_secret or "", settings.webhook_allow))
        await webhook.start()
        stack.push_async_callback(webhook.stop)
        handlers = _registry(settings, webhook)

        clock = DatabaseClock()
        publisher = Publisher("worker", world.dispatcher, world.sessions, clock, new_id)
        claims = Claims(world.work, lease)
        watch = Watch(
            registry,
            world.tracing,
            lambda job_id: loops.once("ended", lambda: world.signals.send(ENDED, [job_id])),
            settings.concurrency,
        )
        limits = Limits(
            concurrency=settings.concurrency, attempt_timeout=timedelta(seconds=settings.attempt_timeout)
        )
        executor = Executor(
            handlers,
            limits,
            progress=claims.note_progress,
            freed=lambda name: lanes.wake(name),  # noqa: PLW0108 - made below
        )
        claims.executor = executor

        def moved(name: str, record: BreakerRecord) -> None:
            lanes.on_breaker(name, record)

        fallback = FallbackStore(world.breakers, MemoryBreakerStore)
        breakers = Breakers(fallback, world.ledger, settings.breaker_policy, worker_id, moved)
        claimer = Claimer(world.work, worker_id, lease, new_id)
        settler = Settler(world.work, publisher, worker_id)
        runner = Runner(
            RunnerParts(
                claimer=claimer,
                claims=claims,
                executor=executor,
                settler=settler,
                publisher=publisher,
                breakers=breakers,
                registry=handlers,
                policy=settings.retry_policy,
                watch=watch,
                max_retry_after=timedelta(seconds=settings.max_retry_after),
            )
        )
        lanes = Lanes(
            handlers,
            world.types,
            LaneParts(
                world.dispatcher,
                breakers,
                runner,
                Slots(settings.concurrency, settings.max_concurrency),
                timedelta(seconds=settings.attempt_timeout) + PERMIT_SLACK,
            ),
            settings.max_job_types,
        )
        loops = Loops()
        front = Front(
            "worker",
            settings.bind,
            (settings.grpc_port, settings.http_port),
            [],
            _checks(world, fallback, lanes),
            registry,
        )
        add_metrics(front.app, registry)
        stack.push_async_callback(loops.stop)
        stack.push_async_callback(publisher.stop)

        def cancel(ids: Sequence[UUID]) -> None:
            claims.hurry(ids)
            loops.once("renew-now", claims.renew)

        async def beat() -> None:
            await publisher.beat()
            await world.presence.beat(worker_id, lanes.serves, claimer.take_fronts())

        await front.start()
        stack.push_async_callback(front.stop)
        loops.every(BEAT_SECONDS, "beat", beat)
        loops.every(1.0, "renew", claims.renew)
        loops.every(1.0, "progress", claims.write_progress)
        stack.callback(world.signals.listen(WATCHES, watch.watched))
        stack.callback(world.signals.listen(CANCELS, cancel))
        stack.callback(world.signals.listen(TYPES, lambda _: lanes.hurry()))
        breakers.start()
        stack.push_async_callback(breakers.stop)
        lanes.start()
        stack.push_async_callback(_leave, world, worker_id)
        stack.push_async_callback(_drain, lanes, executor, front, settings.shutdown_grace)
        yield WorkerApp(worker_id, front, lanes)


def _registry(settings: WorkerSettings, webhook: Webhook) -> Registry:
    fallback = None
    if settings.simulate:
        fallback = simulator(SimulatorSettings(settings.simulated_failure_rate, settings.simulated_seed))
    registry = Registry([webhook.handler], fallback=fallback)
    if settings.smtp_host:
        registry.add(
            email_handler(
                SmtpSettings(
                    host=settings.smtp_host,
                    port=settings.smtp_port,
                    username=settings.smtp_username or "",
                    password=settings.smtp_password or "",
                    security=settings.smtp_security,
                    from_address=settings.smtp_from,
                )
            )
        )
    registry.load(settings.handlers)
    return registry


def _checks(world: World, fallback: FallbackStore, lanes: Lanes) -> list[Check]:
    async def breakers() -> None:
        await world.check_breakers()
        if fallback.alone:
            raise ConnectionError("going by this worker's own breakers")

    async def consumers() -> None:
        await world.check_broker()
        if lanes.unconsumed:
            raise ConnectionError(f"no consumer for {', '.join(lanes.unconsumed[:5])}")

    return [
        Check("database", world.check_database, required=True),
        Check("rabbitmq", consumers, required=True),
        Check("redis", breakers, required=False),
    ]


async def _drain(lanes: Lanes, executor: Executor, front: Front, grace: float) -> None:
    """Readiness off, no new work, then `grace` seconds for what runs; what is left goes back unburned."""
    await front.health.drain()
    await lanes.drain()
    finishing = asyncio.ensure_future(lanes.finish())
    done, _ = await asyncio.wait([finishing], timeout=grace)
    if not done:
        _log.warning("%d runs outlast the grace and go back", sum(executor.running.values()))
        executor.close()
        # Their outcomes still have to be recorded: as long as a database that is up needs, and no longer.
        await asyncio.wait([finishing], timeout=10)
    finishing.cancel()
    executor.close()


async def _leave(world: World, worker_id: str) -> None:
    try:
        await world.presence.leave(worker_id)
    except Unavailable as error:
        _log.warning("left without a good-bye: %s", error)


COMPONENT = Component("worker", WorkerSettings, build, "WORKER_HTTP_PORT")
