"""A component's front: gRPC and HTTP on their ports, health and metrics on both, drained in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from jobkit.rpc.door import Door
from jobkit.rpc.gateway import mount
from jobkit.rpc.http import HttpServer
from jobkit.rpc.metrics import RpcMetrics
from jobkit.rpc.openapi import mount_docs
from jobkit.rpc.probes import Health as Answer
from jobkit.rpc.probes import add_health
from jobkit.rpc.server import RpcServer
from jobkit.runtime.health import Check, Health
from jobkit.runtime.lifecycle import Loops

Services = list[tuple[Callable[..., None], Any, str]]
DRAIN_SECONDS = 5.0


class Front:
    """Starts NOT_SERVING; `health` decides from then on."""

    def __init__(
        self,
        component: str,
        bind: str,
        ports: tuple[int, int],
        services: Services,
        checks: list[Check],
        registry: CollectorRegistry,
    ) -> None:
        metrics = RpcMetrics(registry)
        self.door = Door(metrics)
        self._services = services
        self.rpc = RpcServer(bind, ports[0], services, self.door)
        self.http = HttpServer(bind, ports[1], metrics)
        self.health = Health(component, checks, changed=self.rpc.set_serving)
        self._loops = Loops()
        add_health(self.http.app, self._answer)

    @property
    def app(self) -> web.Application:
        """Add shim routes here before `start`."""
        return self.http.app

    def mount_gateway(self, title: str, version: str, max_body: int) -> None:
        """The canonical REST routes, /openapi.json and /docs. After the shim's own routes."""
        mount_docs(self.http.app, self._services, title, version)
        mount(self.http.app, self._services, self.door, max_body)

    def _answer(self) -> Answer:
        return Answer(self.health.ok, self.health.info)

    async def start(self) -> None:
        """Raises OSError when a port is taken."""
        await self.rpc.start()
        try:
            await self.http.start()
        except OSError:
            await self.rpc.stop()
            raise
        await self.health.check()
        self._loops.every(1.0, "health", self.health.check)

    async def stop(self) -> None:
        """Not ready first, so that balancers look elsewhere; then calls in flight finish. Safe to repeat."""
        await self.health.drain()
        await self._loops.stop()
        await self.http.stop(DRAIN_SECONDS)
        await self.rpc.stop(DRAIN_SECONDS)
