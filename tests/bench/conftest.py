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

from tests.bench.figures import Report, write
from tests.bench.meter import servers
from tests.bench.peers.arena import EVERYBODY, Arena, Redis
from tests.bench.peers.catalog import SERVERS
from tests.bench.peers.picture import draw
from tests.bench.peers.scores import Scores
from tests.bench.peers.sheet import sheet
from tests.bench.stand import Sizes, Stand

HERE = Path(__file__).parent
ORDER = tuple(
    f"test_{name}"
    for name in ("submit", "drain", "latency", "stream", "dev", "idle", "cost", "memory", "peers")
)
HEADING = pytest.StashKey[list[str]]()
REPORT = pytest.StashKey[Report]()
SCALE = pytest.StashKey[Report]()
SCORES = pytest.StashKey[Scores]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--jobs", type=int, default=8000, help="jobs in a round of submit and drain (8000)")
    group.addoption("--rounds", type=int, default=3, help="rounds of each measurement (3)")
    group.addoption("--only", default="", help="contenders by name, with commas between them (all)")
    group.addoption(
        "--large", action="store_true", help="also a million waiting, a thousand types, ten million done"
    )
    group.addoption("--minutes", type=float, default=0.0, help="how long `-k memory` lasts (0: left out)")
    group.addoption("--write", type=Path, help="page that gets the tables, each section between its markers")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Benchmarks run when they are asked for by path, never as a part of the tests."""
    asked = (config.invocation_params.dir / argument.split("::")[0] for argument in config.args)
    return None if any(path.resolve().is_relative_to(HERE) for path in asked) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which a job meets them."""
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else -1)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[HEADING] = heading = _heading(config)
    config.stash[REPORT] = Report(heading)
    config.stash[SCALE] = Report(heading)
    config.stash[SCORES] = Scores()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    sections = {
        "engine": config.stash[REPORT].markdown(),
        "scale": config.stash[SCALE].markdown(),
        "peers": sheet(config.stash[HEADING], config.stash[SCORES], EVERYBODY),
    }
    measured = {name: text for name, text in sections.items() if text}
    if not measured:
        return
    terminalreporter.section("figures")
    for text in measured.values():
        terminalreporter.write(f"{text}\n")
    page: Path | None = config.getoption("--write", None)
    if page is None:
        return
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.line(f"{page} was left as it is: not everything could be measured", yellow=True)
        return
    if "peers" in measured:
        picture = page.with_name(f"{page.stem}-peers.svg")
        draw(config.stash[SCORES], picture)
        measured["peers"] = (
            f"![Rates, cost and latency of each contender]({picture.name})\n\n{measured['peers']}"
        )
    for name, text in measured.items():
        write(page, name, text)


def _heading(config: pytest.Config) -> list[str]:
    """Where and when: figures of two machines are not comparable, their ratios nearly are."""
    drivers = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("grpcio", "aio-pika", "asyncpg")
    )
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with Python {platform.python_version()}, {drivers}, on "
        f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}); load average before the run: {load}; "
        f"--jobs {config.getoption('jobs', 0)}, --rounds {config.getoption('rounds', 0)}."
    ]


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    return request.config.stash[REPORT]


@pytest.fixture
def arena(
    rabbitmq_url: str,
    postgres_url: str,
    namespace: str,
    sizes: Sizes,
    loop: asyncio.Runner,
    request: pytest.FixtureRequest,
) -> Iterator[Arena]:
    """On an empty database with our schema, an empty virtual host and a Redis of its own."""
    with Redis() as redis:
        urls = {"rabbitmq": rabbitmq_url, "postgres": postgres_url, "redis": redis.url}
        made = Arena(urls, namespace, sizes, loop, request.config.stash[SCORES])
        with made.stand(SERVERS, request.config.stash[SCALE]) as stand:
            stand.migrate()
        yield made


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Report:
    """Of what concerns ours alone."""
    return request.config.stash[SCALE]


@pytest.fixture
def large(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--large"))


@pytest.fixture
def minutes(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--minutes"))


@pytest.fixture
def chosen(request: pytest.FixtureRequest) -> frozenset[str]:
    """Lower-case names; empty means all."""
    return frozenset(name.strip().lower() for name in request.config.getoption("--only").split(",") if name)


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
