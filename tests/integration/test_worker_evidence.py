"""Evidence: what opens a breaker and what does not, for one worker, for a fleet, and without Redis."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from uuid import uuid4

import pytest

from jobkit import TransientError
from jobkit.adapters.embedded.breakers import MemoryBreakerStore
from jobkit.adapters.redis.breakers import RedisBreakerStore
from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Evidence, Outcome
from jobkit.domain.errors import store_unavailable
from jobkit.domain.tripping import open_by_hand
from jobkit.handling import JobContext
from tests.integration.stage import Place, Stage, Trade, eventually
from tests.servers import NotAvailable, PrivateRedis
from worker.app import WorkerApp
from worker.breakers import Breakers
from worker.fallback import FallbackStore

OPEN, CLOSED = BreakerState.OPEN, BreakerState.CLOSED


async def state_of(app: WorkerApp, job_type: str) -> BreakerState:
    return app.organs.breakers.of(job_type).record.state


async def test_a_busy_healthy_type_stays_closed_with_sporadic_failures(real: Place) -> None:
    email = Trade(real.type("email"), max_attempts=1)
    numbers = itertools.count()

    async def every_fifth(job: JobContext) -> None:
        if next(numbers) % 5 == 0:
            raise TransientError("API_TIMEOUT")

    email.act = every_fifth
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email)
        await stage.submit_many(email.job_type, 300)
        await email.began(300)
        assert await state_of(app, email.job_type) is CLOSED


async def test_failures_at_once_open_after_about_ten(real: Place) -> None:
    email = Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        app = await stage.worker(email, WORKER_CONCURRENCY="1")
        await stage.submit_many(email.job_type, 100)
        await email.began(60)
        begun = len(email.begun)
        email.fail(lambda: TransientError("API_TIMEOUT"))
        await eventually(lambda: state_of(app, email.job_type), lambda state: state is OPEN)
        assert len(email.begun) - begun <= 16


async def test_two_workers_share_their_evidence(real: Place) -> None:
    """Three failures here and three there are six, and five open."""
    first, second = Trade(real.type("email")), Trade(real.type("email"))
    async with Stage(real) as stage:
        await stage.jobapi()
        apps = [await stage.worker(first), await stage.worker(second)]
        name = first.job_type
        for app, _ in itertools.product(apps, range(3)):
            app.organs.breakers.report(name, uuid4(), "API_TIMEOUT", app.organs.breakers.of(name).generation)
        for app in apps:
            await eventually(lambda app=app: state_of(app, name), lambda state: state is OPEN)  # type: ignore[misc]
        records = [app.organs.breakers.of(name).record for app in apps]
        assert records[0] == records[1]
        assert len(records[0].transitions) == 1


async def test_more_successes_than_one_report_holds_are_all_reported(embedded: Place) -> None:
    async with Stage(embedded) as stage:
        app = await stage.worker(SIMULATE="1")
        name = embedded.type("email")
        for _ in range(2000):
            app.organs.breakers.report(name, uuid4(), "", 0)
        breaker = app.organs.breakers.of(name)

        async def left() -> int:
            return len(breaker.outcomes)

        await eventually(left, lambda outcomes: outcomes == 0, patience=5)


# -- Redis goes away and comes back ------------------------------------------------------------------------------


@pytest.fixture
def own_redis() -> AsyncIterator[PrivateRedis]:
    try:
        with PrivateRedis() as server:
            yield server  # type: ignore[misc]
    except NotAvailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_without_redis_a_worker_goes_by_its_own_breakers_and_comes_back(
    embedded: Place, own_redis: PrivateRedis, how: str
) -> None:
    place = Place({**embedded.environ, "REDIS_URL": own_redis.url}, embedded.prefix)
    email = Trade(place.type("email"))
    async with Stage(place) as stage:
        await stage.jobapi()
        app = await stage.worker(email, COOLDOWN_PERIOD="3600", MAX_COOLDOWN="3600")
        fallback = app.organs.fallback
        await stage.submit(email.job_type)
        await email.began(1)
        getattr(own_redis, how)()
        await eventually(alone(fallback), lambda value: value)
        email.fail(lambda: TransientError("API_TIMEOUT"))
        await stage.submit_many(email.job_type, 30)
        await eventually(lambda: state_of(app, email.job_type), lambda state: state is OPEN)
        await eventually(health(app, "redis"), lambda value: value is not True)
        assert app.front.health.ok  # it can do its work

        own_redis.start() if how == "kill" else own_redis.resume()
        await eventually(alone(fallback), lambda value: not value)
        for _ in range(20):
            await asyncio.sleep(0.05)
            assert not fallback.alone
        await eventually(health(app, "redis"), lambda value: value is True)


def alone(fallback: FallbackStore) -> Callable[[], asyncio.Future[bool]]:
    async def read() -> bool:
        return fallback.alone

    return read  # type: ignore[return-value]


def health(app: WorkerApp, name: str) -> Callable[[], asyncio.Future[bool | str]]:
    async def read() -> bool | str:
        return app.front.health.info[name]

    return read  # type: ignore[return-value]


class Shaky(MemoryBreakerStore):
    """A shared store that can be away; its clock is an hour ahead of the host's."""

    def __init__(self) -> None:
        inner = MemoryBreakerStore()
        super().__init__(lambda: inner._clock() + 3_600_000)
        self.away = False

    async def now(self) -> int:
        self._check()
        return await super().now()

    async def read(self, names):  # type: ignore[no-untyped-def]
        self._check()
        return await super().read(names)

    async def version(self) -> int:
        self._check()
        return await super().version()

    def _check(self) -> None:
        if self.away:
            raise store_unavailable("redis")


async def test_alone_the_time_goes_on_by_the_shared_clock() -> None:
    shared = Shaky()
    store = FallbackStore(shared, MemoryBreakerStore)
    before = await store.now()
    store.remember(open_by_hand(BreakerRecord("email"), before, before + 60_000, "", ""))
    shared.away = True
    assert abs(await store.now() - before) < 1_000
    assert store.alone
    (record,) = (await store.read(["email"])).values()
    assert record.state is OPEN


async def test_alone_the_whole_port_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shaky()
    store = FallbackStore(shared, MemoryBreakerStore)
    shared.away = True
    await store.version()
    await store.create("email")
    window = await store.report("email", Evidence(0, (Outcome(uuid4(), "X"),)), 10, 60_000)
    assert window.failures == {"X": 1}
    assert (await store.window("email", 10, 60_000)).failures == {"X": 1}
    assert await store.failures(["email"]) == {"email": {"X": 1}}
    await store.repair(["email"])
    assert await store.take_permit("email", 0, "me", 1, timedelta(seconds=1))
    await store.return_permit("email", 0, "me")
    assert await store.swap("email", 0, BreakerRecord("email", OPEN, 5))
    assert await shared.failures(["email"]) == {}
    await store.close()


async def test_what_opened_alone_stays_open_when_the_shared_store_is_back() -> None:
    shared = Shaky()
    store = FallbackStore(shared, MemoryBreakerStore)
    ledger = Ledger()
    breakers = breakers_over(store, ledger)
    breakers.of("email")
    await breakers._poll()
    shared.away = True
    seen = []
    breakers._changed = lambda name, record: seen.append(record.state)
    await breakers.open_until("email", timedelta(minutes=1), 0)
    assert store.alone
    shared.away, store._retry_at = False, 0.0
    for _ in range(3):
        await breakers._poll()
    assert not store.alone
    assert set(seen) == {OPEN}
    record = (await shared.read(["email"]))["email"]
    assert record.state is OPEN
    # It is the fleet's now, also for the ledger; what the worker did keeps its scope.
    assert [(move.scope, move.generation) for move in record.transitions] == [
        ("me", record.generation),
        ("", record.generation),
    ]
    await breakers._record()
    assert ledger.recorded == [record]


async def test_a_later_word_of_the_shared_store_stands() -> None:
    shared = Shaky()
    store = FallbackStore(shared, MemoryBreakerStore)
    breakers = breakers_over(store)
    breakers.of("email")
    await breakers._poll()
    shared.away = True
    await breakers.open_until("email", timedelta(minutes=1), 0)
    later = breakers.of("email").generation + 10_000
    assert await shared.swap("email", 0, BreakerRecord("email", CLOSED, later))
    shared.away, store._retry_at = False, 0.0
    await breakers._poll()
    assert breakers.of("email").record.generation == later


@pytest.mark.parametrize("well", [True, False], ids=["others went on well", "nobody else worked"])
async def test_what_opened_alone_is_not_imposed_on_a_fleet_that_is_well(well: bool) -> None:
    """A worker cut off from Redis opened by itself; then it alone stays out, and tries itself back in."""
    shared = Shaky()
    store = FallbackStore(shared, MemoryBreakerStore, "me")
    breakers = breakers_over(store)
    breakers.of("email")
    await breakers._poll()
    before = Evidence(0, tuple(Outcome(uuid4(), "", "email") for _ in range(5)), "other")
    await shared.report("email", before, 50, 60_000)
    await asyncio.sleep(0.01)
    shared.away = True
    await breakers.open_until("email", timedelta(minutes=1), 0)
    opened = breakers.of("email").record
    assert opened.transitions[-1].scope == "me"
    await asyncio.sleep(0.01)
    if well:
        await shared.report("email", before, 50, 60_000)
    shared.away, store._retry_at = False, 0.0
    await breakers._poll()
    await breakers._poll()
    breaker = breakers.of("email")
    assert not breaker.admits
    assert (await shared.read(["email"])).get("email", BreakerRecord("email")).state is (
        CLOSED if well else OPEN
    )
    assert breakers.exiled == (["email"] if well else [])
    if well:
        assert breaker.exile is not None
        assert breaker.exile.until == opened.open_until


@pytest.mark.parametrize("away", [True, False], ids=["Redis away", "Redis wiped"])
async def test_a_type_never_heard_of_is_looked_up_in_the_ledger(away: bool) -> None:
    """A worker that starts now must not run what the fleet holds."""
    shared = Shaky()
    shared.away = away
    opened = open_by_hand(BreakerRecord("email"), 1, None, "ops", "a test")
    ledger = Ledger({"email": opened})
    breakers = breakers_over(FallbackStore(shared, MemoryBreakerStore), ledger)
    for name in ("email", "sms"):
        breakers.of(name)
    for _ in range(3):
        await breakers.refresh(["email", "sms"])
    assert not breakers.of("email").admits
    assert breakers.of("sms").admits
    assert ledger.asked == 1


class Ledger:
    def __init__(self, latest: dict[str, BreakerRecord] | None = None) -> None:
        self.asked = 0
        self.recorded: list[BreakerRecord] = []
        self._latest = latest or {}

    async def record(self, record: BreakerRecord) -> int:
        self.recorded.append(record)
        return 0

    async def heads(self, names: Sequence[str]) -> dict[str, int]:
        return {name: self._latest[name].generation for name in names if name in self._latest}

    async def latest(self, names: Sequence[str] | None = None) -> dict[str, BreakerRecord]:
        self.asked += 1
        return self._latest


def breakers_over(store: FallbackStore, ledger: Ledger | None = None) -> Breakers:
    return Breakers(store, ledger or Ledger(), BreakerPolicy(), "me", lambda name, record: None)


async def test_the_shared_stores_word_counts_again_although_the_counters_meet_by_chance() -> None:
    shared = Shaky()
    store = FallbackStore(shared, MemoryBreakerStore)
    breakers = breakers_over(store)
    breakers.of("email")
    await breakers._poll()
    shared.away = True
    await breakers._poll()
    await store.swap("email", 0, BreakerRecord("email", OPEN, 7, opened_at=1))  # the private counter is now 1
    await breakers._poll()
    assert not breakers.of("email").admits
    await shared.create("email")  # and so is the shared one
    shared.away, store._retry_at = False, 0.0
    await breakers._poll()
    await breakers._poll()
    assert not store.alone
    # The shared store knows no such opening, and is not told of it by its own forgetfulness.
    assert (await shared.read(["email"]))["email"].state is breakers.of("email").record.state


async def test_a_wiped_redis_is_reminded_before_a_held_type_flows(redis_url: str, namespace: str) -> None:
    shared = RedisBreakerStore(redis_url, namespace)
    breakers = breakers_over(FallbackStore(shared, MemoryBreakerStore))
    name = f"{namespace}-email"
    try:
        record = open_by_hand(BreakerRecord(name), await shared.now(), None, "ops", "a test")
        assert await shared.swap(name, 0, record)
        await breakers.refresh([name])
        await shared._link.run([("DEL", shared._keys(name).record)])
        await breakers.refresh([name])
        assert not breakers.of(name).admits
        assert await shared.read([name]) == {name: record}
        version = await shared.version()
        await breakers.refresh([name, f"{namespace}-unknown"])
        assert await shared.version() == version  # or every worker would wake every other for ever
    finally:
        await shared.close()
