"""Routes that every component has: health for load balancers, metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from jobkit.rpc.shim import json_response

READY_PATHS = ("/health", "/health/ready", "/health/readiness", "/readiness")
LIVE_PATHS = ("/health/live", "/health/liveness")
_PROMETHEUS = frozenset({"text/plain", "application/openmetrics-text"})


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the component can do its work, and which of its dependencies are up: one may be down while it can.
    In place of False, `info` may say why."""

    ok: bool
    info: Mapping[str, bool | str] = field(default_factory=dict)


Check = Callable[[], Health | Awaitable[Health]]


def health_body(health: Health) -> dict[str, Any]:
    """The JSON of `/health`."""
    info = {name: _one(up) for name, up in health.info.items()}
    return {"status": "ok" if health.ok else "error", "info": info}


def _one(up: bool | str) -> dict[str, str]:
    """A string says why it is down."""
    if isinstance(up, str):
        return {"status": "down", "message": up}
    return {"status": "up" if up else "down"}


def add_health(app: web.Application, check: Check) -> None:
    """`/health` and its aliases: 200 or 503 by `check`. The live ones ask nothing: restarting a process does not
    bring back its database."""

    async def ready(request: web.Request) -> web.Response:
        answer = check()
        health = answer if isinstance(answer, Health) else await answer
        return json_response(health_body(health), 200 if health.ok else 503)

    async def live(request: web.Request) -> web.Response:
        return json_response(health_body(Health(ok=True)))

    for path in READY_PATHS:
        app.router.add_get(path, ready)
    for path in LIVE_PATHS:
        app.router.add_get(path, live)


def wants_prometheus(accept: str) -> bool:
    """Whether an Accept header names one of Prometheus' formats; `*/*` and `text/*` do not."""
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind in _PROMETHEUS and not any(p in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters):
            return True
    return False


def prometheus_response(registry: CollectorRegistry, accept: str) -> web.Response:
    """The registry in the format that `accept` asks for; the classic text where it asks for none."""
    encode, content_type = choose_encoder(accept)
    return web.Response(body=encode(registry), headers={"Content-Type": content_type})


def add_metrics(app: web.Application, registry: CollectorRegistry, path: str = "/metrics") -> None:
    """Prometheus text at `path`, whatever the caller accepts."""

    async def metrics(request: web.Request) -> web.Response:
        return prometheus_response(registry, request.headers.get("Accept", ""))

    app.router.add_get(path, metrics)
