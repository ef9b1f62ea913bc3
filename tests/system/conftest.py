"""Fleets for the system tests: one per backend for all tests that kill nothing, and empty ones for those that do."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

from tests.system.client import Client
from tests.system.fleet import Fleet, Program

SERVERS = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis]
# Every type has a handler, and some have one of their own.
SERVING = {"SIMULATE": "1", "WORKER_HANDLERS": "trial_handlers"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with what the processes said."""
    report = yield
    if report.failed:
        for used in getattr(item, "funcargs", {}).values():
            if isinstance(used, Fleet):
                report.sections += [(f"log of {p.arguments}", p.log[-9000:]) for p in used.programs]
    return report


@pytest.fixture(scope="package")
def servers(request: pytest.FixtureRequest) -> Iterator[Callable[[], dict[str, str]]]:
    """Makes the environment of a fleet on RabbitMQ, Redis and PostgreSQL: each its own vhost, prefix, database."""
    vhosts = request.getfixturevalue("rabbitmq_vhosts")
    redis_url = request.getfixturevalue("_redis_server")
    postgres = request.getfixturevalue("_postgres_server")
    with contextlib.ExitStack() as stack:

        def make() -> dict[str, str]:
            namespace = f"test-{uuid.uuid4().hex[:12]}"
            database = f"selfheal_{namespace.replace('-', '_')}"
            _blocking(_execute(postgres, f'CREATE DATABASE "{database}" TEMPLATE template0'))
            stack.callback(lambda: _blocking(_execute(postgres, f'DROP DATABASE "{database}" WITH (FORCE)')))
            stack.callback(_forget, redis_url, namespace)
            return {
                "DATABASE_URL": urlsplit(postgres)._replace(path=f"/{database}").geturl(),
                "RABBITMQ_URL": vhosts.take(),
                "REDIS_URL": redis_url,
                "SELFHEAL_NAMESPACE": namespace,
            }

        yield make


@pytest.fixture(scope="package")
def embedded_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """`selfheal dev` on its default."""
    fleet = Fleet(tmp_path_factory.mktemp("dev"), SERVING, "trial", dev=True)
    with _stopping(fleet):
        yield fleet.start()


@pytest.fixture(scope="package")
def few_types(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """`selfheal dev --handlers`: no simulator, and room for hardly more than the handlers' own types."""
    fleet = Fleet(tmp_path_factory.mktemp("few"), {"MAX_JOB_TYPES": "8"}, "few", dev=True)
    with _stopping(fleet):
        yield fleet.start("--handlers", "trial_handlers")


@pytest.fixture(scope="package")
def server_fleet(
    servers: Callable[[], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """The three components on the three servers."""
    fleet = _on_servers(servers(), tmp_path_factory.mktemp("components"), SERVING)
    with _stopping(fleet):
        yield fleet.start()


@pytest.fixture(scope="package", params=["embedded", pytest.param("servers", marks=SERVERS)])
def fleet(request: pytest.FixtureRequest) -> Fleet:
    """Either."""
    name = {"embedded": "embedded_fleet", "servers": "server_fleet"}[request.param]
    found: Fleet = request.getfixturevalue(name)
    return found


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[Client]:
    async with Client(fleet) as made:
        yield made


@pytest.fixture(scope="package")
def headless(
    servers: Callable[[], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A job API and a control plane on the servers: tests start the workers, which have handlers of their own and
    no simulator."""
    environ = {"WORKER_HANDLERS": "trial_handlers", "JOB_LEASE": "3"}
    fleet = _on_servers(servers(), tmp_path_factory.mktemp("headless"), environ)
    with _stopping(fleet):
        programs = {component: fleet.spawn(component) for component in ("jobapi", "controlplane")}
        for component, program in programs.items():
            program.await_ready(f"{fleet.ports.http(component)}/health/ready")
        yield fleet


@pytest.fixture
async def headless_client(headless: Fleet) -> AsyncIterator[Client]:
    async with Client(headless) as made:
        yield made


def _on_servers(environ: dict[str, str], directory: Path, more: dict[str, str]) -> Fleet:
    fleet = Fleet(directory, {**environ, **more}, environ["SELFHEAL_NAMESPACE"], dev=False)
    migration = Program(["migrate"], fleet.environ, directory).start()
    assert migration.await_end() == 0, migration.log
    return fleet


@contextlib.contextmanager
def _stopping(fleet: Fleet) -> Iterator[None]:
    try:
        yield
    finally:
        fleet.stop()


def _blocking(work: Coroutine[Any, Any, None]) -> None:
    """In a thread of its own: this one may have a loop of pytest's."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _forget(url: str, namespace: str) -> None:
    with redis.Redis.from_url(url) as client:
        for prefix in ("", "breaker:", "failure:"):
            keys = list(client.scan_iter(match=f"{prefix}{namespace}*", count=1000))
            if keys:
                client.delete(*keys)
