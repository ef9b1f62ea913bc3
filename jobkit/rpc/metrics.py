"""Call metrics, named by OpenTelemetry's conventions for rpc and http servers. Labels are bounded:
methods and routes that are not ours are never counted under the name that a caller made up."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge

from jobkit.tally import Durations, Level

# The bucket boundaries that both conventions advise, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class CallObserver(Protocol):
    """Told about every call, through either door. Must not block or raise."""

    def started(self, method: str) -> None:
        """`method` is `package.Service/Method`."""

    def finished(self, method: str, code: str, seconds: float) -> None:
        """`code` is the gRPC status code's name, such as OK or NOT_FOUND."""


class RequestObserver(Protocol):
    """Told about every HTTP request. Must not block or raise."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the matched template, "" for none."""


class RpcMetrics:
    """A CallObserver and RequestObserver that counts into a Prometheus registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Durations(
            "rpc_server_call_duration_seconds",
            "Duration of calls, through gRPC or the REST gateway.",
            ["rpc_method", "rpc_response_status_code"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._active = Level(
            Gauge("rpc_server_active_calls", "Calls being served now.", ["rpc_method"], registry=registry)
        )
        self._requests = Durations(
            "http_server_request_duration_seconds",
            "Duration of HTTP requests.",
            ["http_request_method", "http_route", "http_response_status_code"],
            buckets=BUCKETS,
            registry=registry,
        )

    def started(self, method: str) -> None:
        self._active.up(method)

    def finished(self, method: str, code: str, seconds: float) -> None:
        self._active.down(method)
        self._calls.labels(method, code).observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in _HTTP_METHODS else "_OTHER"
        self._requests.labels(known, route, str(status)).observe(seconds)


_HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
