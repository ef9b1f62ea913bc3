"""The HTTP server under the shim routes: errors byte for byte, bodies, headers, probes, starting and stopping."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from jobkit.domain import errors
from jobkit.domain.errors import FieldViolation
from jobkit.rpc.http import HttpServer
from jobkit.rpc.metrics import RpcMetrics
from jobkit.rpc.probes import Health, add_health, add_metrics, prometheus_response, wants_prometheus
from jobkit.rpc.shim import ShimError, json_response, read_json
from jobkit.rpc.trace import current_trace

LIMIT = 1000
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RAISED: dict[str, Exception] = {
    "invalid": errors.InvalidJob(
        [FieldViolation("job_type", "should not be empty"), FieldViolation("payload", "must be an object")]
    ),
    "unknown": errors.InvalidJob([FieldViolation("x", "should not exist")], reason="UNKNOWN_FIELD"),
    "breaker": ShimError(404, "Circuit breaker for jobType 'x' not found"),
    "job": errors.NotFound("job", "x"),
    "large": errors.InvalidJob([FieldViolation("payload", "is too large")], reason="PAYLOAD_TOO_LARGE"),
    "away": errors.Unavailable("away", reason="DATABASE_UNAVAILABLE", retry_after=timedelta(seconds=0.2)),
    "many": errors.Exhausted("too many", reason="TOO_MANY_JOB_TYPES", retry_after=timedelta(minutes=1)),
    "bug": RuntimeError("secret"),
    "aiohttp": web.HTTPUnsupportedMediaType(),
}
ANSWERS = {
    "invalid": (400, b'{"statusCode":400,"message":["jobType should not be empty","payload must be an object"],'
                     b'"error":"Bad Request"}'),
    "unknown": (400, b'{"statusCode":400,"message":["property x should not exist"],"error":"Bad Request"}'),
    "breaker": (404, b'{"statusCode":404,"message":"Circuit breaker for jobType \'x\' not found",'
                     b'"error":"Not Found"}'),
    "job": (404, b'{"statusCode":404,"message":"job \'x\' not found","error":"Not Found"}'),
    "large": (413, b'{"statusCode":413,"message":"request entity too large","error":"Payload Too Large"}'),
    "away": (503, b'{"statusCode":503,"message":"away","error":"Service Unavailable"}'),
    "many": (429, b'{"statusCode":429,"message":"too many","error":"Too Many Requests"}'),
    "bug": (500, b'{"statusCode":500,"message":"Internal server error","error":"Internal Server Error"}'),
    "aiohttp": (415, b'{"statusCode":415,"message":"Unsupported Media Type","error":"Unsupported Media Type"}'),
}  # fmt: skip


class Site:
    """A server with one route of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.server = HttpServer("127.0.0.1", 0, RpcMetrics(self.registry))
        self.health = Health(ok=True, info={"api": True, "redis": False})
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        router = self.server.app.router
        router.add_post("/echo", self.echo)
        router.add_get("/raise/{name}", self.fail)
        router.add_get("/wait", self.wait)
        add_health(self.server.app, lambda: self.health)
        add_metrics(self.server.app, self.registry)

    async def echo(self, request: web.Request) -> web.Response:
        return json_response({"got": await read_json(request, LIMIT), "trace": current_trace().traceparent})

    async def fail(self, request: web.Request) -> web.Response:
        raise RAISED[request.match_info["name"]]

    async def wait(self, request: web.Request) -> web.Response:
        self.entered.set()
        await self.release.wait()
        return json_response("done")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.server.start()
    yield site
    await site.server.stop()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(site.server.url) as session:
        yield session


async def fetch(
    client: aiohttp.ClientSession, method: str, path: str, **options: Any
) -> tuple[int, bytes, Any]:
    async with client.request(method, path, **options) as response:
        return response.status, await response.read(), response.headers


@pytest.mark.parametrize("name", RAISED)
async def test_errors_byte_for_byte(client: aiohttp.ClientSession, name: str) -> None:
    status, body, headers = await fetch(client, "GET", f"/raise/{name}")
    assert (status, body) == ANSWERS[name]
    assert headers["Content-Type"] == "application/json"
    assert headers.get("Retry-After") == {"away": "1", "many": "60"}.get(name)


async def test_an_internal_error_is_logged_once_with_its_traceback(
    client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    RAISED["bug"] = RuntimeError("secret")
    with caplog.at_level(logging.ERROR):
        await fetch(client, "GET", "/raise/bug", headers={"traceparent": TRACEPARENT})
    [record] = caplog.records
    assert record.exc_info is not None
    assert TRACEPARENT[3:35] in record.getMessage()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/x"), ("POST", "/nothing/here"), ("DELETE", "/echo"), ("GET", "/echo")]
)
async def test_unknown_paths_and_wrong_methods(client: aiohttp.ClientSession, method: str, path: str) -> None:
    status, body, _ = await fetch(client, method, path)
    assert status == 404
    assert body == f'{{"message":"Cannot {method} {path}","error":"Not Found","statusCode":404}}'.encode()


async def test_json_is_read_whatever_its_content_type(client: aiohttp.ClientSession) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"):
        status, body, _ = await fetch(
            client, "POST", "/echo", data=b'{"a": 1}', headers={"Content-Type": kind}
        )
        assert status == 200
        assert body.startswith(b'{"got":{"a":1}')
    status, body, _ = await fetch(client, "POST", "/echo")
    assert (status, body[:9]) == (200, b'{"got":{}')


async def test_malformed_json_is_400_with_a_text(client: aiohttp.ClientSession) -> None:
    status, body, _ = await fetch(client, "POST", "/echo", data=b'{"a": ')
    assert status == 400
    assert body.startswith(b'{"statusCode":400,"message":"malformed JSON: ')
    assert body.endswith(b'","error":"Bad Request"}')


async def test_a_number_that_cannot_be_kept_is_refused_by_path(client: aiohttp.ClientSession) -> None:
    _, body, _ = await fetch(client, "POST", "/echo", data=b'{"payload": {"a": [1, 2, 9007199254740993]}}')
    assert body == (
        '{"statusCode":400,"message":["payload.a[2] must be an integer within ±2^53"],"error":"Bad Request"}'.encode()
    )


@pytest.mark.parametrize("size", [LIMIT + 1, 100_000, 900_000, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_a_readable_413(site: Site, size: int, chunked: bool) -> None:
    """By a client that, as most do, sends all of its body before it reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    body = b" " * size
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body) if chunked else body
    writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n" + sent)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(ANSWERS["large"][1])


async def test_a_compressed_body_is_measured_unpacked(client: aiohttp.ClientSession) -> None:
    status, body, _ = await fetch(client, "POST", "/echo", data=b" " * 500_000, compress="gzip")
    assert (status, body) == ANSWERS["large"]


async def test_ids_trace_and_security_headers(client: aiohttp.ClientSession) -> None:
    given = {"X-Request-ID": "mine-1", "traceparent": TRACEPARENT}
    _, body, headers = await fetch(client, "POST", "/echo", headers=given)
    assert headers["X-Request-ID"] == "mine-1"
    assert TRACEPARENT.encode() in body
    _, body, headers = await fetch(
        client, "GET", "/x", headers={"X-Request-ID": "not sane", "traceparent": "x"}
    )
    assert len(headers["X-Request-ID"]) == 32
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Server"] == "selfheal"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    _, other, _ = await fetch(client, "POST", "/echo")  # on the same connection: nothing is left over
    assert TRACEPARENT.encode() not in other


async def test_health_and_its_aliases(site: Site, client: aiohttp.ClientSession) -> None:
    ready = ("/health", "/health/ready", "/health/readiness", "/readiness")
    up = b'{"status":"ok","info":{"api":{"status":"up"},"redis":{"status":"down"}}}'
    for path in ready:
        assert (await fetch(client, "GET", path))[:2] == (200, up)
    site.health = Health(ok=False, info={"api": True, "database": False})
    down = b'{"status":"error","info":{"api":{"status":"up"},"database":{"status":"down"}}}'
    for path in ready:
        assert (await fetch(client, "GET", path))[:2] == (503, down)
    for path in ("/health/live", "/health/liveness"):
        assert (await fetch(client, "GET", path))[:2] == (200, b'{"status":"ok","info":{}}')


async def test_metrics_are_prometheus_text(client: aiohttp.ClientSession) -> None:
    await fetch(client, "GET", "/made/up")
    await fetch(client, "GET", "/raise/job")
    status, body, headers = await fetch(client, "GET", "/metrics")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert b'http_route="/raise/{name}"' in body
    assert b"made" not in body
    _, body, headers = await fetch(
        client, "GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}
    )
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("text/plain;q=0, */*", False),
        ("text/plain", True),
        ("application/json, Text/Plain; version=0.0.4", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1", True),
    ],
)
def test_who_wants_prometheus(accept: str, wanted: bool) -> None:
    assert wants_prometheus(accept) is wanted


def test_a_registry_is_rendered_in_the_classic_format_by_default() -> None:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    response = prometheus_response(registry, "")
    assert isinstance(response.body, bytes)
    assert b"things_total 1.0" in response.body


async def test_start_and_stop_come_in_any_order() -> None:
    server = Site().server
    await server.stop()
    for _ in range(2):
        await server.start()
        port = server.port
        await server.start()
        assert server.port == port
        async with aiohttp.ClientSession(server.url) as client:
            assert (await fetch(client, "GET", "/health"))[0] == 200
        await server.stop()
        await server.stop()
        assert server.port == 0


async def test_a_request_in_flight_is_given_its_grace_and_no_more(
    site: Site, client: aiohttp.ClientSession
) -> None:
    waiting = asyncio.ensure_future(fetch(client, "GET", "/wait"))
    await site.entered.wait()
    stopping = asyncio.ensure_future(site.server.stop(grace=10))
    await asyncio.sleep(0)
    site.release.set()
    assert (await waiting)[:2] == (200, b'"done"')
    await asyncio.wait_for(stopping, 5)
    site.entered.clear()
    site.release.clear()
    await site.server.start()
    async with aiohttp.ClientSession(site.server.url) as other:
        waiting = asyncio.ensure_future(fetch(other, "GET", "/wait"))
        await site.entered.wait()
        await asyncio.wait_for(site.server.stop(grace=0.05), 5)
        with pytest.raises(aiohttp.ClientError):
            await waiting


async def test_a_taken_port_is_an_os_error(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = HttpServer("127.0.0.1", taken.getsockname()[1], RpcMetrics(CollectorRegistry()))
        with pytest.raises(OSError, match="address"):
            await server.start()
        await server.stop()
