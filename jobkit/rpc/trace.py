"""W3C trace context at the door, and what the current call carries.

The two context variables are set once a call (or HTTP request) and never reset: gRPC runs each call in a task
of its own, and the HTTP server sets them at the start of every request of a connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar
from random import getrandbits

from jobkit.domain.job import NO_TRACE, TraceContext

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[!-~]*)?")
_PRINTABLE = re.compile(r"[ -~\t]*")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_MAX_TRACEPARENT = 128
_MAX_TRACESTATE = 512  # what the W3C recommendation asks everyone to carry at least
_MAX_BAGGAGE = 8192

_trace: ContextVar[TraceContext] = ContextVar("selfheal_trace", default=NO_TRACE)
_request_id: ContextVar[str] = ContextVar("selfheal_request_id", default="")


def current_trace() -> TraceContext:
    """The trace context of the call being served; empty outside of one."""
    return _trace.get()


def current_request_id() -> str:
    """The `X-Request-ID` of the call being served; "" where the caller gave none over gRPC."""
    return _request_id.get()


def enter(trace: TraceContext, request_id: str) -> None:
    """Make these the current ones for the rest of the running task."""
    _trace.set(trace)
    _request_id.set(request_id)


def trace_id(trace: TraceContext) -> str:
    """The 32 hex digits that people search for; "" without a trace."""
    return trace.traceparent[3:35]


def incoming_trace(headers: Iterable[tuple[str, str | bytes]]) -> TraceContext:
    """The caller's trace context, or a new unsampled one where `traceparent` is missing or malformed.

    Names in `headers` are lower case. A tracestate without a valid traceparent means nothing and is dropped.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        if name in ("traceparent", "tracestate", "baggage") and isinstance(value, str):
            found.setdefault(name, []).append(value)
    parents = found.get("traceparent", [])
    baggage = _joined(found.get("baggage", []), _MAX_BAGGAGE)
    if len(parents) != 1 or not valid_traceparent(parents[0]):
        return TraceContext(new_traceparent(), "", baggage, fresh=True)
    return TraceContext(parents[0], _joined(found.get("tracestate", []), _MAX_TRACESTATE), baggage)


def valid_traceparent(value: str) -> bool:
    """By W3C Trace Context §3.2: version 00 ends after the flags, later versions may go on."""
    match = _TRACEPARENT.fullmatch(value) if len(value) <= _MAX_TRACEPARENT else None
    if match is None:
        return False
    version, trace, parent, rest = match.groups()
    known = version != "ff" and not (version == "00" and rest)
    return known and trace.strip("0") != "" and parent.strip("0") != ""


def new_traceparent() -> str:
    """A random one with the sampled flag off: making an id is not a decision to record."""
    digits = f"{getrandbits(192):048x}"
    return f"00-{digits[:32]}-{digits[32:]}-00"


def sane_request_id(value: str) -> str:
    """`value` if it is safe to echo and to log, else ""."""
    return value if _REQUEST_ID.fullmatch(value) else ""


def _joined(values: list[str], limit: int) -> str:
    text = ",".join(values)
    return text if len(text) <= limit and _PRINTABLE.fullmatch(text) else ""
