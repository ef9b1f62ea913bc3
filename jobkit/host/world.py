"""The adapters of one process: real where an URL is given, embedded where none is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import uuid_utils.compat as ids
from prometheus_client import CollectorRegistry

from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.adapters.embedded.dispatcher import EmbeddedDispatcher
from jobkit.adapters.embedded.fleet import MemoryFleetViews
from jobkit.adapters.embedded.limits import MemoryLimitStore
from jobkit.adapters.embedded.signals import EmbeddedSignals
from jobkit.adapters.rabbitmq.dispatcher import RabbitDispatcher
from jobkit.adapters.redis.breakers import RedisBreakerStore
from jobkit.adapters.redis.fleet import RedisFleetViews
from jobkit.adapters.redis.limits import RedisLimitStore
from jobkit.adapters.redis.signals import RedisSignals
from jobkit.adapters.sql import schema
from jobkit.adapters.sql.attempts import SqlAttemptLog
from jobkit.adapters.sql.commands import SqlCommands
from jobkit.adapters.sql.engine import Database
from jobkit.adapters.sql.faults import SqlFaults
from jobkit.adapters.sql.history import SqlHistory
from jobkit.adapters.sql.incidents import SqlSums
from jobkit.adapters.sql.intake import SqlIntake
from jobkit.adapters.sql.ledger import SqlLedger
from jobkit.adapters.sql.policies import SqlPolicies
from jobkit.adapters.sql.presence import SqlPresence, SqlSessions, SqlTypes
from jobkit.adapters.sql.quarantine import SqlQuarantine
from jobkit.adapters.sql.reader import SqlReader
from jobkit.adapters.sql.recovery import SqlRecovery
from jobkit.adapters.sql.redrives import SqlRedrives
from jobkit.adapters.sql.retention import SqlRetention
from jobkit.adapters.sql.revisions import SqlRevisions
from jobkit.adapters.sql.steering import SqlSteering
from jobkit.adapters.sql.typesteering import SqlTypeSteering
from jobkit.adapters.sql.work import SqlWork
from jobkit.domain.errors import SchemaMismatch, Unavailable
from jobkit.host.ledger import TellingLedger
from jobkit.ports import BreakerStore, Dispatcher, FleetViews, LimitStore, Signals
from jobkit.runtime.clock import DatabaseClock
from jobkit.runtime.health import Check
from jobkit.runtime.messaging import MessagingMetrics
from jobkit.runtime.publisher import Publisher
from jobkit.runtime.settings import Settings
from jobkit.runtime.tracing import Tracing, provider

_log = logging.getLogger(__name__)


def new_id() -> UUID:
    """A UUIDv7, larger than every one that this process made before."""
    return ids.uuid7()


class World:
    """One process's adapters; in `selfheal dev` the three components share one. Opens nothing by itself."""

    def __init__(self, component: str, settings: Settings, environ: Mapping[str, str]) -> None:
        assert settings.database_url is not None
        self.database = Database(
            settings.database_url,
            connections=settings.database_connections,
            timeout=settings.database_timeout,
        )
        self.intake = SqlIntake(self.database)
        self.work = SqlWork(self.database)
        self.reader = SqlReader(self.database)
        self.steering = SqlSteering(self.database)
        self.sessions = SqlSessions(self.database)
        self.presence = SqlPresence(self.database)
        self.types = SqlTypes(self.database)
        self.history = SqlHistory(self.database)
        self.sums = SqlSums(self.database)
        self.policies = SqlPolicies(self.database)
        self.type_steering = SqlTypeSteering(self.database)
        self.recovery = SqlRecovery(self.database)
        self.retention = SqlRetention(self.database)
        self.quarantine = SqlQuarantine(self.database)
        self.redrives = SqlRedrives(self.database)
        self.revisions = SqlRevisions(self.database)
        self.commands = SqlCommands(self.database)
        self.faults = SqlFaults(self.database)
        self.attempts = SqlAttemptLog(self.database)
        self.dispatcher: Dispatcher = (
            RabbitDispatcher(settings.rabbitmq_url) if settings.rabbitmq_url else EmbeddedDispatcher()
        )
        self._share(settings)
        self.ledger = TellingLedger(SqlLedger(self.database), self.signals)
        self.embedded_breakers = settings.redis_url is None
        self.tracing = Tracing(provider(component, environ))
        self._schema_checked = False

    def _share(self, settings: Settings) -> None:
        """What the fleet shares: in Redis, or within this process."""
        self.breakers: BreakerStore
        self.limits: LimitStore
        self.signals: Signals
        self.fleet: FleetViews
        if settings.redis_url:
            self.breakers = RedisBreakerStore(settings.redis_url, settings.namespace)
            self.limits = RedisLimitStore(settings.redis_url, settings.namespace)
            self.signals = RedisSignals(settings.redis_url, settings.namespace)
            self.fleet = RedisFleetViews(settings.redis_url, settings.namespace)
        else:
            self.breakers, self.signals = MemoryBreakerStore(), EmbeddedSignals()
            self.limits = MemoryLimitStore()
            self.fleet = MemoryFleetViews()

    def messaging(self, registry: CollectorRegistry) -> MessagingMetrics:
        """Counts one component's messages into its own registry."""
        return MessagingMetrics(registry, embedded=self.dispatcher.volatile)

    def publisher(self, component: str, clock: DatabaseClock, messaging: MessagingMetrics) -> Publisher:
        """One component's session on this world's queues."""
        return Publisher(component, self.dispatcher, self.sessions, clock, new_id, messaging)

    async def open(self) -> None:
        """Connect to the broker, now if it answers, else as soon as it does: health tells meanwhile."""
        try:
            await self.dispatcher.start()
        except Unavailable as error:
            _log.warning("%s, trying on", error)

    async def check_database(self) -> None:
        """Raises Unavailable or SchemaMismatch."""
        if self._schema_checked:
            await self.database.now()
            return
        try:
            await schema.check(self.database)
        except SchemaMismatch as mismatch:
            _log.error("%s", mismatch)
            raise
        self._schema_checked = True

    async def check_broker(self) -> None:
        if not self.dispatcher.available:
            raise ConnectionError("not connected, or blocking publishers by an alarm")

    async def check_breakers(self) -> None:
        await self.breakers.version()

    def database_check(self, publisher: Publisher) -> Check:
        """The database answers, has our schema, and takes the publisher's beats."""

        async def probe() -> None:
            await self.check_database()
            publisher.check_writes()
            if self.database.refuses_writes:
                raise ConnectionError("refuses writes: is its disk full?")

        return Check("database", probe, required=True)

    def checks(self, publisher: Publisher) -> list[Check]:
        """Health of a component that needs the database and does without the rest for a while."""
        return [
            self.database_check(publisher),
            Check("rabbitmq", self.check_broker, required=False),
            Check("redis", self.check_breakers, required=False),
        ]

    async def migrate(self) -> str:
        """Bring the database to this release's schema; makes the folder of an SQLite file."""
        if self.database.is_sqlite and self.database.url.database:
            Path(self.database.url.database).parent.mkdir(parents=True, exist_ok=True)
        return await schema.migrate(self.database)

    async def close(self) -> None:
        """In order: what was published last is confirmed before its connection goes. Safe to repeat."""
        await self.signals.close()
        await self.limits.close()
        await self.fleet.close()
        await self.breakers.close()
        await self.dispatcher.close()
        await self.database.close()
        self.tracing.close()
