"""A component as a process: settings, logging, the loop, signals, exit codes."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import uvloop

from jobkit.domain.errors import SelfhealError
from jobkit.host.world import World
from jobkit.rpc.address import host_port
from jobkit.runtime import logs
from jobkit.runtime.lifecycle import StopSignal
from jobkit.runtime.settings import BadSettings, Settings, load

S = TypeVar("S", bound=Settings)
_log = logging.getLogger(__name__)

USAGE = 2
GC_YOUNG, GC_MIDDLE, GC_OLD = 10_000, 10, 10


@dataclass(frozen=True, slots=True)
class Component(Generic[S]):
    """A component: its name, its settings, and its composition root, which runs while entered and drains when
    left. `http_port` names the variable that `PORT` stands for when the component runs alone. `many` is what runs
    instead where the settings ask for several processes, None where they do not."""

    name: str
    settings: type[S]
    build: Callable[[S, World], AbstractAsyncContextManager[object]]
    http_port: str
    many: Callable[[S, Mapping[str, str]], AbstractAsyncContextManager[object] | None] | None = None


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

    many = component.many(settings, environ) if component.many is not None else None
    if many is not None:
        return run_until_stopped(lambda: many)

    @asynccontextmanager
    async def whole() -> AsyncIterator[object]:
        async with AsyncExitStack() as stack:
            world = World(component.name, settings, environ)
            stack.push_async_callback(world.close)
            await world.open()
            await stack.enter_async_context(component.build(settings, world))
            _log.info("%s is up: %s", component.name, addresses(settings))
            yield world

    return run_until_stopped(whole)


def addresses(settings: Any) -> str:
    """Where a component with these settings listens."""
    grpc, http = (host_port(settings.bind, port) for port in (settings.grpc_port, settings.http_port))
    return f"gRPC {grpc}   HTTP http://{http}"


def read_no_arguments(name: str, does: str, argv: Sequence[str] | None) -> None:
    """Answers `--help`; anything else is a mistake, for settings come from the environment. Raises SystemExit."""
    where = "Settings come from the environment: see docs/configuration.md."
    argparse.ArgumentParser(prog=f"selfheal {name}", description=does, epilog=where).parse_args(argv)


def refuse(name: str, problems: Sequence[str]) -> int:
    """Say everything that is wrong, at once."""
    for problem in problems:
        print(f"selfheal {name}: {problem}", file=sys.stderr)  # noqa: T201 - before logging is set up
    return USAGE


def settle_down() -> None:
    """What is there once a component is up stays until it ends: the garbage collector need not look at it again and
    again. And where thousands of objects come and go with each batch, the usual 700 of them between two collections
    make for hundreds of collections a second that find next to nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG, GC_MIDDLE, GC_OLD)


def run_until_stopped(whole: Callable[[], AbstractAsyncContextManager[object]]) -> int:
    """Enter `whole`, wait for SIGTERM or SIGINT, leave it. 1 when it could not start."""

    async def main() -> int:
        stop = StopSignal()
        stop.install()
        try:
            async with whole():
                settle_down()
                await stop.wait()
                _log.info("draining")
        except (OSError, SelfhealError) as error:
            _log.error("cannot start: %s", error)
            return 1
        _log.info("stopped")
        return 0

    return uvloop.run(main())
