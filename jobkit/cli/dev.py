"""`selfheal dev`: all three components in one process, on the embedded default where no server is named.

The same composition roots as in production, over one set of adapters: SQLite for the truth, queues and breakers in
memory. A restart fills the queues from the database, so that a kill -9 loses nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any

from jobkit.cli.parts import find_parts
from jobkit.cli.targets import DEFAULT_CONTROL
from jobkit.host.process import Component, addresses, refuse, run_until_stopped
from jobkit.host.world import World
from jobkit.rpc.address import host_port
from jobkit.runtime import logs
from jobkit.runtime.settings import BadSettings, Settings, load

_log = logging.getLogger("selfheal")

# What there is without the server, and what it is called where it was told.
URLS = {
    "DATABASE_URL": ("SQLite", "the database of DATABASE_URL"),
    "RABBITMQ_URL": ("queues in memory", "the broker of RABBITMQ_URL"),
    "REDIS_URL": ("breakers in memory", "the Redis of REDIS_URL"),
}


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or Ctrl-C. 0 after a drain, 1 when it cannot start, 2 for bad settings."""
    parser = argparse.ArgumentParser(prog="selfheal dev", description="All of selfheal in one process.")
    parser.add_argument("--data", default=".selfheal", help="folder of the database (default: .selfheal)")
    parser.add_argument("--handlers", nargs="+", default=[], metavar="MODULE", help="modules with handlers")
    options = parser.parse_args(argv)
    sys.path.insert(0, os.getcwd())  # handler modules lie where the command is given
    environ = dev_environ(os.environ, options.data, options.handlers)
    try:
        parts = _read_settings(find_parts(), environ)
    except BadSettings as bad:
        return refuse("dev", bad.problems)
    base = parts[0][1]
    logs.configure("dev", base.log_level, base.log_format)
    embedded = not os.environ.get("DATABASE_URL")
    lock = _lock(options.data) if embedded else None
    if embedded and lock is None:
        refuse("dev", [f"another selfheal dev uses {options.data}: stop it, or give --data another folder"])
        return 1

    @asynccontextmanager
    async def whole() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            world = World("dev", base, environ)
            stack.push_async_callback(world.close)
            await world.migrate()
            await world.open()
            for part, settings in parts:
                await stack.enter_async_context(part.build(settings, world))
            _greet(parts, environ)
            yield

    try:
        return run_until_stopped(whole)
    except ValueError as error:  # handlers that cannot be used
        return refuse("dev", getattr(error, "problems", [str(error)]))


def dev_environ(environ: Mapping[str, str], data: str, handlers: list[str]) -> dict[str, str]:
    """The environment with dev's defaults: an SQLite file, and the simulator where no handlers are given."""
    values = dict(environ)
    if not values.get("DATABASE_URL"):
        values["DATABASE_URL"] = f"sqlite:///{Path(data).absolute() / 'selfheal.db'}"
    if handlers:
        values["WORKER_HANDLERS"] = ",".join([*handlers, *filter(None, [values.get("WORKER_HANDLERS")])])
    if not values.get("WORKER_HANDLERS"):
        values.setdefault("SIMULATE", "1")
    if not values.get("CONTROLPLANE_ADDR"):
        values["CONTROLPLANE_ADDR"] = _own_address(values)
    return values


def _own_address(values: Mapping[str, str]) -> str:
    """Where this process's own control plane listens, for its own worker."""
    bind = values.get("BIND") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104 - read, not bound
    port = values.get("CONTROLPLANE_GRPC_PORT") or DEFAULT_CONTROL.rpartition(":")[2]
    return host_port(host, port)


def _read_settings(
    parts: list[Component[Any]], environ: Mapping[str, str]
) -> list[tuple[Component[Any], Settings]]:
    """Raises BadSettings with the problems of all parts, those that they share once."""
    read: list[tuple[Component[Any], Settings]] = []
    problems: dict[str, None] = {}
    for part in parts:
        try:
            settings = load(part.settings, environ, embedded=True)
            if getattr(settings, "processes", 1) != 1:
                problems[
                    "WORKER_PROCESSES: `selfheal dev` is one process; start `selfheal worker` beside it"
                ] = None
            read.append((part, settings))
        except BadSettings as bad:
            problems.update(dict.fromkeys(bad.problems))
    if problems:
        raise BadSettings(list(problems))
    return read


def _lock(data: str) -> IO[str] | None:
    """One process a folder: queues in memory have one owner. None when another has it."""
    Path(data).mkdir(parents=True, exist_ok=True)
    lock = (Path(data) / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _greet(parts: list[tuple[Component[Any], Settings]], environ: Mapping[str, str]) -> None:
    used = [told if os.environ.get(url) else own for url, (own, told) in URLS.items()]
    _log.info("selfheal dev is up (%s)", ", ".join(used))
    for part, settings in parts:
        _log.info("  %-13s %s", part.name, addresses(settings))
    if environ.get("SIMULATE") == "1":
        _log.info("  the simulator serves every job type that has no handler")
