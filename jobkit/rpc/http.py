"""The HTTP server of a component. Routes raise; the edge turns what they raise into the shim's answers, and
takes care of request ids, trace context, security headers and counting."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Sequence
from contextvars import ContextVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from jobkit.rpc import trace as tracing
from jobkit.rpc.address import host_port
from jobkit.rpc.metrics import RequestObserver
from jobkit.rpc.shim import error_response, failure_response, not_found_response, too_large_response

REQUEST_ID = "X-Request-ID"
_matched: ContextVar[str | None] = ContextVar("selfheal_matched_route", default=None)

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class HttpServer:
    """Serves `app` on `bind`:`port`; add routes to `app.router` before the first start.

    Start and stop may be repeated and come in any order; a stopped server can be started again.
    """

    def __init__(
        self,
        bind: str,
        port: int,
        observer: RequestObserver,
        middlewares: Sequence[Middleware] = (),
    ) -> None:
        self._bind = bind
        self._wanted_port = port
        self._observer = observer
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._stopping = False
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._changing = asyncio.Lock()
        # Bodies are bounded by `shim.read_body`; this bound is only for handlers that read in aiohttp's way.
        self.app = web.Application(middlewares=[self._edge(), *middlewares], client_max_size=1024 * 1024)
        self.app.on_response_prepare.append(_add_headers)

    @property
    def port(self) -> int:
        """The bound port; 0 while stopped."""
        return self._port

    @property
    def url(self) -> str:
        """The root without a slash, for clients on this host."""
        return f"http://{host_port(self._bind, self._port)}"

    async def start(self) -> None:
        """Bind and serve. Raises OSError when the address is taken."""
        async with self._changing:
            if self._runner is not None:
                return
            # A caller that goes away cancels its handler, as it does over gRPC: nobody waits for the answer.
            runner = web.AppRunner(self.app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, self._bind, self._wanted_port, reuse_address=True)
            try:
                await site.start()
            except OSError:
                await runner.cleanup()
                raise
            self._stopping = False
            self._runner, self._port = runner, runner.addresses[0][1]

    async def stop(self, grace: float = 0.0) -> None:
        """Close the listener, give requests in flight `grace` seconds, then cancel them."""
        async with self._changing:
            runner, self._runner = self._runner, None
            if runner is None:
                return
            self._stopping = True
            for site in runner.sites:
                await site.stop()
            with contextlib.suppress(TimeoutError):  # cleanup cancels what is left
                await asyncio.wait_for(self._idle.wait(), grace)
            await runner.cleanup()
            self._port = 0

    def _edge(self) -> Middleware:
        @web.middleware
        async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
            began = time.perf_counter()
            headers = [(name.lower(), value) for name, value in request.headers.items()]
            request_id = tracing.sane_request_id(request.headers.get(REQUEST_ID, "")) or uuid.uuid4().hex
            tracing.enter(tracing.incoming_trace(headers), request_id)
            status = 499  # the caller went away: there is no answer to take the status from
            _matched.set(None)
            self._enter()
            try:
                response = await _answer(request, handler)
                status = response.status
                if self._stopping:
                    response.force_close()
                return response
            finally:
                self._leave()
                self._observer.answered(request.method, _route(request), status, time.perf_counter() - began)

        return edge

    def _enter(self) -> None:
        self._busy += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._idle.set()


def name_route(template: str) -> None:
    """For a handler behind a catch-all: say what the current request matched ("" for nothing), for the metrics."""
    _matched.set(template)


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return too_large_response()
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return not_found_response(request.method, request.rel_url.raw_path)
    except web.HTTPError as error:
        return error_response(error.status, error.reason)
    except web.HTTPException:  # redirects and successes, which aiohttp lets handlers raise
        raise
    except Exception as error:
        return failure_response(error)


def _route(request: web.Request) -> str:
    """The matched template; "" where nothing matched, so that callers cannot invent label values."""
    named = _matched.get()
    if named is not None:
        return named
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _SECURITY.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "selfheal"
    response.headers.setdefault(REQUEST_ID, tracing.current_request_id())
