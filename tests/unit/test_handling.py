"""What handler authors import: marks, contexts, exceptions."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobkit import JobContext, Permanent, RetryLater, TransientError, job_handler
from jobkit.domain.outcome import Interrupted
from jobkit.handling import LONGEST_WAIT, Handler, error_code, handlers_of


async def nothing(job: JobContext) -> None: ...


def test_the_decorator_returns_the_function_itself_and_only_marks_it() -> None:
    async def send(job: JobContext) -> dict[str, Any]:
        return {}

    marked = job_handler("email", max_attempts=4, attempt_timeout=30)(send)
    assert marked is send
    assert handlers_of(send) == (Handler("email", send, 4, timedelta(seconds=30)),)


def test_one_function_may_serve_several_types() -> None:
    @job_handler("sms")
    @job_handler("email", attempt_timeout=timedelta(minutes=1))
    def send(job: JobContext) -> None: ...

    assert [(h.job_type, h.blocking) for h in handlers_of(send)] == [("email", True), ("sms", True)]


@pytest.mark.parametrize("job_type", ["a", "Email", "a.b_c:d-e", "0", "x" * 128])
def test_job_types_that_are_accepted(job_type: str) -> None:
    assert Handler(job_type, nothing).job_type == job_type


@pytest.mark.parametrize("job_type", ["", ".a", "a/b", "a b", "x" * 129, "é", "a\n"])
def test_job_types_that_are_refused(job_type: str) -> None:
    with pytest.raises(ValueError, match="job_type"):
        job_handler(job_type)(nothing)


async def stream(job: JobContext) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("declare", "error", "says"),
    [
        (lambda: job_handler(nothing), TypeError, r"@job_handler\(\"email\"\)"),  # type: ignore[arg-type]
        (lambda: Handler("a", JobContext), TypeError, "must be a function"),  # type: ignore[arg-type]
        (lambda: job_handler("a")(stream), TypeError, "not yield"),
        (lambda: job_handler("a", max_attempts=0)(nothing), ValueError, "at least 1"),
        (lambda: job_handler("a", max_attempts=True)(nothing), TypeError, "integer"),
        (lambda: job_handler("a", attempt_timeout=0)(nothing), ValueError, "positive"),
        (lambda: job_handler("a", attempt_timeout=float("nan")), ValueError, "NaN"),
        (lambda: job_handler("a", attempt_timeout="30"), TypeError, "seconds"),  # type: ignore[arg-type]
        (lambda: job_handler("a", depends_on="x"), TypeError, "depends_on"),
        (lambda: job_handler("a", depends_on=["@x"])(print), ValueError, "'@x'"),
        (lambda: job_handler("a", depends_on=[7])(print), TypeError, "must be a string"),  # type: ignore[list-item]
        (lambda: job_handler("a", depends_on=map(str, range(17)))(print), ValueError, "more than 16"),
        (lambda: RetryLater(1, scope="all"), ValueError, "'job', 'type' or"),  # type: ignore[arg-type]
        (lambda: RetryLater(1, dependency="x"), ValueError, "its scope is 'job'"),
        (lambda: RetryLater("1"), TypeError, "seconds"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused_and_named(
    declare: Callable[[], object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        declare()


def test_a_handler_is_blocking_unless_calling_it_gives_a_coroutine() -> None:
    class Service:
        async def __call__(self, job: JobContext) -> None: ...

        async def method(self, job: JobContext) -> None: ...

        def plain(self, job: JobContext) -> None: ...

    service = Service()
    awaited: list[Any] = [nothing, service, service.method, functools.partial(nothing)]
    assert not any(Handler("a", run).blocking for run in awaited)
    assert Handler("a", service.plain).blocking


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("API_TIMEOUT", "API_TIMEOUT"),
        ("api-timeout 1", "api_timeout_1"),
        (503, "503"),
        ("", "UNKNOWN"),
        (None, "None"),
        ("x" * 70, "x" * 64),
        (Interrupted.LOST, "LOST"),
    ],
)
def test_a_bad_error_code_is_mended(raw: Any, code: str) -> None:
    assert error_code(raw) == TransientError(raw).code == Permanent(raw).code == code


def test_errors_say_what_they_are() -> None:
    assert str(TransientError("A", "b")) == "A: b"
    assert str(Permanent("A")) == "A"
    assert str(RetryLater(2)) == "run again in 2 s"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (1.5, timedelta(seconds=1.5)),
        (timedelta(minutes=1), timedelta(minutes=1)),
        (-1, timedelta(0)),
        (float("inf"), LONGEST_WAIT),
        (1e300, LONGEST_WAIT),
    ],
)
def test_a_wait_is_kept_within_reason(after: float | timedelta, expected: timedelta) -> None:
    assert RetryLater(after).after == expected


def test_a_context_can_be_made_for_a_test_and_reports_what_it_is_told() -> None:
    seen: list[tuple[int, int]] = []
    job = JobContext(job_id="1", job_type="email", payload={}, on_progress=lambda *p: seen.append(p))
    assert job.attempt == job.delivery == 1
    assert datetime.now(UTC) < job.deadline
    job.progress(1, 2)
    assert seen == [(1, 2)]
    with pytest.raises(ValueError, match="negative"):
        job.progress(-1, 2)


def test_to_read_cancelled_before_it_is_so_is_not_to_have_noticed() -> None:
    job = JobContext(job_id="1", job_type="email", payload={})
    assert job.cancelled is False
    job.stop()
    before = job.noticed
    assert (before, job.cancelled, job.noticed) == (False, True, True)


def test_log_lines_carry_the_job_beside_what_the_handler_adds(caplog: pytest.LogCaptureFixture) -> None:
    job = JobContext(job_id="1", job_type="email", payload={})
    with caplog.at_level(logging.INFO):
        job.logger.info("sent", extra={"recipients": 2})
    record = caplog.records[0]
    assert (record.__dict__["job_id"], record.__dict__["job_type"]) == ("1", "email")
    assert record.__dict__["recipients"] == 2
