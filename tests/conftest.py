"""Servers and isolation for every test.

A server is looked for where TEST_RABBITMQ_URL, TEST_REDIS_URL and TEST_DATABASE_URL point, or at its usual
port; where none answers, a private one is started for the session. Where that is impossible the test is
skipped with the reason, or fails when CI=true, and the end of the run lists what was left out.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import settings

from tests.servers import (
    NotAvailable,
    PrivatePostgres,
    PrivateRabbit,
    PrivateRedis,
    found_or_private,
    reachable,
)
from tests.templates import held, migrate, temporary_database
from tests.vhosts import Vhosts, shared_ctl

pytest.register_assert_rewrite("tests.contract")

# No example fails for the time it took: the machine may be busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_FIXTURE_OF_MARK = {"postgres": "postgres_url", "rabbitmq": "rabbitmq", "redis": "redis_url"}
_left_out = pytest.StashKey[dict[str, str]]()
_notes = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_left_out] = {}
    config.stash[_notes] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the servers it needs, so that `-m "not rabbitmq"` works without marks by hand."""
    for item in items:
        for mark, fixture in _FIXTURE_OF_MARK.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes tells the one that sums up."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash[_left_out]
        output["notes"] = session.config.stash[_notes]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What such a process left out."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[_left_out].update(output.get("left_out", {}))
    notes = node.config.stash[_notes]
    notes += [note for note in output.get("notes", []) if note not in notes]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly what did not run, and what was started for the run."""
    notes, left_out = config.stash[_notes], config.stash[_left_out]
    skipped = terminalreporter.stats.get("skipped", [])
    if not (notes or left_out or skipped):
        return
    terminalreporter.section("servers and what was left out")
    for note in notes:
        terminalreporter.line(note)
    for server, reason in left_out.items():
        terminalreporter.line(f"LEFT OUT: tests that need {server}: {reason}", yellow=True)
    if skipped:
        terminalreporter.line(f"{len(skipped)} tests were skipped; with CI=true a missing server fails.")


def _leave_out(config: pytest.Config, server: str, reason: Exception) -> None:
    text = str(reason).strip() or type(reason).__name__
    config.stash[_left_out][server] = text
    message = f"no {server}: {text}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


_STARTING = (NotAvailable, OSError, TimeoutError)


@dataclass(frozen=True)
class RabbitVhost:
    """A vhost of one test's own. `ctl` runs rabbitmqctl on its node: touch nothing but this vhost with it."""

    url: str
    ctl: Callable[..., str]

    @property
    def name(self) -> str:
        return urlsplit(self.url).path[1:]


@pytest.fixture(scope="session")
def rabbitmq_vhosts(request: pytest.FixtureRequest) -> Iterator[Vhosts]:
    """The pool that `rabbitmq_url` takes from."""
    url = os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/")
    with contextlib.ExitStack() as stack:
        pool = Vhosts(url, shared_ctl)
        try:
            if not _shared_rabbit_usable(pool, url):
                private = PrivateRabbit()
                stack.callback(private.remove)
                private.start()
                pool = Vhosts(private.url, private.ctl)
                request.config.stash[_notes].append(f"a private RabbitMQ ran at {private.url}")
        except _STARTING as error:
            _leave_out(request.config, "RabbitMQ", error)
        stack.callback(pool.remove)
        yield pool


def _shared_rabbit_usable(pool: Vhosts, url: str) -> bool:
    """A server that rabbitmqctl cannot reach cannot give a test its own vhost: then a private one does."""
    if not reachable(url, 5672):
        return False
    try:
        pool.ctl("eval", "ok.")
    except NotAvailable:
        return False
    return True


@pytest.fixture
def rabbitmq(rabbitmq_vhosts: Vhosts) -> Iterator[RabbitVhost]:
    """An empty vhost and the means to look into it."""
    url = rabbitmq_vhosts.take()
    yield RabbitVhost(url, rabbitmq_vhosts.ctl)
    rabbitmq_vhosts.give_back(url)


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitVhost) -> str:
    """The URL of an empty vhost."""
    return rabbitmq.url


@pytest.fixture(scope="session")
def _redis_server(request: pytest.FixtureRequest) -> Iterator[str]:
    url = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(found_or_private(url, 6379, PrivateRedis))
        except _STARTING as error:
            _leave_out(request.config, "Redis", error)
        if found != url:
            request.config.stash[_notes].append(f"a private Redis ran at {found}")
        yield found


@pytest.fixture
def namespace() -> str:
    """A random key prefix; `redis_url` deletes what begins with it after the test."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def redis_url(_redis_server: str, namespace: str) -> Iterator[str]:
    """A Redis that other tests use too: write nothing outside of `namespace`. The operator-readable keys
    `breaker:<name>` and `failure:<name>:*` have no prefix, so begin breaker names with the namespace."""
    yield _redis_server
    with redis.Redis.from_url(_redis_server) as client:
        for prefix in ("", "breaker:", "failure:", "breaker:@", "failure:@"):
            keys = list(client.scan_iter(match=f"{prefix}{namespace}*", count=1000))
            if keys:
                client.delete(*keys)


@pytest.fixture(scope="session")
def _postgres_server(request: pytest.FixtureRequest) -> Iterator[str]:
    url = os.environ.get("TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(found_or_private(url, 5432, PrivatePostgres))
        except _STARTING as error:
            _leave_out(request.config, "PostgreSQL", error)
        if found != url:
            request.config.stash[_notes].append(f"a private PostgreSQL ran at {found}")
        yield found


@pytest.fixture
async def postgres_url(_postgres_server: str) -> AsyncIterator[str]:
    """The URL of an empty database, dropped after the test with whoever is still connected."""
    async with temporary_database(_postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def _migrated_template(_postgres_server: str) -> Iterator[str]:
    with held(temporary_database(_postgres_server)) as url:
        migrate(url)
        yield urlsplit(url).path[1:]


@pytest.fixture
async def migrated_postgres_url(_postgres_server: str, _migrated_template: str) -> AsyncIterator[str]:
    """The same, at our version."""
    async with temporary_database(_postgres_server, _migrated_template) as url:
        yield url
