"""The gRPC server's infrastructure: reflection, health, channelz, starting and stopping."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from selfheal.jobs.v1 import job_pb2, job_service_pb2

from jobkit.domain.errors import NotFound
from jobkit.rpc.details import from_rpc_error
from jobkit.rpc.server import RpcServer
from jobkit.rpc.trace import current_trace
from tests.integration.gateway_kit import BREAKERS, JOBS, component

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_reflection_lists_the_services_and_knows_their_files() -> None:
    async with component() as both:
        stub = reflection_pb2_grpc.ServerReflectionStub(both.channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=JOBS),
        ]
        listed, file = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
        names = {service.name for service in listed.list_services_response.service}
        assert names >= {JOBS, BREAKERS, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"}
        assert file.file_descriptor_response.file_descriptor_proto


async def test_health_flips_for_the_whole_and_for_each_service() -> None:
    async with component(max_in_flight=0) as both:  # probes are never shed
        health = health_pb2_grpc.HealthStub(both.channel)
        for serving in (False, True, False):
            await both.rpc.set_serving(serving)
            for name in ("", JOBS, BREAKERS):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == (SERVING if serving else NOT_SERVING)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_is_streamed_to_watchers() -> None:
    async with component() as both:
        watch = health_pb2_grpc.HealthStub(both.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        await both.rpc.set_serving(True)
        assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_channelz_knows_the_server() -> None:
    async with component() as both:
        stub = channelz_pb2_grpc.ChannelzStub(both.channel)
        answer = await stub.GetServers(channelz_pb2.GetServersRequest(start_server_id=0))
        assert any(server.listen_socket for server in answer.server)
        await both.stub.GetJob(job_service_pb2.GetJobRequest(job_id="1"))
        again = await stub.GetServers(channelz_pb2.GetServersRequest(start_server_id=0))
        assert sum(server.data.calls_started for server in again.server) >= 2


def add_stream(servicer: Any, server: grpc.aio.Server) -> None:
    handler = grpc.unary_stream_rpc_method_handler(servicer)  # raw bytes both ways
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Stream", {"Watch": handler}),)
    )


async def test_a_stream_that_fails_has_told_what_it_had_and_then_why() -> None:
    traces: list[str] = []

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for part in (b"one", b"two"):
            traces.append(current_trace().traceparent)
            yield part
        raise NotFound("job", "three")

    async with component() as both:
        server = RpcServer("127.0.0.1", 0, [(add_stream, watch, "test.Stream")], both.door)
        await server.start()
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = channel.unary_stream("/test.Stream/Watch")(b"", metadata=(("x-request-id", "r-1"),))
            assert [await call.read(), await call.read()] == [b"one", b"two"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            error = from_rpc_error(caught.value)
            assert (error.reason, error.metadata["name"]) == ("JOB_NOT_FOUND", "three")
            assert traces[0] == traces[1] != ""
            assert error.metadata["trace_id"] == traces[0][3:35]
            assert dict(await call.trailing_metadata())["x-request-id"] == "r-1"
        await server.stop()
    assert both.door.in_flight == 0


async def test_a_call_in_flight_is_given_its_grace() -> None:
    async with component() as both:
        waiting = asyncio.ensure_future(both.stub.WaitJob(job_service_pb2.WaitJobRequest(job_id="1")))
        await both.jobs.waiting.wait()
        stopping = asyncio.ensure_future(both.rpc.stop(grace=10))
        both.jobs.release.set()
        assert (await waiting).job == job_pb2.Job(job_id="1")
        await stopping
        assert both.rpc.port == 0


async def test_start_and_stop_come_in_any_order() -> None:
    async with component() as both:
        server = RpcServer("127.0.0.1", 0, [], both.door)
        await server.stop()
        await server.set_serving(True)  # remembered for the start
        for _ in range(2):
            await server.start()
            await server.start()
            async with grpc.aio.insecure_channel(server.address) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert answer.status == SERVING
            await server.stop(1)
            await server.stop()


async def test_a_taken_port_is_an_os_error() -> None:
    async with component() as both:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = RpcServer("127.0.0.1", taken.getsockname()[1], [], both.door)
            with pytest.raises(OSError, match="cannot listen"):
                await server.start()
            await server.stop()
