"""WORKER_PROCESSES workers under one roof: each is a process with an id, slots and connections of its own, and
loopback ports that only this one knows; what they show, health and metrics, is shown here for all of them together.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from jobkit.host.front import Front
from jobkit.rpc.probes import prometheus_response
from jobkit.runtime.health import Check
from jobkit.runtime.lifecycle import Loops
from worker.crew_metrics import Together
from worker.settings import WorkerSettings

LOOK_SECONDS = 0.5
ANSWER_SECONDS = 2.0
# After the grace: settling what ran, closing connections.
STOP_SECONDS = 20.0
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}
_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Mate:
    """One of the processes. `info` is what its `/health` said last, empty while it does not answer."""

    number: int
    process: asyncio.subprocess.Process | None = None
    url: str = ""
    ready: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


class Crew:
    """Starts the processes, starts those that end again, and stops all."""

    def __init__(self, settings: WorkerSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._loops = Loops()
        self._stopping = False
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        self.mates = [Mate(number) for number in range(1, settings.processes + 1)]

    def start(self) -> None:
        for mate in self.mates:

            async def keep(mate: Mate = mate) -> None:
                await self._keep(mate)

            async def look(mate: Mate = mate) -> None:
                await self._look(mate)

            self._loops.spawn(f"process {mate.number}", keep)
            self._loops.every(LOOK_SECONDS, f"look at process {mate.number}", look)

    async def stop(self) -> None:
        """SIGTERM to all; SIGKILL to who has not drained long after the grace. Safe to repeat."""
        self._stopping = True
        running = [mate.process for mate in self.mates if mate.process is not None]
        for process in running:
            _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(self._settings.shutdown_grace + STOP_SECONDS):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            for process in running:
                _signal(process, signal.SIGKILL)
        await self._loops.stop()
        await self._client.close()

    async def _keep(self, mate: Mate) -> None:
        """Runs one process to its end."""
        if self._stopping:
            return
        http, grpc = _free_ports(2)
        name = self._settings.name or f"{socket.gethostname()}-{os.getpid()}"
        environ = {
            **self._environ,
            "BIND": "127.0.0.1",
            "PORT": "",
            "WORKER_PROCESSES": "1",
            "WORKER_NAME": f"{name}-{mate.number}",
            "WORKER_HTTP_PORT": str(http),
            "WORKER_GRPC_PORT": str(grpc),
        }
        # A session of its own: Ctrl-C is for the parent, which then tells them once.
        mate.process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "worker",
            env=environ,
            preexec_fn=_die_with_parent,
            start_new_session=True,
        )
        mate.url = f"http://127.0.0.1:{http}"
        try:
            code = await process.wait()
        finally:
            mate.process, mate.ready, mate.info = None, False, {}
            _signal(process, signal.SIGKILL)
        if not self._stopping:
            _log.error("process %d ended with %s and is started again", mate.number, code)

    async def _look(self, mate: Mate) -> None:
        ready, info = False, {}
        if mate.process is not None:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._client.get(f"{mate.url}/health") as answer:
                    ready, info = answer.status == 200, (await answer.json())["info"]
        mate.ready, mate.info = ready, info

    # -- what it shows

    def checks(self) -> list[Check]:
        """What all of them need is up when it is up for one of them: what one has lost is its own trouble."""

        async def processes() -> None:
            away = [str(mate.number) for mate in self.mates if not mate.ready]
            if away:
                raise ConnectionError(f"{len(away)} of {len(self.mates)} are not ready: {', '.join(away)}")

        async def any_ready() -> None:
            if not any(mate.ready for mate in self.mates):
                raise ConnectionError("no process is ready")

        def of(name: str) -> Check:
            async def probe() -> None:
                told = [mate.info.get(name, {}) for mate in self.mates]
                if not any(one.get("status") == "up" for one in told):
                    raise ConnectionError(
                        next((one["message"] for one in told if one.get("message")), "not known")
                    )

            return Check(name, probe, required=False)

        shared = [of(name) for name in ("database", "rabbitmq", "redis", "controlPlane")]
        return [
            Check("ready", any_ready, required=True),
            Check("processes", processes, required=False),
            *shared,
        ]

    async def metrics(self, request: web.Request) -> web.Response:
        """What all of them count, with the label `process`; one that does not answer is left out."""

        async def ask(mate: Mate) -> tuple[str, str]:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._client.get(f"{mate.url}/metrics") as answer:
                    return str(mate.number), await answer.text()
            return str(mate.number), ""

        told = await asyncio.gather(*(ask(mate) for mate in self.mates if mate.process is not None))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Together(told))
        return prometheus_response(registry, request.headers.get("Accept", ""))

    async def forward(self, request: web.Request) -> web.Response:
        """The routes that are about the whole system, not about a process: any of them answers."""
        mate = next((mate for mate in self.mates if mate.ready), None)
        if mate is None:
            raise web.HTTPServiceUnavailable(text="no process is ready")
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP)
        try:
            async with self._client.request(
                request.method, f"{mate.url}{request.path_qs}", headers=headers, data=await request.read()
            ) as answer:
                kept = CIMultiDict((k, v) for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP)
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
        except (aiohttp.ClientError, TimeoutError):
            raise web.HTTPServiceUnavailable(text="the process that was asked went away") from None


@asynccontextmanager
async def crew(settings: WorkerSettings, environ: Mapping[str, str]) -> AsyncIterator[Crew]:
    """The processes and their common front, while entered. Raises OSError when a port is taken."""
    async with AsyncExitStack() as stack:
        workers = Crew(settings, environ)
        stack.push_async_callback(workers.stop)
        registry = CollectorRegistry()
        ports = (settings.grpc_port, settings.http_port)
        front = Front("worker", settings.bind, ports, [], workers.checks(), registry)
        front.app.router.add_get("/metrics", workers.metrics)
        front.app.router.add_route("*", "/queues/{tail:.*}", workers.forward)
        await front.start()
        stack.push_async_callback(front.stop)
        workers.start()
        # Not ready before the first of them is told to stop.
        stack.push_async_callback(workers.stop)
        stack.push_async_callback(front.health.drain)
        yield workers


def _free_ports(count: int) -> list[int]:
    """Free at this moment: where somebody else takes one, the process ends, and starts again with others."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Does nothing to one that has ended."""
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _die_with_parent() -> None:
    """In the new process: SIGTERM when this one ends without a word (Linux; elsewhere they stay until stopped)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PDEATHSIG, signal.SIGTERM)
