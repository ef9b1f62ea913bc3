"""The shim routes of the control plane: breakers and metrics, in the JSON of the original system."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from controlplane.breakers import BreakerDesk, BreakerView
from jobkit.domain.breaker import BreakerState
from jobkit.domain.errors import NotFound
from jobkit.ports import BreakerStore
from jobkit.rpc.probes import prometheus_response, wants_prometheus
from jobkit.rpc.shim import ShimError, json_response


def add_routes(
    app: web.Application, desk: BreakerDesk, store: BreakerStore, registry: CollectorRegistry
) -> None:
    async def breakers(request: web.Request) -> web.Response:
        now = await store.now()
        listed = [breaker_view(view, now) for view in await desk.list()]
        return json_response({"count": len(listed), "breakers": listed})

    async def reset(request: web.Request) -> web.Response:
        name = request.match_info["job_type"]
        try:
            await desk.reset(name, "", "")
        except NotFound as error:
            raise ShimError(404, f"Circuit breaker for jobType '{name}' not found") from error
        return json_response({"message": f"Circuit breaker for '{name}' has been reset", "jobType": name})

    async def metrics(request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        if wants_prometheus(accept):
            return prometheus_response(registry, accept)
        return json_response(metrics_view(await desk.list()))

    app.router.add_get("/breakers", breakers)
    app.router.add_post("/breakers/{job_type}/reset", reset)
    app.router.add_get("/metrics", metrics)


def breaker_view(view: BreakerView, now: int) -> dict[str, Any]:
    """`openedAt` in ms; `cooldownElapsed` says that the next job is a probe."""
    record = view.record
    shown: dict[str, Any] = {"jobType": record.name, "state": record.state.value}
    if record.state.holds:
        shown["openedAt"] = record.opened_at
        elapsed = record.open_until is not None and now >= record.open_until
        shown["cooldownElapsed"] = record.state is BreakerState.HALF_OPEN or elapsed
    return shown


def metrics_view(views: list[BreakerView]) -> dict[str, Any]:
    """HALF_OPEN counts as open; failures are those in the window."""
    opened = sum(view.record.state.holds for view in views)
    failures = {v.record.name: sum(v.failures.values()) for v in views if v.failures}
    return {
        "circuitBreakers": {"total": len(views), "open": opened, "closed": len(views) - opened},
        "failures": {"byJobType": failures},
    }
