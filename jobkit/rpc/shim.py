"""Errors and bodies of the shim routes: `{"statusCode", "message", "error"}`, as the contract spells them."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import StreamReader, web

from jobkit.domain.errors import FieldViolation, InvalidJob, Refused
from jobkit.rpc.door import CallFailed
from jobkit.rpc.fields import SHOULD_NOT_EXIST
from jobkit.rpc.status import UNKNOWN, codes, to_status
from jobkit.rpc.strict_json import MalformedJson, decode, find_unsafe
from jobkit.rpc.trace import current_trace, trace_id

DRAIN = 1024 * 1024
_DRAIN_SECONDS = 5.0

# Python renames these phrases from release to release.
_PHRASES = {413: "Payload Too Large", 422: "Unprocessable Entity"}
_SNAKE = re.compile(r"_([a-z0-9])")


class ShimError(Exception):
    """An answer chosen by a shim route: a status and a message, or one message for each mistake."""

    def __init__(self, status: int, message: str | Sequence[str]) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if isinstance(message, str) else list(message)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`value` as compact UTF-8 JSON."""
    return web.Response(
        body=orjson.dumps(value), status=status, headers=headers, content_type="application/json"
    )


def error_response(status: int, message: str | list[str]) -> web.Response:
    """The body of every shim error but the unknown path."""
    phrase = _PHRASES.get(status) or HTTPStatus(status).phrase
    return json_response({"statusCode": status, "message": message, "error": phrase}, status)


def not_found_response(method: str, path: str) -> web.Response:
    """For unknown paths, and for known ones with the wrong method; the keys in this order."""
    body = {"message": f"Cannot {method} {path}", "error": "Not Found", "statusCode": 404}
    return json_response(body, 404)


def too_large_response() -> web.Response:
    """The 413; it ends the connection, because some of the body may still be on its way."""
    response = error_response(413, "request entity too large")
    response.force_close()
    return response


def failure_response(error: Exception) -> web.Response:
    """The shim's answer to whatever a route raised, by the one table of codes. Unknown errors are logged here."""
    if isinstance(error, ShimError):
        return error_response(error.status, error.message)
    cause = error.cause if isinstance(error, CallFailed) else error
    found = codes(cause)
    if found.grpc is UNKNOWN.grpc:
        to_status(cause, trace_id(current_trace()))
        return error_response(500, "Internal server error")
    if found.http == 413:
        return too_large_response()
    if isinstance(cause, InvalidJob):
        return error_response(found.http, [violation_text(v) for v in cause.violations])
    response = error_response(found.http, str(cause))
    response.headers.update(retry_headers(cause))
    return response


def retry_headers(error: Exception) -> dict[str, str]:
    """`Retry-After` in whole seconds, at least 1, for errors that invite a retry."""
    if not isinstance(error, Refused):
        return {}
    return {"Retry-After": str(max(1, math.ceil(error.retry_after.total_seconds())))}


def violation_text(violation: FieldViolation) -> str:
    """One mistake as the shim words it: "jobType should not be empty", "property x should not exist"."""
    if violation.message == SHOULD_NOT_EXIST:
        return f"property {violation.path} {SHOULD_NOT_EXIST}"
    path = _SNAKE.sub(lambda match: match[1].upper(), violation.path)
    return f"{path} {violation.message}".strip()


# -- bodies ------------------------------------------------------------------------------------------------------


async def read_body(request: web.Request, limit: int) -> bytes:
    """The body, at most `limit` bytes after decompression. Raises InvalidJob, reason PAYLOAD_TOO_LARGE, after
    taking in up to `DRAIN` more: a client that is still sending would see a reset instead of the answer."""
    if (request.content_length or 0) > limit:
        await _drain(request.content)
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            await _drain(request.content)
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json(request: web.Request, limit: int) -> Any:
    """The body as JSON, whatever its Content-Type; an empty one is `{}`. Raises ShimError 400 for malformed
    JSON, InvalidJob for a value that the system refuses (with its path) and for a body over `limit` bytes."""
    data = await read_body(request, limit)
    try:
        value = decode(data) if data.strip() else {}
    except MalformedJson as error:
        raise ShimError(400, str(error)) from None
    if (unsafe := find_unsafe(value)) is not None:
        raise InvalidJob([FieldViolation(unsafe.path, unsafe.message)])
    return value


async def _drain(content: StreamReader) -> None:
    taken = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in content.iter_any():
                taken += len(chunk)
                if taken >= DRAIN:
                    return
    except TimeoutError:
        return


def _too_large(limit: int) -> InvalidJob:
    violation = FieldViolation("body", f"must not be larger than {limit} bytes")
    return InvalidJob([violation], reason="PAYLOAD_TOO_LARGE")
