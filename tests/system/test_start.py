"""What a start says when something is not right: settings, ports, an old schema, a store that is away."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.system.client import Client, eventually
from tests.system.fleet import COMPONENTS, SELFHEAL, Fleet, Program, clean_environ

SERVICES = {
    "jobapi": ["selfheal.jobs.v1.JobService"],
    "controlplane": ["selfheal.control.v1.BreakerService"],
    "worker": [],
}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def refused(folder: Path, *arguments: str, **environ: str) -> tuple[int, list[str]]:
    """Exit code and what was said on standard error, of a start that must fail."""
    done = subprocess.run(
        [SELFHEAL, *arguments],
        cwd=folder,
        env={**clean_environ(), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()


def test_every_bad_setting_is_told_at_once(tmp_path: Path) -> None:
    bad = {
        "WORKER_HTTP_PORT": "http",
        "FAILURE_THRESHOLD": "0",
        "JOBAPI_GRPC_PORT": "70000",
        "LOG_LEVEL": "LOUD",
    }
    code, lines = refused(tmp_path, "dev", **bad)
    assert code == 2
    assert len(lines) == len(bad)
    for name, value in bad.items():
        assert sum(f"{name}={value}: " in line and line.startswith("selfheal dev: ") for line in lines) == 1
    assert not (tmp_path / ".selfheal").exists()


def test_production_names_the_urls_that_are_missing_and_what_it_refuses(tmp_path: Path) -> None:
    code, lines = refused(tmp_path, "worker", SELFHEAL_ENV="production", SIMULATE="1", REDIS_URL="redis://r")
    assert code == 2
    assert lines == [
        "selfheal worker: DATABASE_URL is missing",
        "selfheal worker: RABBITMQ_URL is missing",
        "selfheal worker: SIMULATE: production runs real handlers only",
    ]


@pytest.mark.parametrize("name", ["JOBAPI_HTTP", "WORKER_GRPC"])
def test_a_taken_port_ends_the_start_with_a_message(tmp_path: Path, name: str) -> None:
    fleet = Fleet(tmp_path, {}, "port", dev=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", fleet.ports.numbers[name]))
        taken.listen()
        code, lines = refused(tmp_path, "dev", **fleet.ports.environ)
    assert code == 1
    assert "cannot start" in lines[-1]
    assert str(fleet.ports.numbers[name]) in lines[-1]


def test_handlers_that_cannot_be_used_end_the_start_with_all_reasons(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    (tmp_path / "empty.py").write_text("")
    fleet = Fleet(tmp_path, {}, "handlers", dev=True)
    code, lines = refused(tmp_path, "dev", "--handlers", "broken", "empty", **fleet.ports.environ)
    assert code == 2
    assert "handler module 'broken' cannot be imported: ModuleNotFoundError" in lines[0]
    assert "handler module 'empty' has no function marked with @job_handler" in lines[1]


def test_a_database_that_is_away_ends_dev_and_migrate_with_a_message(tmp_path: Path) -> None:
    away = "postgresql://user:secret@127.0.0.1:1/x"
    for command in ("dev", "migrate"):
        code, lines = refused(tmp_path, command, DATABASE_URL=away)
        assert code == 1
        assert "database is unavailable" in lines[-1]
        assert "secret" not in "".join(lines)


@pytest.mark.postgres
def test_a_production_image_migrates_without_a_word_about_listening(
    tmp_path: Path, postgres_url: str
) -> None:
    program = Program(
        ["migrate"], {"DATABASE_URL": postgres_url, "SELFHEAL_ENV": "production", "BIND": "0.0.0.0"}, tmp_path
    ).start()
    assert program.await_end() == 0
    assert program.log.startswith("the schema is at")


@pytest.fixture
def unmigrated(
    tmp_path: Path, postgres_url: str, rabbitmq_url: str, redis_url: str, namespace: str
) -> Iterator[Fleet]:
    """The three components on a database without a schema."""
    urls = {"DATABASE_URL": postgres_url, "RABBITMQ_URL": rabbitmq_url, "REDIS_URL": redis_url}
    environ = {**urls, "SELFHEAL_NAMESPACE": namespace, "SIMULATE": "1"}
    fleet = Fleet(tmp_path, environ, namespace, dev=False)
    try:
        for component in COMPONENTS:
            fleet.spawn(component)
        yield fleet
    finally:
        fleet.stop()


async def test_an_unmigrated_database_is_named_and_healed_by_a_migration(unmigrated: Fleet) -> None:
    fleet = unmigrated
    async with Client(fleet) as client:
        for component in COMPONENTS:

            async def health(component: str = component) -> str:
                try:
                    answer = await client.http("GET", f"{component}/health")
                except OSError:
                    return "not up yet"
                return answer.body.decode() if answer.status == 503 else f"unexpected: {answer}"

            await eventually(health, lambda body: "run `selfheal migrate`" in body)
            assert await grpc_health(fleet, component) == {"": NOT_SERVING} | dict.fromkeys(
                SERVICES[component], NOT_SERVING
            )

        assert fleet.spawn("migrate").await_end() == 0

        for component in COMPONENTS:
            expected = {"": SERVING} | dict.fromkeys(SERVICES[component], SERVING)
            await eventually(lambda c=component: grpc_health(fleet, c), lambda seen, e=expected: seen == e)  # type: ignore[misc]
        await client.result(await client.submit(fleet.job_type("first")))


async def grpc_health(fleet: Fleet, component: str) -> dict[str, int]:
    """By service; "" is the server as a whole."""
    async with grpc.aio.insecure_channel(fleet.ports.grpc(component)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return {
            name: (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
            for name in ("", *SERVICES[component])
        }


@pytest.mark.parametrize("component", COMPONENTS)
async def test_grpc_clients_find_health_reflection_and_channelz(fleet: Fleet, component: str) -> None:
    assert set((await grpc_health(fleet, component)).values()) == {SERVING}
    async with grpc.aio.insecure_channel(fleet.ports.grpc(component)) as channel:
        untyped: Any = channel  # the stubs' types know the blocking API only
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(untyped)
        asked = reflection.ServerReflectionInfo()
        await asked.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await asked.read()
        await asked.done_writing()
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {"grpc.health.v1.Health", "grpc.channelz.v1.Channelz", *SERVICES[component]}
        channelz: Any = channelz_pb2_grpc.ChannelzStub(untyped)
        assert len((await channelz.GetServers(channelz_pb2.GetServersRequest())).server) >= 1
