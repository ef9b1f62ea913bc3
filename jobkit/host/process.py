"""A component as a process: settings, logging, the loop, signals, exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import uvloop

from jobkit.domain.errors import SelfhealError
from jobkit.host.world import World
from jobkit.runtime import logs
from jobkit.runtime.lifecycle import StopSignal
from jobkit.runtime.settings import BadSettings, Settings, load

S = TypeVar("S", bound=Settings)
_log = logging.getLogger(__name__)

USAGE = 2


@dataclass(frozen=True, slots=True)
class Component(Generic[S]):
    """A component: its name, its settings, and its composition root, which runs while entered and drains when
    left. `http_port` names the variable that `PORT` stands for when the component runs alone."""

    name: str
    settings: type[S]
    build: Callable[[S, World], AbstractAsyncContextManager[object]]
    http_port: str


def run_component(component: Component[S], environ: Mapping[str, str]) -> int:
    """Run one component until it is told to stop; returns the exit code."""
    values = dict(environ)
    if values.get("PORT") and not values.get(component.http_port):
        values[component.http_port] = values["PORT"]
    try:
        settings = load(component.settings, values)
    except BadSettings as bad:
        return refuse(component.name, bad.problems)
    logs.configure(component.name, settings.log_level, settings.log_format)

    @asynccontextmanager
    async def whole() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            world = World(component.name, settings, environ)
            stack.push_async_callback(world.close)
            await world.open()
            await stack.enter_async_context(component.build(settings, world))
            _log.info("%s is up", component.name)
            yield

    return run_until_stopped(whole)


def refuse(name: str, problems: Sequence[str]) -> int:
    """Say everything that is wrong, at once."""
    for problem in problems:
        print(f"selfheal {name}: {problem}", file=sys.stderr)  # noqa: T201 - before logging is set up
    return USAGE


def run_until_stopped(whole: Callable[[], AbstractAsyncContextManager[None]]) -> int:
    """Enter `whole`, wait for SIGTERM or SIGINT, leave it. 1 when it could not start."""

    async def main() -> int:
        stop = StopSignal()
        stop.install()
        try:
            async with whole():
                await stop.wait()
                _log.info("draining")
        except (OSError, SelfhealError) as error:
            _log.error("cannot start: %s", error)
            return 1
        _log.info("stopped")
        return 0

    return uvloop.run(main())
