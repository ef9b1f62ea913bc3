"""Every error that a caller can be told, in one tree.

    SelfhealError
    ├── InvalidJob            the request is malformed: fields and why      (INVALID_ARGUMENT)
    ├── NotFound              no such job, no such breaker                  (NOT_FOUND)
    ├── AlreadyExists         the request_id was used with other content    (ALREADY_EXISTS)
    ├── Precondition          the resource is in a state that forbids it    (FAILED_PRECONDITION)
    ├── OutOfRange            a place that the ledger does not reach to     (OUT_OF_RANGE)
    ├── Aborted               somebody else was faster: read again          (ABORTED)
    ├── Refused               come back later: `retry_after`
    │   ├── Exhausted         a bound was met                               (RESOURCE_EXHAUSTED)
    │   └── Unavailable       a dependency is away, or a breaker is open    (UNAVAILABLE)
    └── SchemaMismatch        the database has another schema version       (FAILED_PRECONDITION)

Each carries `reason` (UPPER_SNAKE, listed in docs/errors.md) and `metadata`, which reach the caller as
`google.rpc.ErrorInfo`. Errors are what callers are told; what an attempt ended in is in `outcome.py`, and what
follows from it in `retry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with one field. `path` is the proto field path; `message` is a sentence without a dot."""

    path: str
    message: str


class SelfhealError(Exception):
    """The root. `reason` is UPPER_SNAKE; `metadata` holds short strings."""

    def __init__(self, message: str, *, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})


class InvalidJob(SelfhealError):
    """The request is malformed; `violations` says which fields and why."""

    def __init__(self, violations: Sequence[FieldViolation], *, reason: str = "INVALID_FIELD") -> None:
        super().__init__("; ".join(f"{v.path}: {v.message}" for v in violations), reason=reason)
        self.violations = tuple(violations)


class NotFound(SelfhealError):
    """Nothing has this name."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind} '{name}' not found", reason=f"{kind.upper()}_NOT_FOUND", metadata={"name": name}
        )


class AlreadyExists(SelfhealError):
    """The idempotency key was used before, with other content."""


class Precondition(SelfhealError):
    """The resource is in a state that forbids the call."""


class OutOfRange(SelfhealError):
    """A watch cannot go on from this revision: what follows it is gone, or has never been."""


class Aborted(SelfhealError):
    """Somebody else changed it meanwhile: read it again, then decide anew."""


class SchemaMismatch(SelfhealError):
    """The database is at another schema version; `selfheal migrate` brings it to ours."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(
            f"database schema is {found or 'empty'}, this release needs {wanted}: run `selfheal migrate`",
            reason="SCHEMA_MISMATCH",
            metadata={"found": found, "wanted": wanted},
        )


class Refused(SelfhealError):
    """Not now: the same call may succeed after `retry_after`."""

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        retry_after: timedelta,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after = retry_after


class Exhausted(Refused):
    """A bound was met: too many job types, a full backlog."""


class Unavailable(Refused):
    """A dependency is away, or the job's breaker is open and the caller asked to be refused."""


def store_unavailable(what: str, after: timedelta = timedelta(seconds=1)) -> Unavailable:
    """The one way to say that a store is away; adapters raise it in place of their driver's errors."""
    return Unavailable(
        f"{what} is unavailable", reason=f"{what.upper()}_UNAVAILABLE", retry_after=after, metadata={}
    )
