"""The job API's composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import CollectorRegistry
from selfheal.jobs.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server

from jobapi.admission import Admission
from jobapi.backlog import REFRESH_SECONDS as BACKLOG_SECONDS
from jobapi.backlog import Backlog
from jobapi.jobs import Jobs
from jobapi.servicer import JobServicer
from jobapi.settings import JobApiSettings
from jobapi.shim import SLACK, add_routes
from jobapi.submit import Submitter
from jobapi.types import REFRESH_SECONDS, Types
from jobapi.waiting import Waiters
from jobkit import __version__
from jobkit.domain.errors import Unavailable
from jobkit.host.front import Front
from jobkit.host.process import Component
from jobkit.host.world import World
from jobkit.rpc.probes import add_metrics
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.finished import finished
from jobkit.runtime.lifecycle import Loops
from jobkit.runtime.publisher import BEAT_SECONDS

SERVICE = "selfheal.jobs.v1.JobService"
FIRST_BEAT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class JobApiApp:
    """A running job API."""

    front: Front
    jobs: Jobs


@asynccontextmanager
async def build(settings: JobApiSettings, world: World) -> AsyncIterator[JobApiApp]:
    """A job API that runs while entered; leaving drains it. Raises OSError when a port is taken."""
    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        loops = Loops()
        clock = DatabaseClock()
        publisher = world.publisher("jobapi", clock, world.messaging(registry))
        cooldown = timedelta(seconds=settings.cooldown)
        types = Types(world.types, world.presence, world.signals, settings.max_job_types, cooldown)
        backlog = Backlog(world.reader, settings.max_backlog)
        admission = Admission(types, backlog, clock)
        submitter = Submitter(world.intake, admission, publisher, clock, world.tracing, registry)
        waiters = Waiters(world.reader, world.signals)
        jobs = Jobs(world, submitter, waiters, publisher, finished(registry), settings.max_payload_bytes)
        front = Front(
            "api",
            settings.bind,
            (settings.grpc_port, settings.http_port),
            [(add_JobServiceServicer_to_server, JobServicer(jobs), SERVICE)],
            world.checks(publisher),
            registry,
        )
        add_routes(front.app, jobs)
        add_metrics(front.app, registry)
        front.mount_gateway("selfheal job API", __version__, settings.max_payload_bytes + SLACK)

        stack.push_async_callback(publisher.stop)
        stack.push_async_callback(loops.stop)
        # The first job must not be dated by this host's clock, unless the database is away anyhow.
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(FIRST_BEAT_SECONDS):
                await publisher.beat()
        loops.every(BEAT_SECONDS, "beat", publisher.beat, max_backoff=BEAT_SECONDS)
        loops.every(REFRESH_SECONDS, "types", types.refresh)
        loops.every(BACKLOG_SECONDS, "backlog", backlog.refresh)
        waiters.start()
        stack.push_async_callback(waiters.stop)
        stack.push_async_callback(submitter.drain)
        await front.start()
        stack.push_async_callback(front.stop)
        yield JobApiApp(front, jobs)


COMPONENT = Component("jobapi", JobApiSettings, build, "JOBAPI_HTTP_PORT")
