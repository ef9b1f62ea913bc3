"""The gRPC server of a component: its services, reflection, health, channelz, limits and a graceful stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from jobkit.rpc.address import host_port
from jobkit.rpc.door import Door
from jobkit.rpc.handlers import DoorHandlers

CHANNELZ = "grpc.channelz.v1.Channelz"
OVERALL = ""
# How long calls are still answered, with a refusal, before the transport closes. What arrives while it closes is
# CANCELLED by grpc, which tells a caller nothing; by then those who call often have been told.
FAREWELL_SECONDS = 0.1


class Service(NamedTuple):
    """A servicer and how to serve it: `add_XServicer_to_server`, the object, `package.Service`."""

    add: Callable[[Any, Any], None]
    servicer: Any
    name: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do. Sizes in bytes, times in milliseconds."""

    max_receive: int = 8 * 1024 * 1024
    max_send: int = 64 * 1024 * 1024  # a page of 1,000 jobs with their payloads
    keepalive_time: int = 60_000
    keepalive_timeout: int = 20_000
    min_ping_interval: int = 10_000

    def options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", self.max_receive),
            ("grpc.max_send_message_length", self.max_send),
            ("grpc.keepalive_time_ms", self.keepalive_time),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", self.min_ping_interval),
            # Without this two processes on one port would split the calls between them, unnoticed.
            ("grpc.so_reuseport", 0),
            ("grpc.enable_channelz", 1),
        ]


class RpcServer:
    """Serves `services` on `bind`:`port`. Health is NOT_SERVING until `set_serving(True)`.

    Start and stop may be repeated and come in any order; a stopped server can be started again.
    """

    def __init__(
        self,
        bind: str,
        port: int,
        services: Sequence[tuple[Callable[[Any, Any], None], Any, str]],
        door: Door,
        limits: Limits | None = None,
    ) -> None:
        self._bind = bind
        self._wanted_port = port
        self._services = [Service(*service) for service in services]
        self._door = door
        self._limits = limits or Limits()
        self._server: grpc.aio.Server | None = None
        self._health: Any = None  # grpc_health's aio servicer has no type of its own in its stubs
        self._port = 0
        self._serving = False
        self._changing = asyncio.Lock()

    @property
    def port(self) -> int:
        """The bound port; 0 while stopped."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port` for clients, with brackets around an IPv6 address."""
        return host_port(self._bind, self._port)

    async def start(self) -> None:
        """Bind and serve. Raises OSError when the address is taken."""
        async with self._changing:
            if self._server is not None:
                return
            self._door.open()
            server = grpc.aio.server(options=self._limits.options())
            handlers = DoorHandlers(self._door)
            for service in self._services:
                service.add(service.servicer, handlers)
            self._health = self._add_infrastructure(handlers)
            server.add_generic_rpc_handlers((handlers,))
            address = host_port(self._bind, self._wanted_port)
            try:
                port = server.add_insecure_port(address)
            except RuntimeError as error:
                await server.stop(None)
                raise OSError(
                    f"cannot listen on {address} (does another one run already?): {error}"
                ) from error
            await server.start()
            self._server, self._port = server, port
            await self._tell_health()

    async def stop(self, grace: float = 0.0) -> None:
        """Say NOT_SERVING, refuse new calls, give those in flight `grace` seconds, then end them: callers are told
        UNAVAILABLE."""
        async with self._changing:
            server, self._server = self._server, None
            if server is None:
                return
            await self._health.enter_graceful_shutdown()
            self._door.close()
            if grace:
                await self._say_farewell(grace)
            await server.stop(FAREWELL_SECONDS if grace else 0.0)
            self._port = 0

    async def _say_farewell(self, grace: float) -> None:
        farewell = min(FAREWELL_SECONDS, grace)
        await asyncio.sleep(farewell)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace - farewell):
                await self._door.idle()
        self._door.evict()

    async def set_serving(self, serving: bool) -> None:
        """What `grpc.health.v1` answers, for the server as a whole and for each service."""
        self._serving = serving
        if self._server is not None:
            await self._tell_health()

    def _add_infrastructure(self, handlers: Any) -> Any:
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, handlers)
        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), handlers)
        names = [service.name for service in self._services]
        shown = [*names, health.SERVICE_NAME, CHANNELZ, reflection.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(shown), handlers
        )
        return servicer

    async def _tell_health(self) -> None:
        answers = health_pb2.HealthCheckResponse
        status = answers.SERVING if self._serving else answers.NOT_SERVING
        for name in (OVERALL, *(service.name for service in self._services)):
            await self._health.set(name, status)
