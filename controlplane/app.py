"""The control plane's composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from selfheal.control.v1.breaker_service_pb2_grpc import add_BreakerServiceServicer_to_server
from selfheal.control.v1.control_stream_service_pb2_grpc import add_ControlStreamServiceServicer_to_server
from selfheal.control.v1.game_day_service_pb2_grpc import add_GameDayServiceServicer_to_server
from selfheal.control.v1.job_type_service_pb2_grpc import add_JobTypeServiceServicer_to_server
from selfheal.control.v1.quarantine_service_pb2_grpc import add_QuarantineServiceServicer_to_server
from selfheal.control.v1.worker_service_pb2_grpc import add_WorkerServiceServicer_to_server

from controlplane.accountant import Accountant
from controlplane.breakers import BreakerDesk
from controlplane.chronicle import Chronicle
from controlplane.feed import Feed
from controlplane.gameday import GameDayDesk
from controlplane.gameday_servicer import SERVICE as GAME_DAY
from controlplane.gameday_servicer import GameDayServicer
from controlplane.gauges import COUNT_SECONDS, Gauges
from controlplane.keeper import Keeper
from controlplane.policies import PolicyDesk
from controlplane.quarantine import QuarantineDesk
from controlplane.quarantine_servicer import QuarantineServicer
from controlplane.reconcilers.intake import Intake
from controlplane.reconcilers.overdue import Overdue
from controlplane.reconcilers.redrive import Redriving
from controlplane.reconcilers.retention import Retention
from controlplane.recorder import RECORD_SECONDS, Recorder, Simulator
from controlplane.servicer import BreakerServicer
from controlplane.settings import ControlPlaneSettings
from controlplane.shim import add_routes
from controlplane.streams.streams import Streams
from controlplane.type_servicer import JobTypeServicer
from controlplane.types import TypeDesk
from controlplane.worker_servicer import WorkerServicer
from jobkit import __version__
from jobkit.host.front import Front, Services
from jobkit.host.process import Component
from jobkit.host.queues import Queues, add_queue_routes
from jobkit.host.world import World
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.finished import finished
from jobkit.runtime.lifecycle import Loops
from jobkit.runtime.publisher import BEAT_SECONDS

SERVICE = "selfheal.control.v1.BreakerService"
STREAMS = "selfheal.control.v1.ControlStreamService"
TYPE_SERVICE = "selfheal.control.v1.JobTypeService"
QUARANTINE_SERVICE = "selfheal.control.v1.QuarantineService"
WORKERS = "selfheal.control.v1.WorkerService"
MAX_BODY = 64 * 1024
RETENTION_SECONDS = 60.0
REDRIVE_SECONDS, GROUP_SECONDS = 0.2, 10.0


@dataclass(frozen=True, slots=True)
class ControlPlaneApp:
    """A running control plane."""

    front: Front
    streams: Streams


@asynccontextmanager
async def build(settings: ControlPlaneSettings, world: World) -> AsyncIterator[ControlPlaneApp]:
    """A control plane that runs while entered; leaving drains it. Raises OSError when a port is taken."""
    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        loops = Loops()
        clock, ended = DatabaseClock(), finished(registry)
        publisher = world.publisher("controlplane", clock, world.messaging(registry))
        streams = Streams(world, settings.stream_heartbeat, clock, registry)
        desk = BreakerDesk(world)
        feed = Feed(world.history, world.signals)
        chronicle = Chronicle(world.history, feed, desk)
        front = Front(
            "controlPlane",
            settings.bind,
            (settings.grpc_port, settings.http_port),
            _services(world, desk, QuarantineDesk(world, ended), chronicle, streams, settings),
            world.checks(publisher),
            registry,
        )
        add_routes(front.app, desk, world.breakers, registry)
        add_queue_routes(front.app, Queues(world, publisher))
        front.mount_gateway("selfheal control plane", __version__, MAX_BODY)

        stack.push_async_callback(publisher.stop)
        stack.push_async_callback(loops.stop)
        loops.every(BEAT_SECONDS, "beat", publisher.beat, max_backoff=BEAT_SECONDS)
        overdue = Overdue(world, publisher, ended, settings.lost_after, settings.job_lease)
        if world.dispatcher.volatile:
            await overdue.begin_refill(loops)
        _reconcile(loops, settings, overdue, Intake(world))
        _redrive(loops, Redriving(world, publisher, registry))
        _keep_house(loops, world, Retention(world, settings.ages), Gauges(world, registry))
        _tell(loops, feed, Accountant(world.sums, registry), Recorder(world))
        streams.start(loops)
        await front.start()
        stack.push_async_callback(front.stop)
        stack.push_async_callback(feed.close)
        # Not ready first, then the streams: workers must find another replica.
        stack.push_async_callback(streams.stop)
        stack.push_async_callback(front.health.drain)
        yield ControlPlaneApp(front, streams)


def _services(
    world: World,
    desk: BreakerDesk,
    quarantine: QuarantineDesk,
    chronicle: Chronicle,
    streams: Streams,
    settings: ControlPlaneSettings,
) -> Services:
    simulator = Simulator(world, desk, settings.breaker_policy)
    breakers = BreakerServicer(desk, PolicyDesk(world, settings.breaker_policy), chronicle, simulator)
    return [
        (add_BreakerServiceServicer_to_server, breakers, SERVICE),
        (
            add_GameDayServiceServicer_to_server,
            GameDayServicer(GameDayDesk(world, settings.game_day_on)),
            GAME_DAY,
        ),
        (add_JobTypeServiceServicer_to_server, JobTypeServicer(TypeDesk(world)), TYPE_SERVICE),
        (add_QuarantineServiceServicer_to_server, QuarantineServicer(quarantine), QUARANTINE_SERVICE),
        (add_WorkerServiceServicer_to_server, WorkerServicer(streams.desk), WORKERS),
        (add_ControlStreamServiceServicer_to_server, streams.servicer, STREAMS),
    ]


def _keep_house(loops: Loops, world: World, retention: Retention, gauges: Gauges) -> None:
    keeper = Keeper(world, gauges.show)
    loops.every(RETENTION_SECONDS, "retention", retention.purge)
    loops.every(RETENTION_SECONDS, "idle-types", retention.drop_idle_types)
    loops.every(1.0, "keeper", keeper.keep)
    loops.every(COUNT_SECONDS, "gauges", gauges.count)


def _redrive(loops: Loops, redriving: Redriving) -> None:
    loops.every(REDRIVE_SECONDS, "redrive", redriving.work)
    loops.every(GROUP_SECONDS, "failure-groups", redriving.group)


def _reconcile(loops: Loops, settings: ControlPlaneSettings, overdue: Overdue, intake: Intake) -> None:
    interval = settings.overdue_interval
    loops.every(interval, "overdue", overdue.publish_nobodys)
    loops.every(interval * 4, "orphaned", overdue.publish_orphaned)
    loops.every(interval * 10, "lost", overdue.publish_lost)
    loops.every(min(1.0, settings.job_lease / 4), "rescue", overdue.rescue)
    loops.every(interval * 4, "intake", intake.file)


def _tell(loops: Loops, feed: Feed, accountant: Accountant, recorder: Recorder) -> None:
    loops.spawn("feed", feed.follow)
    loops.every(1.0, "weigh", accountant.weigh)
    loops.every(1.0, "count", accountant.count)
    loops.every(RECORD_SECONDS, "attempt-log", recorder.record)


COMPONENT = Component("controlplane", ControlPlaneSettings, build, "CONTROLPLANE_HTTP_PORT")
