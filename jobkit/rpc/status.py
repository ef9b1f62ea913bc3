"""Errors at the door: the one table from our error classes to codes, and the `google.rpc.Status` that tells
an error. Reading one is in `details.py`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from jobkit.domain.errors import (
    Aborted,
    AlreadyExists,
    Exhausted,
    FieldViolation,
    InvalidJob,
    NotFound,
    OutOfRange,
    Precondition,
    Refused,
    SchemaMismatch,
    SelfhealError,
    Unavailable,
)

DOMAIN = "selfheal"
INTERNAL = "INTERNAL"

# A status travels twice in the trailers, once as text (percent-encoded) and once in base64. Clients refuse
# trailers from 8 KiB on, so an error with too much to tell would arrive as one that tells nothing.
_MAX_MESSAGE = 512
_MAX_STATUS = 4096
_MAX_VALUE = 256

_log = logging.getLogger(__name__)


class Unimplemented(SelfhealError):
    """There is no such method, or this server does not serve it."""

    def __init__(self, method: str, *, reason: str = "METHOD_NOT_FOUND") -> None:
        super().__init__(
            f"method '{method}' is not served here", reason=reason, metadata={"method": method[:_MAX_VALUE]}
        )


class WrongMethod(Unimplemented):
    """The REST path exists, for other HTTP methods. `allowed` is the Allow header."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(method, reason="METHOD_NOT_ALLOWED")
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Codes:
    """What an error is called at either door."""

    grpc: grpc.StatusCode
    http: int


# The first line whose class the error is an instance of decides. HTTP follows google.rpc.Code with one
# exception: a schema mismatch is the operator's to repair, and a 4xx would tell callers to drop their work.
CODES: tuple[tuple[type[SelfhealError], Codes], ...] = (
    (InvalidJob, Codes(grpc.StatusCode.INVALID_ARGUMENT, 400)),
    (NotFound, Codes(grpc.StatusCode.NOT_FOUND, 404)),
    (AlreadyExists, Codes(grpc.StatusCode.ALREADY_EXISTS, 409)),
    (Aborted, Codes(grpc.StatusCode.ABORTED, 409)),
    (Precondition, Codes(grpc.StatusCode.FAILED_PRECONDITION, 400)),
    (OutOfRange, Codes(grpc.StatusCode.OUT_OF_RANGE, 400)),
    (SchemaMismatch, Codes(grpc.StatusCode.FAILED_PRECONDITION, 503)),
    (Exhausted, Codes(grpc.StatusCode.RESOURCE_EXHAUSTED, 429)),
    (Unavailable, Codes(grpc.StatusCode.UNAVAILABLE, 503)),
    (Refused, Codes(grpc.StatusCode.UNAVAILABLE, 503)),
    (WrongMethod, Codes(grpc.StatusCode.UNIMPLEMENTED, 405)),
    (Unimplemented, Codes(grpc.StatusCode.UNIMPLEMENTED, 501)),
)
UNKNOWN = Codes(grpc.StatusCode.INTERNAL, 500)
_HTTP_BY_REASON = {"PAYLOAD_TOO_LARGE": 413}


def codes(error: BaseException) -> Codes:
    """The table's answer; INTERNAL and 500 for whatever is not in it."""
    if isinstance(error, SelfhealError):
        for kind, found in CODES:
            if isinstance(error, kind):
                return Codes(found.grpc, _HTTP_BY_REASON.get(error.reason, found.http))
    return UNKNOWN


def to_status(error: BaseException, trace_id: str = "") -> Status:
    """What the caller is told. Whatever is not ours is told as "internal error" and logged here, once."""
    code = codes(error).grpc
    if code is UNKNOWN.grpc or not isinstance(error, SelfhealError):
        _log_once(error, trace_id)
        return _status(code, "internal error", INTERNAL, {"trace_id": trace_id})
    # A store that is away keeps its driver's error as the cause: for the log only.
    if error.__cause__ is not None:
        _log.debug("%s: %s", error.reason, error.message, exc_info=error)
    status = _status(code, error.message, error.reason, {**error.metadata, "trace_id": trace_id})
    if isinstance(error, Refused):
        delay = Duration()
        delay.FromTimedelta(error.retry_after)
        _add(status, RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidJob):
        _add_violations(status, error.violations)
    return status


def _status(code: grpc.StatusCode, message: str, reason: str, metadata: dict[str, str]) -> Status:
    status = Status(code=code.value[0], message=_clip(message, _MAX_MESSAGE))
    short = {key: _clip(value, _MAX_VALUE) for key, value in metadata.items()}
    _add(status, ErrorInfo(reason=reason, domain=DOMAIN, metadata=short))
    return status


def _add(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _add_violations(status: Status, violations: tuple[FieldViolation, ...]) -> None:
    """As many as fit; a caller with that many mistakes will be back for the rest."""
    room = _MAX_STATUS - status.ByteSize()
    detail = BadRequest()
    for violation in violations:
        path, message = _clip(violation.path, _MAX_VALUE), _clip(violation.message, _MAX_MESSAGE)
        room -= len(path.encode()) + len(message.encode()) + 16
        if room < 0:
            break
        detail.field_violations.add(field=path, description=message)
    _add(status, detail)


def _clip(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8; lone surrogates, which no wire can carry, become "?"."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"


def _log_once(error: BaseException, trace_id: str) -> None:
    if not error.__dict__.get("_selfheal_logged"):
        error.__dict__["_selfheal_logged"] = True
        _log.error("internal error, trace_id=%s", trace_id, exc_info=error)
