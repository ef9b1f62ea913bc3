"""Options, the place, and the table that is printed at the end."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from jobkit.host.process import settle_down
from tests.drills.figures import Drill, Figures
from tests.integration.stage import Place

HERE = Path(__file__).parent
FIGURES = pytest.StashKey[Figures]()
# The quick ones first.
ORDER = (
    "bad_worker",
    "quiet_type",
    "hang",
    "flapping",
    "shared",
    "quiet_fleet",
    "noise",
    "brown_out",
    "shared_recovery",
    "outage",
    "outage_celery",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--scale", type=float, default=1.0, help="sizes and times of the drills, as a part of the whole (1.0)"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Drills run when they are asked for by path, never as a part of the tests."""
    asked = (config.invocation_params.dir / argument.split("::")[0] for argument in config.args)
    return None if any(path.resolve().is_relative_to(HERE) for path in asked) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return ORDER.index(name) if name in ORDER else len(ORDER)

    items.sort(key=place)
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(1800))


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the components run on."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = Figures()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if not figures.rows:
        return
    terminalreporter.section("drills")
    terminalreporter.line(
        f"scale {config.getoption('--scale'):g}, {os.cpu_count()} cores; load: the 1-minute load average at the end "
        "of the drill"
    )
    terminalreporter.write(figures.table() + "\n")


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """The garbage collector as the components set it: else each full collection walks through all that the tests have
    loaded, and stops every worker of the drill at once, for 0.1 to 0.2 s."""
    thresholds = gc.get_threshold()
    settle_down()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> Drill:
    """Named after the test."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    return request.config.stash[FIGURES].of(name)


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--scale"))


@pytest.fixture
def place(postgres_url: str, rabbitmq_url: str, redis_url: str, namespace: str) -> Place:
    """An empty database, an empty vhost, and a key prefix, on real servers."""
    urls = {"DATABASE_URL": postgres_url, "RABBITMQ_URL": rabbitmq_url, "REDIS_URL": redis_url}
    return Place({**urls, "SELFHEAL_NAMESPACE": namespace}, namespace)
