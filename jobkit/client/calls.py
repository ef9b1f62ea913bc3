"""One unary call to a server: its deadline, its trace context, and when it is worth trying again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from jobkit.client.errors import Exhausted, JobClientError, Unavailable, from_call

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
OPTIONS: Sequence[tuple[str, int]] = (
    # While a channel backs off, every call on it fails at once. The default goes up to two minutes, which
    # would outlast our own patience and keep us away from a server that is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A page of 1,000 jobs with large payloads passes the default of 4 MB; the server bounds its own answers.
    ("grpc.max_receive_message_length", -1),
)

_TRACE = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()


def open_channel(target: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """A channel to `target`, plaintext without credentials; belongs to the running loop."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=OPTIONS)
    return grpc.aio.secure_channel(target, credentials, options=OPTIONS)


def pause_before_retry(error: JobClientError, failures: int, fraction: float) -> float | None:
    """Seconds to wait after the `failures`-th failure (from 1), or None when the answer is final.

    `fraction` in [0, 1) is the jitter's random draw. Never earlier than the server asked for.
    """
    if not isinstance(error, Unavailable | Exhausted):
        return None
    if error.reason == "BREAKER_OPEN":  # the caller chose to be refused: the refusal is its answer
        return None
    if isinstance(error, Exhausted) and error.retry_after is None:  # gRPC's own: too large a message stays so
        return None
    plain: float = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE)
    asked = error.retry_after.total_seconds() if error.retry_after else 0.0
    return max(plain * (0.5 + fraction / 2), asked * (1 + fraction / 5))


class Caller:
    """Calls with a deadline. `timeout` bounds a call with all its repetitions, `patience` how long after its
    first failure one is still begun; both in seconds."""

    def __init__(
        self, *, timeout: float, patience: float | None = None, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._timeout = timeout
        self._patience = timeout if patience is None else patience
        self._metadata = tuple(metadata)

    async def __call__(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        repeatable: bool = True,
    ) -> Response:
        """The answer, or a JobClientError. What is not `repeatable` is tried again only where the server
        itself said that it did nothing and when to come back (RetryInfo)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        give_up = deadline
        for failures in count(1):
            try:
                left = max(deadline - loop.time(), 0.001)
                return await method(request, timeout=left, metadata=self._headers())
            except grpc.aio.AioRpcError as failure:
                error = from_call(failure)
            if failures == 1:
                give_up = min(deadline, loop.time() + self._patience)
            pause = pause_before_retry(error, failures, random.random())  # noqa: S311 - jitter
            final = pause is None or not (repeatable or error.retry_after)
            if pause is None or final or loop.time() + pause >= give_up:
                raise error
            await asyncio.sleep(pause)
        raise AssertionError("count() ended")

    def _headers(self) -> tuple[tuple[str, str], ...]:
        """Our metadata and, where a span is current, its W3C trace context."""
        return (*self._metadata, *_carried().items())


async def pages(
    call: Caller, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request
) -> AsyncIterator[Response]:
    """The pages of a list. `request` is moved from page to page: what is changed in it between two of them is
    asked of the next one."""
    moving: Any = request
    while True:
        page: Any = await call(method, request)
        yield page
        moving.page_token = page.next_page_token
        if not moving.page_token:
            return


def traced() -> bool:
    """Whether a call that is made now carries a trace, or baggage."""
    return bool(_carried())


def _carried() -> dict[str, str]:
    carrier: dict[str, str] = {}
    _TRACE.inject(carrier)
    _BAGGAGE.inject(carrier)
    return carrier
