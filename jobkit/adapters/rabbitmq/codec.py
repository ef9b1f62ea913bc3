"""Tokens as AMQP messages: a protobuf body, and headers for whoever looks at the queue without a schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from google.protobuf.message import DecodeError
from selfheal.queue.v1.job_message_pb2 import JobMessage

from jobkit.adapters.rabbitmq import names
from jobkit.domain.job import NO_TRACE, Token, TraceContext
from jobkit.domain.lean import lean
from jobkit.ports import Dispatch

CONTENT_TYPE = "application/x-protobuf"


@lean
@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as it goes to the broker, always persistent. `label` begins its message id."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    content_type: str | None = CONTENT_TYPE


def encode(dispatch: Dispatch) -> Outgoing:
    """The message of a token. A delayed one goes to its rung's exchange and keeps its routing key, by which
    it is dead-lettered back to the queue of its type."""
    token = dispatch.token
    job_id = str(token.job_id)
    headers: dict[str, Any] = {
        names.JOB_ID: job_id,
        names.JOB_TYPE: token.job_type,
        names.ATTEMPT: token.attempt,
    }
    trace = token.trace
    if trace.traceparent:
        headers[names.TRACEPARENT] = trace.traceparent
    if trace.tracestate:
        headers[names.TRACESTATE] = trace.tracestate
    if trace.baggage:
        headers[names.BAGGAGE] = trace.baggage
    message = JobMessage(job_id=job_id, job_type=token.job_type, attempt=token.attempt)
    exchange = names.retry(dispatch.delay) if dispatch.delay else names.JOBS
    return Outgoing(exchange, token.job_type, message.SerializeToString(), headers, job_id)


def decode(
    body: bytes, headers: Mapping[str, Any] | None, content_type: str | None, job_type: str
) -> Token | None:
    """The token that a message from the queue of `job_type` carries; None when it is not one.

    A token of another type is none either: it would be claimed by a worker that has no handler for it.
    """
    if content_type and content_type != CONTENT_TYPE:
        return None
    try:
        message = JobMessage.FromString(body)
        job_id = UUID(message.job_id)
    except (DecodeError, ValueError):
        return None
    if message.job_type != job_type or message.attempt < 1:
        return None
    return Token(job_id, job_type, message.attempt, _trace(headers or {}))


def _trace(headers: Mapping[str, Any]) -> TraceContext:
    if names.TRACEPARENT not in headers:
        return NO_TRACE
    return TraceContext(
        text(headers[names.TRACEPARENT]),
        text(headers.get(names.TRACESTATE, "")),
        text(headers.get(names.BAGGAGE, "")),
    )


def text(value: object) -> str:
    """A header's value for people: clients of other languages send bytes, numbers and tables as well."""
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    return str(value)
