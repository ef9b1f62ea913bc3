"""The REST door: `/v1/…`, transcoded from the `google.api.http` options and served by the same servicers, in
process. Errors are `{"error": {"code", "message", "status", "details"}}`. A server's stream is sent as lines of JSON,
as they come."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Any

import grpc
import orjson
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from jobkit.domain.errors import NotFound
from jobkit.rpc.binding import Binding, read_bindings
from jobkit.rpc.door import CallFailed, Door
from jobkit.rpc.http import name_route
from jobkit.rpc.shim import read_body, retry_headers
from jobkit.rpc.status import WrongMethod
from jobkit.rpc.stream import LINES, Lines, ReaderGone
from jobkit.rpc.trace import current_request_id, current_trace, trace_id
from jobkit.rpc.transcode import read_request, write_response

MAX_BODY = 8 * 1024 * 1024  # as large as a gRPC request may be
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class RestContext:
    """What servicers use of grpc's context, for a call that came over HTTP."""

    def __init__(self, request: web.Request) -> None:
        self._request = request

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The HTTP headers, names in lower case."""
        return tuple((name.lower(), value) for name, value in self._request.headers.items())

    def time_remaining(self) -> float | None:
        """None: HTTP carries no deadline."""
        return None

    def set_code(self, code: grpc.StatusCode) -> None:
        """Called by generated code before it raises NotImplementedError, which says the same."""

    def set_details(self, details: str) -> None:
        """As `set_code`."""


def mount(
    app: web.Application, services: Sequence[tuple[Any, Any, str]], door: Door, max_body: int = MAX_BODY
) -> None:
    """Serve the bindings of `services` (add function, servicer, `package.Service`) on `app`.

    Takes the first segments of their paths (`/v1`) for itself, so that unknown paths below are answered in this
    door's shape. Raises what `read_bindings` raises.
    """
    gateway = _Gateway(read_bindings(services), door, max_body)
    for root in sorted({binding.template.text.split("/")[1] for binding in gateway.bindings}):
        app.router.add_route("*", f"/{root}/{{path:.*}}", gateway.handle)


class _Gateway:
    def __init__(self, bindings: list[Binding], door: Door, max_body: int) -> None:
        self.bindings = bindings
        self._door = door
        self._max_body = max_body

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            binding, path = self._find(request)
        except Exception as error:
            name_route("")
            failed = CallFailed(error, trace_id(current_trace()))
            return _error_response(failed)
        name_route(binding.template.text)
        lines = Lines(request)
        try:
            with self._door.passing(binding.full_name, current_trace(), current_request_id()):
                if binding.rpc.server_streaming:
                    return await self._stream(request, binding, path, lines)
                return await self._call(request, binding, path)
        except CallFailed as failed:
            if lines.begun:  # the status has been told: what went wrong is the last line
                return await lines.end(orjson.dumps(error_body(failed.status, failed.http)))
            return _error_response(failed)

    async def _stream(
        self, request: web.Request, binding: Binding, path: dict[str, str], lines: Lines
    ) -> web.StreamResponse:
        message = await self._read(request, binding, path)
        if request.method == "HEAD":
            return web.Response(content_type=LINES)
        answers = getattr(binding.servicer, binding.rpc.name)(message, RestContext(request))
        async with aclosing(answers):
            with suppress(ReaderGone):
                async for answer in answers:
                    await lines.send(write_response(answer, binding.response_body))
        return await lines.end()

    async def _read(self, request: web.Request, binding: Binding, path: dict[str, str]) -> Message:
        body = await read_body(request, self._max_body)
        return read_request(binding, path, list(request.rel_url.query.items()), body)

    async def _call(self, request: web.Request, binding: Binding, path: dict[str, str]) -> web.Response:
        message = await self._read(request, binding, path)
        answer = await getattr(binding.servicer, binding.rpc.name)(message, RestContext(request))
        return web.Response(
            body=write_response(answer, binding.response_body), content_type="application/json"
        )

    def _find(self, request: web.Request) -> tuple[Binding, dict[str, str]]:
        """Raises NotFound, or WrongMethod when only other methods have this path."""
        raw = request.rel_url.raw_path
        wanted = "GET" if request.method == "HEAD" else request.method
        allowed: set[str] = set()
        for binding in self.bindings:
            try:
                path = binding.template.match(raw)
            except UnicodeDecodeError:
                continue
            if path is None:
                continue
            if binding.http_method == wanted:
                return binding, path
            allowed.add(binding.http_method)
        if allowed:
            raise WrongMethod(f"{request.method} {raw}", ", ".join(sorted(allowed)))
        raise NotFound("path", raw)


def error_body(status: Status, http: int) -> dict[str, Any]:
    """The JSON of a canonical error; `details` as protobuf's JSON mapping has them, with their `@type`."""
    return {
        "error": {
            "code": http,
            "message": status.message,
            "status": _CODE_NAMES.get(status.code, "UNKNOWN"),
            "details": MessageToDict(status).get("details", []),
        }
    }


def _error_response(failed: CallFailed) -> web.Response:
    headers = retry_headers(failed.cause)
    if isinstance(failed.cause, WrongMethod):
        headers["Allow"] = failed.cause.allowed
    response = web.Response(
        body=orjson.dumps(error_body(failed.status, failed.http)),
        status=failed.http,
        headers=headers,
        content_type="application/json",
    )
    if failed.http == 413:
        response.force_close()  # some of the body may still be on its way
    return response
