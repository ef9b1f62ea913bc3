"""The gRPC door: one interceptor that takes every call through `Door`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_status import rpc_status

from jobkit.rpc.door import CallFailed, Door
from jobkit.rpc.status import Unimplemented, to_status
from jobkit.rpc.trace import incoming_trace, sane_request_id, trace_id

if TYPE_CHECKING:  # only the stubs know these classes as generic
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

REQUEST_ID = "x-request-id"
INFRASTRUCTURE = "grpc."  # the packages of health, reflection and channelz


class DoorInterceptor(grpc.aio.ServerInterceptor):
    """Rich errors, trace context, request id, in-flight bound and metrics for calls of every shape."""

    def __init__(self, door: Door) -> None:
        self._door = door
        # A method's handler never changes while a server lives, and only methods that exist get here.
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        path = str(handler_call_details.method)
        known = self._wrapped.get(path)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            return _unknown_method(path)
        return self._wrapped.setdefault(path, self._wrap(path.lstrip("/"), handler))

    def _wrap(self, method: str, handler: Handler) -> Handler:
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(self._streaming(method, inner), *codecs)
        inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
        single = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return single(self._single(method, inner), *codecs)

    def _single(self, method: str, inner: Any) -> Callable[[Any, Context], Awaitable[Any]]:
        bounded = not method.startswith(INFRASTRUCTURE)

        async def behaviour(request: Any, context: Context) -> Any:
            metadata = _text_metadata(context)
            request_id = await _echo_request_id(context, metadata)
            try:
                with self._door.passing(method, incoming_trace(metadata), request_id, bounded=bounded):
                    answer = inner(request, context)
                    return await answer if inspect.isawaitable(answer) else answer
            except CallFailed as failed:
                await _abort(context, failed, request_id)

        return behaviour

    def _streaming(self, method: str, inner: Any) -> Callable[[Any, Context], AsyncIterator[Any]]:
        bounded = not method.startswith(INFRASTRUCTURE)

        async def behaviour(request: Any, context: Context) -> AsyncIterator[Any]:
            metadata = _text_metadata(context)
            request_id = await _echo_request_id(context, metadata)
            try:
                with self._door.passing(method, incoming_trace(metadata), request_id, bounded=bounded):
                    answer = inner(request, context)
                    if inspect.isawaitable(answer):  # this kind writes through the context
                        await answer
                        return
                    async for message in answer:
                        yield message
            except CallFailed as failed:
                await _abort(context, failed, request_id)

        return behaviour


def _text_metadata(context: Context) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in context.invocation_metadata() or ()]


async def _echo_request_id(context: Context, metadata: list[tuple[str, str | bytes]]) -> str:
    """The caller's request id, sent back at once and again with the end; "" where it gave none."""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and (request_id := sane_request_id(value)):
            context.set_trailing_metadata(((REQUEST_ID, request_id),))
            await context.send_initial_metadata(((REQUEST_ID, request_id),))
            return request_id
    return ""


async def _abort(context: Context, failed: CallFailed, request_id: str) -> None:
    rich = rpc_status.to_status(failed.status)
    trailing = tuple(rich.trailing_metadata) + (((REQUEST_ID, request_id),) if request_id else ())
    await context.abort(rich.code, rich.details, trailing)


def _unknown_method(path: str) -> Handler:
    """A refusal with details. It neither reads nor decodes, so it fits calls of every shape, and it is not
    counted: the name is the caller's invention."""

    async def refuse(requests: Any, context: Context) -> None:
        trace = trace_id(incoming_trace(_text_metadata(context)))
        rich = rpc_status.to_status(to_status(Unimplemented(path.lstrip("/")), trace))
        await context.abort(rich.code, rich.details, tuple(rich.trailing_metadata))

    return grpc.stream_stream_rpc_method_handler(refuse)
