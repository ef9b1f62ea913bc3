"""The gRPC door: every handler wrapped, so that every call goes through `Door`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc_status import rpc_status

from jobkit.rpc.door import CallFailed, Door
from jobkit.rpc.status import Unimplemented, to_status
from jobkit.rpc.trace import incoming_trace, sane_request_id, trace_id

if TYPE_CHECKING:  # only the stubs know these classes as generic
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
    Metadata = Iterable[tuple[str, str | bytes]]

REQUEST_ID = "x-request-id"
INFRASTRUCTURE = "grpc."  # the packages of health, reflection and channelz
# By whether the request and the response are streams.
_SHAPES: Mapping[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class DoorHandlers(grpc.GenericRpcHandler):
    """Rich errors, trace context, request id, in-flight bound and metrics for calls of every shape.

    To the generated `add_XServicer_to_server` it is the server, and to the server it is the one handler of all
    methods. A server takes calls of each *registered* method by a task of its own, and looks at all of these tasks
    for every call, and an interceptor is two coroutines more: so nothing is registered, and what an interceptor would
    do for each call is done once for each method.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._added: list[grpc.GenericRpcHandler] = []
        # Methods are bounded: only those that exist get in.
        self._wrapped: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """What generated code does with a server."""
        self._added.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """The same handlers once more, for servers that look them up by name."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a call; one that refuses it where there is no such method."""
        path = str(handler_call_details.method)
        known = self._wrapped.get(path)
        if known is not None:
            return known
        for added in self._added:
            handler = added.service(handler_call_details)
            if handler is not None:
                return self._wrapped.setdefault(path, self._wrap(path.lstrip("/"), handler))
        return _unknown_method(path)

    def _wrap(self, method: str, handler: Handler) -> Handler:
        wrapped = self._streaming if handler.response_streaming else self._single
        shape, make = _SHAPES[handler.request_streaming, handler.response_streaming]
        behaviour = wrapped(method, getattr(handler, shape))
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _single(self, method: str, inner: Any) -> Callable[[Any, Context], Awaitable[Any]]:
        bounded = not method.startswith(INFRASTRUCTURE)
        awaited = inspect.iscoroutinefunction(inner)

        async def behaviour(request: Any, context: Context) -> Any:
            metadata = context.invocation_metadata() or ()
            if request_id := _request_id(metadata):
                await _echo(context, request_id)
            try:
                with self._door.passing(method, incoming_trace(metadata), request_id, bounded=bounded):
                    answer = inner(request, context)
                    return await answer if awaited else answer
            except CallFailed as failed:
                await _abort(context, failed, request_id)

        return behaviour

    def _streaming(self, method: str, inner: Any) -> Callable[[Any, Context], AsyncIterator[Any]]:
        bounded = not method.startswith(INFRASTRUCTURE)

        async def behaviour(request: Any, context: Context) -> AsyncIterator[Any]:
            metadata = context.invocation_metadata() or ()
            if request_id := _request_id(metadata):
                await _echo(context, request_id)
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


def _request_id(metadata: Metadata) -> str:
    """The caller's; "" where it gave none."""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and (request_id := sane_request_id(value)):
            return request_id
    return ""


async def _echo(context: Context, request_id: str) -> None:
    """At once, and again with the end."""
    context.set_trailing_metadata(((REQUEST_ID, request_id),))
    await context.send_initial_metadata(((REQUEST_ID, request_id),))


async def _abort(context: Context, failed: CallFailed, request_id: str) -> None:
    rich = rpc_status.to_status(failed.status)
    trailing = tuple(rich.trailing_metadata) + (((REQUEST_ID, request_id),) if request_id else ())
    await context.abort(rich.code, rich.details, trailing)


def _unknown_method(path: str) -> Handler:
    """A refusal with details. It neither reads nor decodes, so it fits calls of every shape, and it is not
    counted: the name is the caller's invention."""

    async def refuse(requests: Any, context: Context) -> None:
        trace = trace_id(incoming_trace(context.invocation_metadata() or ()))
        rich = rpc_status.to_status(to_status(Unimplemented(path.lstrip("/")), trace))
        await context.abort(rich.code, rich.details, tuple(rich.trailing_metadata))

    return grpc.stream_stream_rpc_method_handler(refuse)
