"""What a server's refusal looks like to a caller, in one tree.

JobClientError                anything else that the server or the transport answered
├── InvalidRequest            INVALID_ARGUMENT: `violations` names the fields
├── NotFound                  NOT_FOUND
├── RequestIdReused           ALREADY_EXISTS: the request_id was used with other content
├── WrongState                FAILED_PRECONDITION: for example cancelling a finished job
├── Exhausted                 RESOURCE_EXHAUSTED: `retry_after` says when to come back
├── Unavailable               UNAVAILABLE: likewise; also a server that cannot be reached, or closes (CANCELLED)
└── DeadlineExceeded          DEADLINE_EXCEEDED: no answer in time; a TimeoutError too
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from jobkit.domain.errors import FieldViolation
from jobkit.rpc.details import error_details

DETAILS_KEY = "grpc-status-details-bin"


class JobClientError(Exception):
    """The root. `code` is the gRPC code's name, `reason` UPPER_SNAKE ("" when the answer is not the server's
    own), `metadata` short strings; for a submit it holds the `request_id`: repeating with it is safe."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        violations: Sequence[FieldViolation] = (),
        retry_after: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{message} ({code}{', ' + reason if reason else ''})")
        self.code = code
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})


class InvalidRequest(JobClientError):
    """The request is malformed."""


class NotFound(JobClientError):
    """Nothing has this name."""


class RequestIdReused(JobClientError):
    """The request_id was used before, with other content."""


class WrongState(JobClientError):
    """The resource is in a state that forbids the call."""


class Exhausted(JobClientError):
    """A bound was met."""


class Unavailable(JobClientError):
    """The server or a store is away, or the breaker is open and the submit asked to be refused."""


class DeadlineExceeded(JobClientError, TimeoutError):
    """No answer in time; whether the call had an effect is unknown."""


_CLASSES: Mapping[str, type[JobClientError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": RequestIdReused,
    "FAILED_PRECONDITION": WrongState,
    "RESOURCE_EXHAUSTED": Exhausted,
    "UNAVAILABLE": Unavailable,
    # Not our own cancelling, which raises CancelledError: grpc's servers say so to calls that meet their closing.
    "CANCELLED": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def from_call(error: grpc.aio.AioRpcError) -> JobClientError:
    """The error of a failed call, with the rich details where there are any that can be read."""
    status = Status()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):
                status = Status.FromString(value)
    # What the transport says wins: a proxy may have replaced it and left the details behind.
    status.code, status.message = error.code().value[0], error.details() or status.message
    return from_status(status)


def from_status(status: Status) -> JobClientError:
    """The same for a `google.rpc.Status`, which is how a batch refuses one of its items."""
    try:
        told = error_details(status)
    except DecodeError:
        told = error_details(Status(code=status.code, message=status.message))
    code = told.code.name
    return _CLASSES.get(code, JobClientError)(
        code,
        told.message or code.replace("_", " ").lower(),
        reason=told.reason,
        violations=told.violations,
        retry_after=told.retry_after,
        metadata=told.metadata,
    )
