"""When a call is worth trying again, and what an error says, without a server."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError, Metadata

from jobkit.client.calls import LONGEST_PAUSE, pause_before_retry
from jobkit.client.errors import (
    DETAILS_KEY,
    DeadlineExceeded,
    Exhausted,
    JobClientError,
    NotFound,
    Unavailable,
    from_call,
    from_status,
)
from jobkit.client.job import reason_name, state_name

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("error", "failures", "shortest", "longest"),
    [
        (Unavailable("UNAVAILABLE", "away"), 1, 0.05, 0.1),
        (Unavailable("UNAVAILABLE", "away"), 3, 0.2, 0.4),
        (Unavailable("UNAVAILABLE", "away"), 10_000, LONGEST_PAUSE / 2, LONGEST_PAUSE),
        (Unavailable("UNAVAILABLE", "away", retry_after=SECOND), 1, 1.0, 1.2),
        (Exhausted("RESOURCE_EXHAUSTED", "full", retry_after=10 * SECOND), 1, 10, 12),
    ],
)
def test_a_pause_grows_and_is_never_shorter_than_asked(
    error: JobClientError, failures: int, shortest: float, longest: float
) -> None:
    assert pause_before_retry(error, failures, 0.0) == pytest.approx(shortest)
    assert pause_before_retry(error, failures, 1.0) == pytest.approx(longest)


@pytest.mark.parametrize(
    "error",
    [
        NotFound("NOT_FOUND", "no"),
        DeadlineExceeded("DEADLINE_EXCEEDED", "late"),
        JobClientError("INTERNAL", "oops"),
        Exhausted("RESOURCE_EXHAUSTED", "Received message larger than max"),
        Unavailable("UNAVAILABLE", "open", reason="BREAKER_OPEN", retry_after=SECOND),
    ],
)
def test_a_final_answer_is_final(error: JobClientError) -> None:
    assert pause_before_retry(error, 1, 0.5) is None


def failed(code: grpc.StatusCode, details: str, trailer: bytes | None) -> AioRpcError:
    trailing = Metadata() if trailer is None else Metadata((DETAILS_KEY, trailer))
    return AioRpcError(code, Metadata(), trailing, details)


def test_details_of_another_code_are_read_under_the_code_of_the_transport() -> None:
    status = Status(code=5, message="job 'x' not found")
    status.details.add().Pack(ErrorInfo(reason="JOB_NOT_FOUND", domain="selfheal"))
    error = from_call(failed(grpc.StatusCode.UNAVAILABLE, "proxied", status.SerializeToString()))
    assert isinstance(error, Unavailable)
    assert (error.reason, error.message) == ("JOB_NOT_FOUND", "proxied")


@pytest.mark.parametrize("trailer", [None, b"\xff\xff\xff"])
def test_an_error_without_readable_details_still_says_what_it_is(trailer: bytes | None) -> None:
    error = from_call(failed(grpc.StatusCode.NOT_FOUND, "gone", trailer))
    assert isinstance(error, NotFound)
    assert (error.code, error.message, error.reason, error.retry_after) == ("NOT_FOUND", "gone", "", None)
    assert str(error) == "gone (NOT_FOUND)"


def test_a_detail_that_is_broken_costs_the_details_only() -> None:
    status = Status(code=3, message="bad")
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    error = from_status(status)
    assert (error.code, error.message, error.reason) == ("INVALID_ARGUMENT", "bad", "")


def test_a_code_that_nobody_knows_is_unknown() -> None:
    assert from_status(Status(code=99)).code == "UNKNOWN"


def test_a_late_answer_is_a_timeout_error_too() -> None:
    with pytest.raises(TimeoutError):
        raise from_status(Status(code=4))


def test_states_of_a_later_server_are_told_by_number() -> None:
    assert state_name(2) == "STATE_2"
    assert reason_name(77) == "REASON_77"
    assert (state_name(7), reason_name(1)) == ("SUCCEEDED", "BREAKER_OPEN")
