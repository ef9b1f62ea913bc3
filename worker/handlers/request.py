"""A webhook's request, read from a job's payload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from yarl import URL

from worker.handlers.fields import invalid, is_line, refuse_unknown, text

FIELDS = frozenset({"url", "method", "headers", "body"})
METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET")
MAX_URL = 2048  # characters
MAX_HEADERS = 50

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
# They frame the message, name the receiver, or are ours to set.
_RESERVED = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "keep-alive",
    }
)


@dataclass(frozen=True, slots=True)
class Request:
    """`host` is a name or an address without brackets; `body` is empty when the job gives none."""

    url: URL
    host: str
    port: int
    method: str
    headers: dict[str, str]
    body: bytes


def read_request(payload: Mapping[str, Any]) -> Request:
    """Raises Permanent(VALIDATION_ERROR), naming the field."""
    refuse_unknown(payload, FIELDS)
    url = _url(text(payload, "url"))
    method = text(payload, "method", "POST").upper()
    if method not in METHODS:
        raise invalid("payload.method", f"must be one of {', '.join(METHODS)}")
    if method == "GET" and "body" in payload:
        raise invalid("payload.body", "cannot be sent with GET")
    headers = {"accept-encoding": "identity", "user-agent": "selfheal-webhook/1"}
    body = b""
    if "body" in payload:
        body = orjson.dumps(payload["body"])
        headers["content-type"] = "application/json"
    headers |= _headers(payload.get("headers"))
    assert url.host is not None
    assert url.port is not None
    return Request(url, url.host, url.port, method, headers, body)


def _url(value: str) -> URL:
    path = "payload.url"
    if len(value) > MAX_URL or not value.isprintable() or " " in value:
        raise invalid(path, f"must be at most {MAX_URL} printable characters, without spaces")
    try:
        # As it is: to rewrite %2F as / breaks receivers that sign their URLs.
        url = URL(value, encoded=value.isascii())
        complete = url.scheme in ("http", "https") and bool(url.host) and url.port is not None
    except ValueError:
        complete = False
    if not complete:
        raise invalid(path, "must be an absolute http or https URL")
    if url.user is not None or url.password is not None:
        raise invalid(path, "must not carry credentials: send them as a header")
    return url


def _headers(raw: object) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, dict) or len(raw) > MAX_HEADERS:
        raise invalid("payload.headers", f"must be an object of at most {MAX_HEADERS} headers")
    headers = {}
    for name, value in raw.items():
        path = f"payload.headers.{name}"
        if not _TOKEN.fullmatch(name):
            raise invalid("payload.headers", "has a name that is not a header's")
        lower = name.lower()
        if lower in _RESERVED or lower.startswith(("webhook-", "proxy-")):
            raise invalid(path, "is set by the sender")
        if not isinstance(value, str) or not is_line(value):
            raise invalid(path, "must be one line of text")
        headers[lower] = value
    return headers
