"""Options, the run's one event loop, and the report that is printed at its end."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvloop

from tests.bench.figures import Report
from tests.bench.meter import servers
from tests.bench.stand import Sizes, Stand

HERE = Path(__file__).parent
ORDER = ("test_submit", "test_drain", "test_latency", "test_stream", "test_dev")
REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--jobs", type=int, default=8000, help="jobs in a round of submit and drain (8000)")
    group.addoption("--rounds", type=int, default=3, help="rounds of each measurement (3)")
    group.addoption("--write", type=Path, help="page that gets the tables between its two markers")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Benchmarks run when they are asked for by path, never as a part of the tests."""
    asked = (config.invocation_params.dir / argument.split("::")[0] for argument in config.args)
    return None if any(path.resolve().is_relative_to(HERE) for path in asked) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which a job meets them."""
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else -1)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report(_heading())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash[REPORT]
    if report.empty:
        return
    terminalreporter.section("figures")
    terminalreporter.write(report.markdown())
    page: Path | None = config.getoption("--write", None)
    if page is None:
        return
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.line(f"{page} was left as it is: not everything could be measured", yellow=True)
        return
    report.write(page)


def _heading() -> list[str]:
    """Where and when: figures of two machines are not comparable, their ratios nearly are."""
    drivers = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("grpcio", "aio-pika", "asyncpg")
    )
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with Python {platform.python_version()}, {drivers}, on "
        f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}); load average before the run: {load}."
    ]


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    return request.config.stash[REPORT]


@pytest.fixture
def sizes(request: pytest.FixtureRequest) -> Sizes:
    return Sizes(request.config.getoption("--jobs"), request.config.getoption("--rounds"))


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """The product runs on uvloop, so what it is compared with does too."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def stand(
    rabbitmq_url: str, postgres_url: str, redis_url: str, namespace: str, report: Report, sizes: Sizes
) -> Iterator[Stand]:
    """On the three servers, the schema made and nothing started."""
    environ = {
        "DATABASE_URL": postgres_url,
        "RABBITMQ_URL": rabbitmq_url,
        "REDIS_URL": redis_url,
        "SELFHEAL_NAMESPACE": namespace,
    }
    with Stand(environ, servers(postgres_url, redis_url), report, sizes) as made:
        made.migrate()
        yield made
