"""Private servers for the fault tests: one set for all that harm only components, and one of its own for a test that
harms a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import _STARTING, _leave_out
from tests.faults.broker import Vhost
from tests.faults.kit import Servers, make_fleet, running_servers
from tests.system.fleet import Fleet

_FIXTURES = {"fault_servers", "own_servers"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need all three servers."""
    for item in items:
        if _FIXTURES & set(getattr(item, "fixturenames", ())):
            for mark in (pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def fault_servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Never wiped by a test, and stopped by none while another needs them."""
    try:
        with running_servers() as servers:
            yield servers
    except _STARTING as error:
        _leave_out(request.config, "servers for the fault tests", error)


@pytest.fixture
def own_servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """For one test, to be stopped, killed, frozen and wiped."""
    try:
        with running_servers() as servers:
            yield servers
    except _STARTING as error:
        _leave_out(request.config, "servers for the fault tests", error)


@pytest.fixture
def faulty(fault_servers: Servers, tmp_path: Path) -> Iterator[Fleet]:
    """A migrated fleet on the shared private servers, not started."""
    fleet = make_fleet(tmp_path, fault_servers.room())
    try:
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope="session")
def battered_vhost(fault_servers: Servers) -> Vhost:
    return Vhost(fault_servers.rabbit)


@pytest.fixture
def vhost(battered_vhost: Vhost) -> Iterator[Vhost]:
    """That of `battered`, to be harmed; a test that stops the node, or alarms it, leaves it running and calm."""
    yield battered_vhost
    battered_vhost.rabbit.start()


@pytest.fixture(scope="session")
def battered(
    fault_servers: Servers, battered_vhost: Vhost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """The three components, kept by nobody: no fault of the broker may end one."""
    room = {**fault_servers.room(), "RABBITMQ_URL": battered_vhost.url}
    fleet = make_fleet(tmp_path_factory.mktemp("battered"), room)
    try:
        yield fleet.start()
        assert all(program.running for program in fleet.programs)
    finally:
        fleet.stop()
