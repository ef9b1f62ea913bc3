"""The worker's composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import CollectorRegistry

from jobkit.host.channels import CANCELS, POLICIES, TYPES, WATCHES
from jobkit.host.front import Front
from jobkit.host.process import Component
from jobkit.host.queues import Queues, add_queue_routes
from jobkit.host.world import World
from jobkit.rpc.probes import add_metrics
from jobkit.runtime.health import Check
from jobkit.runtime.publisher import BEAT_SECONDS
from worker.control import Control
from worker.crew import Crew, crew
from worker.handlers.webhook import Webhook, WebhookSettings
from worker.member import Member
from worker.organs import Organs, handlers_of
from worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class WorkerApp:
    """A running worker."""

    front: Front
    organs: Organs
    control: Control


@asynccontextmanager
async def build(settings: WorkerSettings, world: World) -> AsyncIterator[WorkerApp]:
    """A worker that runs while entered. Leaving drains it: readiness off, nothing new, what runs gets the grace,
    the rest goes back unburned, connections close in order. Raises OSError when a port is taken, BadHandlers."""
    async with AsyncExitStack() as stack:
        webhook = _webhook(settings)
        handlers = handlers_of(settings, webhook)
        await webhook.start()
        stack.push_async_callback(webhook.stop)
        metrics = CollectorRegistry()
        organs = Organs(settings, world, handlers, metrics)
        ports = (settings.grpc_port, settings.http_port)

        async def not_ready() -> None:
            await front.health.drain()

        control = Member(organs, settings, not_ready).control()
        front = Front("worker", settings.bind, ports, [], _checks(world, organs, control), metrics)
        add_metrics(front.app, metrics)
        add_queue_routes(front.app, Queues(world, organs.publisher))

        # No beat may follow a good-bye: it would bring the row back.
        stack.push_async_callback(organs.publisher.stop)
        stack.push_async_callback(organs.leave)
        stack.push_async_callback(organs.loops.stop)
        await front.start()
        stack.push_async_callback(front.stop)
        quarter = settings.job_lease / 4
        organs.loops.every(BEAT_SECONDS, "beat", organs.beat, max_backoff=BEAT_SECONDS)
        # After an outage the renewals come first: everybody else may take what nobody renews through a lease.
        organs.loops.every(min(1.0, quarter), "renew", organs.renew, max_backoff=quarter)
        organs.loops.every(1.0, "progress", organs.claims.write_progress)
        _listen(stack, world, organs)
        control.start()
        stack.push_async_callback(control.stop)
        for organ in (organs.breakers, organs.policies, organs.faults, organs.budgets, organs.limits):
            organ.start()
            stack.push_async_callback(organ.stop)
        organs.lanes.start()
        stack.push_async_callback(organs.drain, settings.shutdown_grace)
        stack.push_async_callback(front.health.drain)
        yield WorkerApp(front, organs, control)


def _webhook(settings: WorkerSettings) -> Webhook:
    return Webhook(
        WebhookSettings(
            secret=settings.webhook_secret or "",
            allow=settings.webhook_allow,
            max_retry_after=timedelta(seconds=settings.max_retry_after),
            retry_scope=settings.webhook_retry_scope,
        )
    )


def _listen(stack: AsyncExitStack, world: World, organs: Organs) -> None:
    stack.callback(world.signals.listen(WATCHES, organs.watch.watched))
    stack.callback(world.signals.listen(CANCELS, organs.on_cancels))
    stack.callback(world.signals.listen(TYPES, lambda _: organs.lanes.hurry()))
    stack.callback(world.signals.listen(POLICIES, lambda _: organs.policies.hurry()))


def _checks(world: World, organs: Organs, control: Control) -> list[Check]:
    async def breakers() -> None:
        await world.check_breakers()
        if organs.fallback.alone:
            raise ConnectionError("going by this worker's own breakers")

    async def consumers() -> None:
        if not world.dispatcher.delivering:
            raise ConnectionError("not connected")
        if organs.lanes.unconsumed:
            raise ConnectionError(f"no consumer for {', '.join(organs.lanes.unconsumed[:5])}")

    return [
        world.database_check(organs.publisher),
        Check("rabbitmq", consumers, required=True),
        Check("redis", breakers, required=False),
        Check("controlPlane", control.check, required=False),
    ]


def many(settings: WorkerSettings, environ: Mapping[str, str]) -> AbstractAsyncContextManager[Crew] | None:
    """Several processes, where WORKER_PROCESSES asks for them. Raises BadHandlers."""
    if settings.processes == 1:
        return None
    handlers_of(settings, _webhook(settings))
    return crew(settings, environ)


COMPONENT = Component("worker", WorkerSettings, build, "WORKER_HTTP_PORT", many)
