"""Rich errors, read: the client's side of `status.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from jobkit.domain.errors import (
    AlreadyExists,
    Exhausted,
    FieldViolation,
    InvalidJob,
    NotFound,
    OutOfRange,
    Precondition,
    SchemaMismatch,
    SelfhealError,
    Unavailable,
)
from jobkit.rpc.status import Unimplemented


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """A rich error, read. `retry_after` is None where the server did not invite a retry."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[FieldViolation, ...] = ()
    retry_after: timedelta | None = None


_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


def error_details(status: Status) -> ErrorDetails:
    """Everything that `status` says; unknown details are passed over."""
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    retryable = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        retryable = detail.Unpack(retry) or retryable
    return ErrorDetails(
        code=_GRPC_CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        message=status.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=tuple(FieldViolation(v.field, v.description) for v in bad.field_violations),
        retry_after=retry.retry_delay.ToTimedelta() if retryable else None,
    )


def from_status(status: Status) -> SelfhealError:
    """The error that a server of ours turned into `status`; the root class for codes outside of the table."""
    told = error_details(status)
    error = _rebuilt(told)
    error.message, error.reason, error.metadata = told.message, told.reason or told.code.name, told.metadata
    error.args = (told.message,)
    return error


def from_rpc_error(error: grpc.RpcError) -> SelfhealError:
    """As `from_status`, for what a stub raised; also without details, as when no server answered."""
    # Every error that a stub raises is also its call; grpc's base class does not say so.
    call: grpc.Call = error  # type: ignore[assignment]
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):  # the details contradict the status: somebody in between made it
        status = None
    if status is None:
        status = Status(code=call.code().value[0], message=call.details() or "")
    return from_status(status)


def _rebuilt(told: ErrorDetails) -> SelfhealError:
    if told.reason == "SCHEMA_MISMATCH":
        return SchemaMismatch(told.metadata.get("found", ""), told.metadata.get("wanted", ""))
    make = _MAKERS.get(told.code)
    return make(told) if make else SelfhealError(told.message, reason=told.reason)


def _not_found(told: ErrorDetails) -> NotFound:
    return NotFound(told.reason.removesuffix("_NOT_FOUND").lower(), told.metadata.get("name", ""))


def _after(told: ErrorDetails) -> timedelta:
    return told.retry_after or timedelta()


_MAKERS: dict[grpc.StatusCode, Callable[[ErrorDetails], SelfhealError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: lambda told: InvalidJob(told.violations, reason=told.reason),
    grpc.StatusCode.NOT_FOUND: _not_found,
    grpc.StatusCode.ALREADY_EXISTS: lambda told: AlreadyExists(told.message, reason=told.reason),
    grpc.StatusCode.FAILED_PRECONDITION: lambda told: Precondition(told.message, reason=told.reason),
    grpc.StatusCode.OUT_OF_RANGE: lambda told: OutOfRange(told.message, reason=told.reason),
    grpc.StatusCode.RESOURCE_EXHAUSTED: lambda told: Exhausted(
        told.message, reason=told.reason, retry_after=_after(told)
    ),
    grpc.StatusCode.UNAVAILABLE: lambda told: Unavailable(
        told.message, reason=told.reason, retry_after=_after(told)
    ),
    grpc.StatusCode.UNIMPLEMENTED: lambda told: Unimplemented(told.metadata.get("method", "")),
}
