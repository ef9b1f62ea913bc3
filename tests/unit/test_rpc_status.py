"""Errors to `google.rpc.Status` and back."""

from __future__ import annotations

import logging
from datetime import timedelta

import grpc
import pytest

from jobkit.domain import errors
from jobkit.domain.errors import FieldViolation
from jobkit.rpc.details import error_details, from_status
from jobkit.rpc.status import CODES, Unimplemented, WrongMethod, codes, to_status

TRACE = "0af7651916cd43dd8448eb211c80319c"
A_MINUTE = timedelta(minutes=1)
TOO_LARGE = [FieldViolation("payload", "is too large")]
CASES = [
    (errors.InvalidJob([FieldViolation("job_type", "should not be empty")]), "INVALID_ARGUMENT", 400),
    (errors.InvalidJob(TOO_LARGE, reason="PAYLOAD_TOO_LARGE"), "INVALID_ARGUMENT", 413),
    (errors.NotFound("job", "42"), "NOT_FOUND", 404),
    (errors.AlreadyExists("used before", reason="REQUEST_ID_REUSED"), "ALREADY_EXISTS", 409),
    (errors.Precondition("finished", reason="JOB_NOT_CANCELLABLE"), "FAILED_PRECONDITION", 400),
    (errors.SchemaMismatch("0001", "0002"), "FAILED_PRECONDITION", 503),
    (errors.Exhausted("full", reason="TOO_MANY_JOB_TYPES", retry_after=A_MINUTE), "RESOURCE_EXHAUSTED", 429),
    (errors.Unavailable("open", reason="BREAKER_OPEN", retry_after=timedelta(seconds=2.5)), "UNAVAILABLE", 503),
    (errors.store_unavailable("database"), "UNAVAILABLE", 503),
    (Unimplemented("x.Y/Z"), "UNIMPLEMENTED", 501),
    (WrongMethod("PUT /v1/jobs", "GET, POST"), "UNIMPLEMENTED", 405),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "http"), CASES, ids=lambda case: getattr(case, "reason", None))
def test_every_error_keeps_what_it_says_on_the_way_to_the_caller_and_back(
    error: errors.SelfhealError, code: str, http: int
) -> None:
    status = to_status(error, TRACE)
    told = error_details(status)
    assert (codes(error).grpc.name, codes(error).http) == (code, http)
    assert told.code.name == code
    assert told.reason == error.reason
    assert told.message == error.message
    assert told.metadata == {**error.metadata, "trace_id": TRACE}
    assert told.violations == getattr(error, "violations", ())
    assert told.retry_after == getattr(error, "retry_after", None)
    again = from_status(status)
    if not isinstance(error, WrongMethod):
        assert type(again) is type(error)
    assert (again.reason, again.message, str(again)) == (error.reason, error.message, error.message)


def test_every_class_of_the_tree_is_in_the_table() -> None:
    listed = {kind for kind, _ in CODES}

    def descendants(kind: type[errors.SelfhealError]) -> set[type[errors.SelfhealError]]:
        return {kind}.union(*(descendants(sub) for sub in kind.__subclasses__()))

    ours = {k for k in descendants(errors.SelfhealError) if k.__module__.startswith("jobkit.")}
    assert ours - {errors.SelfhealError} <= listed


def test_an_unknown_error_tells_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    secret = RuntimeError("password=hunter2 at 10.0.0.7")
    with caplog.at_level(logging.ERROR):
        status = to_status(secret, TRACE)
        to_status(secret, TRACE)
    assert b"hunter2" not in status.SerializeToString()
    told = error_details(status)
    assert (told.code, told.message, told.reason) == (grpc.StatusCode.INTERNAL, "internal error", "INTERNAL")
    assert told.metadata == {"trace_id": TRACE}
    [record] = caplog.records
    assert record.exc_info is not None
    assert TRACE in record.getMessage()


def test_a_bare_root_error_is_unknown_too() -> None:
    told = error_details(to_status(errors.SelfhealError("do not tell", reason="ODD")))
    assert (told.message, told.reason) == ("internal error", "INTERNAL")


def test_a_status_fits_into_trailers_however_much_is_wrong() -> None:
    many = errors.InvalidJob([FieldViolation(f"labels.{'é' * 300}{n}", "x" * 900) for n in range(500)])
    status = to_status(many, TRACE)
    assert status.ByteSize() <= 4500
    assert 0 < len(error_details(status).violations) < 500


def test_text_that_no_wire_carries_is_replaced() -> None:
    told = error_details(to_status(errors.NotFound("job", "a\ud800b")))
    assert told.metadata["name"] == "a?b"
