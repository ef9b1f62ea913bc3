"""A server's stream over HTTP: lines of JSON, errors before and within, readers that go away or do not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from openapi_spec_validator import validate

from jobkit.rpc import stream
from tests.integration.gateway_kit import Component, component

WATCH = "/v1/breakers:watch"


@pytest.fixture
async def both() -> AsyncIterator[Component]:
    async with component() as started:
        yield started


@pytest.fixture
async def web(both: Component) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(both.http.url) as session:
        yield session


async def test_each_message_is_a_line(both: Component, web: aiohttp.ClientSession) -> None:
    async with web.get(f"{WATCH}?revision=3") as response:
        assert (response.status, response.content_type) == (200, stream.LINES)
        assert response.headers["Cache-Control"] == "no-store"
        lines = (await response.read()).splitlines()
    assert [json.loads(line)["revision"] for line in lines] == ["1", "2", "3"]
    labels = {
        "rpc_method": "selfheal.control.v1.BreakerService/WatchBreakers",
        "rpc_response_status_code": "OK",
    }
    assert both.registry.get_sample_value("rpc_server_call_duration_seconds_count", labels) == 1


async def test_an_empty_stream_is_an_empty_answer(web: aiohttp.ClientSession) -> None:
    async with web.get(WATCH) as response:
        assert (response.status, response.content_type, await response.read()) == (200, stream.LINES, b"")


async def test_an_error_before_the_first_message_is_told_in_the_status(web: aiohttp.ClientSession) -> None:
    async with web.get(f"{WATCH}?breaker=missing") as response:
        assert response.status == 404
        assert (await response.json())["error"]["status"] == "NOT_FOUND"
    async with web.get(f"{WATCH}?bogus=1") as response:
        assert response.status == 400


@pytest.mark.parametrize(("name", "code"), [("away", "UNAVAILABLE"), ("bug", "INTERNAL")])
async def test_an_error_within_is_the_last_line(web: aiohttp.ClientSession, name: str, code: str) -> None:
    async with web.get(f"{WATCH}?breaker={name}&revision=2") as response:
        assert response.status == 200
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
    assert [line.get("revision") for line in lines] == ["1", "2", None]
    assert lines[-1]["error"]["status"] == code
    assert "secret" not in json.dumps(lines)


async def test_asking_for_the_headers_alone_opens_no_stream(
    both: Component, web: aiohttp.ClientSession
) -> None:
    async with web.head(f"{WATCH}?revision=3&breaker=endless") as response:
        assert (response.status, response.content_type) == (200, stream.LINES)
    assert both.breakers.watched == 0


async def test_a_reader_that_goes_away_ends_the_stream(both: Component, web: aiohttp.ClientSession) -> None:
    async with web.get(f"{WATCH}?revision=1&breaker=endless") as response:
        await response.content.readline()
        assert both.door.in_flight == 1
        response.close()
    await asyncio.wait_for(both.breakers.ended.wait(), 5)
    async with asyncio.timeout(5):
        while both.door.in_flight:
            await asyncio.sleep(0.01)


async def test_a_reader_that_does_not_read_costs_little_and_is_cut_off(
    both: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing piles up for it: the next message is made when the one before is on its way."""
    monkeypatch.setattr(stream.Lines.__init__, "__defaults__", (0.5,))
    reader, writer = await asyncio.open_connection("127.0.0.1", both.http.port)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(f"GET {WATCH}?revision=100000&breaker=100000 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await asyncio.wait_for(both.breakers.ended.wait(), 20)
    assert both.breakers.watched < 1000
    writer.transport.abort()


async def test_a_grpc_reader_that_does_not_read_costs_little(both: Component) -> None:
    from selfheal.control.v1 import breaker_service_pb2, breaker_service_pb2_grpc  # noqa: PLC0415

    stub = breaker_service_pb2_grpc.BreakerServiceStub(both.channel)
    call = stub.WatchBreakers(breaker_service_pb2.WatchBreakersRequest(breaker="100000", revision=100_000))
    await call.read()
    await asyncio.sleep(0.5)
    some = both.breakers.watched
    await asyncio.sleep(0.5)
    assert some == both.breakers.watched < 1000
    call.cancel()
    await asyncio.wait_for(both.breakers.ended.wait(), 5)


async def test_the_description_says_that_it_is_lines(web: aiohttp.ClientSession) -> None:
    async with web.get("/openapi.json") as response:
        document = await response.json()
    validate(document)
    content = document["paths"][WATCH]["get"]["responses"]["200"]["content"]
    assert list(content) == [stream.LINES]
