"""Runs of claimed jobs: what handlers get, return and raise."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import aiosmtplib
import orjson
import pytest

from jobkit.domain.job import ClaimedJob, JobError
from jobkit.domain.outcome import Deferred, Failed, Outcome, Succeeded
from jobkit.handling import JobContext, Permanent, RetryLater, TransientError
from tests.unit.executor_kit import (
    Bench,
    Run,
    both,
    claimed,
    code_of,
    describe,
    raising,
)

# -- what handlers get ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", both(describe))
async def test_a_handler_gets_the_job_and_its_result_is_kept(run: Run) -> None:
    job = claimed(payload=b'{"n":1}')
    outcome = await Bench(run).run(job)
    assert isinstance(outcome, Succeeded)
    assert outcome.result is not None
    assert orjson.loads(outcome.result) == {
        "payload": {"n": 1}, "type": "t", "attempt": 2, "delivery": 3, "labels": {"a": "b"},
        "traceparent": "00-1-2-01", "id": str(job.job_id), "left": 5, "cancelled": False,
    }  # fmt: skip


async def test_the_submit_wins_over_the_handler_and_the_handler_over_the_environment() -> None:
    async def left(job: JobContext) -> dict[str, int]:
        return {"s": round((job.deadline - datetime.now(UTC)).total_seconds())}

    async def seconds(bench: Bench, timeout: timedelta | None) -> int:
        outcome = await bench.run(claimed(timeout=timeout))
        assert isinstance(outcome, Succeeded)
        return int(orjson.loads(outcome.result or b"{}")["s"])

    decorated = Bench(left, attempt_timeout=timedelta(seconds=20))
    assert await seconds(Bench(left), None) == 5
    assert await seconds(decorated, None) == 20
    assert await seconds(decorated, timedelta(seconds=40)) == 40


async def test_blocking_handlers_run_beside_each_other_off_the_loop_and_see_its_context_variables() -> None:
    variable = contextvars.ContextVar("variable", default="")
    meet = threading.Barrier(2, timeout=5)

    def handler(job: JobContext) -> dict[str, Any]:
        meet.wait()
        return {"seen": variable.get(), "thread": threading.current_thread().name}

    bench = Bench(handler)
    variable.set("here")
    one, two = await asyncio.gather(bench.run(), bench.run())
    assert isinstance(one, Succeeded)
    assert isinstance(two, Succeeded)
    results = [orjson.loads(outcome.result or b"") for outcome in (one, two)]
    assert {result["seen"] for result in results} == {"here"}
    assert {result["thread"] for result in results} == {"lane-t-1", "lane-t-2"}


async def test_threads_are_reused() -> None:
    bench = Bench(lambda job: {"thread": threading.current_thread().name})
    threads = set()
    for _ in range(20):
        outcome = await bench.run()
        assert isinstance(outcome, Succeeded)
        threads.add(outcome.result)
    assert len(threads) <= 2


async def test_progress_from_a_tight_loop_reaches_the_loop_coalesced_and_ends_with_the_last() -> None:
    def handler(job: JobContext) -> None:
        for n in range(10_001):
            job.progress(n, 10_000)

    bench = Bench(handler)
    await bench.run()
    assert bench.progress[-1] == (10_000, 10_000)
    assert len(bench.progress) < 5_000


# -- what they return ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", both(lambda job: None))
async def test_no_result_is_a_success(run: Run) -> None:
    assert await Bench(run).run() == Succeeded(None)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("text", "not str"),
        ([1], "not list"),
        ({"a": object()}, "not JSON serializable"),
        ({"a": [2**60]}, "result.a[0] is beyond"),
        ({1: 2}, "Dict key must be str"),
        ({"a": "x" * 300_000}, "more than 262144"),
        ({"a": "\ud800"}, "surrogates"),
    ],
)
async def test_a_result_that_json_cannot_carry_is_refused_and_not_retried(result: Any, says: str) -> None:
    outcome = await Bench(lambda job: result).run()
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable, outcome.counts) == ("INVALID_RESULT", False, False)
    assert says in outcome.error.message


async def test_a_plain_function_that_returns_a_coroutine_is_told_so() -> None:
    async def inner() -> None: ...

    outcome = await Bench(lambda job: inner()).run()
    assert isinstance(outcome, Failed)
    assert "async def" in outcome.error.message
    gc.collect()  # a coroutine that was never awaited would warn here


@pytest.mark.parametrize("payload", [b"{", b"[]", b""])
async def test_a_payload_that_is_no_object_is_not_retried(payload: bytes) -> None:
    outcome = await Bench(describe).run(claimed(payload=payload))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("VALIDATION_ERROR", False)


# -- what they raise -----------------------------------------------------------------------------------------------


class Crowded(Exception): ...


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TransientError("A", "b"), Failed(JobError("A", "b", True), True)),
        (TransientError("bad code!"), Failed(JobError("bad_code_", "", True), True)),
        (Permanent("A", "b"), Failed(JobError("A", "b", False), False)),
        (RetryLater(2, message="m"), Deferred(timedelta(seconds=2), "m", wide=False)),
        (RetryLater(2, scope="type"), Deferred(timedelta(seconds=2), "", wide=True)),
        (Crowded("why"), Failed(JobError("Crowded", "why", True), True)),
        (Crowded(), Failed(JobError("Crowded", "Crowded", True), True)),
        (SystemExit(3), Failed(JobError("SystemExit", "3", True), True)),
        (KeyboardInterrupt(), Failed(JobError("KeyboardInterrupt", "KeyboardInterrupt", True), True)),
        (ExceptionGroup("g", [Permanent("A", "b")]), Failed(JobError("A", "b", False), False)),
    ],
)
async def test_what_is_raised_becomes_an_outcome(error: BaseException, outcome: Outcome) -> None:
    def blocking(job: JobContext) -> None:
        raise error

    assert await Bench(raising(error)).run() == outcome
    assert await Bench(blocking).run() == outcome


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(111, "refused"), "NETWORK_ERROR"),
        (OSError(113, "no route to host"), "NETWORK_ERROR"),
        (OSError("Multiple exceptions: [Errno 111] …"), "NETWORK_ERROR"),
        (socket.gaierror(-2, "unknown"), "NETWORK_ERROR"),
        (ssl.SSLCertVerificationError("expired"), "NETWORK_ERROR"),
        (aiohttp.ServerDisconnectedError(), "NETWORK_ERROR"),
        (aiohttp.ClientConnectionError("closed"), "NETWORK_ERROR"),
        (aiosmtplib.SMTPConnectError("refused"), "NETWORK_ERROR"),
        (aiosmtplib.SMTPServerDisconnected("gone"), "NETWORK_ERROR"),
        (TimeoutError(), "API_TIMEOUT"),
        (aiohttp.ServerTimeoutError(), "API_TIMEOUT"),
        (aiosmtplib.SMTPConnectTimeoutError("slow"), "API_TIMEOUT"),
        (FileNotFoundError(2, "no file"), "FileNotFoundError"),
        (ValueError("x"), "ValueError"),
    ],
)
async def test_errors_of_the_network_have_one_code(error: Exception, code: str) -> None:
    outcome = await Bench(raising(error)).run()
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable, outcome.counts) == (code, True, True)


@pytest.mark.parametrize(("module", "name", "code"), [
    ("requests.exceptions", "ConnectionError", "NETWORK_ERROR"),
    ("requests.exceptions", "Timeout", "API_TIMEOUT"),
    ("httpx", "NetworkError", "NETWORK_ERROR"),
    ("elsewhere", "NetworkError", "Special"),
])  # fmt: skip
async def test_http_clients_with_errors_of_their_own_are_known_by_name(
    module: str, name: str, code: str
) -> None:
    base = type(name, (Exception,), {"__module__": module, "__qualname__": name})
    assert code_of(await Bench(raising(type("Special", (base,), {})("x"))).run()) == code


async def test_messages_are_bounded_and_storable() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    long = await Bench(raising(ValueError("x" * 5000))).run()
    odd = await Bench(raising(TransientError("A", "nul \0 half \ud800"))).run()
    rude = await Bench(raising(Rude())).run()
    assert isinstance(long, Failed)
    assert isinstance(odd, Failed)
    assert isinstance(rude, Failed)
    assert len(long.error.message) == 1000
    assert odd.error.message == "nul \ufffd half ?"
    assert rude.error == JobError("Rude", "Rude", True)


async def test_a_handler_that_cancels_itself_has_failed() -> None:
    assert code_of(await Bench(raising(asyncio.CancelledError())).run()) == "CancelledError"


# -- the hook around runs ------------------------------------------------------------------------------------------


async def test_the_hook_surrounds_the_run_in_the_handlers_context_and_hears_the_outcome() -> None:
    span = contextvars.ContextVar("span", default="")
    heard: list[object] = []

    @contextmanager
    def around(job: ClaimedJob) -> Iterator[Callable[[Outcome], object]]:
        token = span.set(str(job.job_id))
        yield heard.append
        span.reset(token)
        heard.append("left")

    for run in (lambda job: {"span": span.get()}, describe_span(span)):
        job = claimed()
        outcome = await Bench(run, around=around).run(job)
        assert outcome == Succeeded(orjson.dumps({"span": str(job.job_id)}))
        assert heard == [outcome, "left"]
        heard.clear()


def describe_span(span: contextvars.ContextVar[str]) -> Run:
    async def handler(job: JobContext) -> dict[str, Any]:
        return {"span": span.get()}

    return handler


@pytest.mark.parametrize("where", ["enter", "tell", "leave"])
async def test_a_hook_that_fails_changes_nothing(where: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(outcome: Outcome) -> None:
        raise RuntimeError("tell")

    @contextmanager
    def around(job: ClaimedJob) -> Iterator[Callable[[Outcome], object]]:
        if where == "enter":
            raise RuntimeError(where)
        yield fail if where == "tell" else str
        if where == "leave":
            raise RuntimeError(where)

    assert isinstance(await Bench(describe, around=around).run(), Succeeded)
    assert "the hook around runs failed" in caplog.text
