"""Runs of claimed jobs, to their outcome and beyond."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import aiosmtplib
import orjson
import pytest

from jobkit.domain.job import ClaimedJob, JobError, TraceContext
from jobkit.domain.outcome import Deferred, Failed, Interrupted, Outcome, Succeeded
from jobkit.handling import Handler, JobContext, Permanent, RetryLater, TransientError
from worker.executor import Around, Executor, Limits
from worker.registry import Registry

SHORT = timedelta(milliseconds=50)
QUICK = Limits(concurrency=2, attempt_timeout=timedelta(seconds=5), grace=timedelta(milliseconds=80))
Run = Callable[[JobContext], Any]


def claimed(
    job_type: str = "t", payload: bytes = b"{}", timeout: timedelta | None = None, job_id: UUID | None = None
) -> ClaimedJob:
    now = datetime.now(UTC)
    return ClaimedJob(
        job_id=job_id or uuid4(),
        job_type=job_type,
        payload=payload,
        delivery=3,
        attempts=1,
        attempts_base=0,
        losses=0,
        losses_alone=0,
        max_attempts=None,
        attempt_timeout=timeout,
        labels={"a": "b"},
        start_time=now,
        due_time=now,
        create_time=now,
        history=(),
        trace=TraceContext("00-1-2-01"),
    )


class Bench:
    """An executor for one handler, and what it told its surroundings."""

    def __init__(
        self, run: Run, limits: Limits = QUICK, around: Around | None = None, **handler: Any
    ) -> None:
        self.progress: list[tuple[int, int]] = []
        self.freed: asyncio.Queue[str] = asyncio.Queue()
        self.executor = Executor(
            Registry([Handler("t", run, **handler)]),
            limits,
            progress=lambda job, processed, total: self.progress.append((processed, total)),
            around=around,
            freed=self.freed.put_nowait,
        )

    async def run(self, job: ClaimedJob | None = None) -> Outcome:
        return await self.executor.run(job or claimed())

    @property
    def counts(self) -> tuple[int, int, int]:
        """Running, strays, occupied."""
        executor = self.executor
        return executor.running.get("t", 0), executor.strays.get("t", 0), executor.occupied("t")


def both(plain: Run) -> list[Any]:
    """The same handler as `def` and as `async def`."""

    async def awaited(job: JobContext) -> Any:
        return plain(job)

    return [pytest.param(plain, id="def"), pytest.param(awaited, id="async")]


def raising(error: BaseException) -> Run:
    async def handler(job: JobContext) -> None:
        raise error

    return handler


@pytest.fixture
async def release() -> AsyncIterator[threading.Event]:
    """Lets threads that hang go, at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def code_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed), outcome
    return outcome.error.code


# -- what handlers get ---------------------------------------------------------------------------------------------


def describe(job: JobContext) -> dict[str, Any]:
    left = (job.deadline - datetime.now(UTC)).total_seconds()
    return {
        "payload": job.payload, "type": job.job_type, "attempt": job.attempt, "delivery": job.delivery,
        "labels": dict(job.labels), "traceparent": job.traceparent, "id": job.job_id, "left": round(left),
        "cancelled": job.cancelled,
    }  # fmt: skip


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
        ({"a": 2**60}, "53-bit"),
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


# -- deadlines -----------------------------------------------------------------------------------------------------


async def test_a_run_over_its_deadline_is_cancelled_and_counts() -> None:
    cleaned = asyncio.Event()

    async def handler(job: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    bench = Bench(handler)
    outcome = await bench.run(claimed(timeout=SHORT))
    assert outcome == Failed(JobError("API_TIMEOUT", "the attempt took longer than 0.05 s", True), True)
    assert cleaned.is_set()
    assert bench.counts == (0, 0, 0)


async def test_a_task_that_ignores_its_cancellation_keeps_its_slot_until_it_ends() -> None:
    release = asyncio.Event()

    async def stubborn(job: JobContext) -> dict[str, Any]:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return {"late": True}

    bench = Bench(stubborn)
    assert code_of(await bench.run(claimed(timeout=SHORT))) == "API_TIMEOUT"
    assert bench.counts == (0, 1, 1)
    release.set()
    assert await bench.freed.get() == "t"
    assert bench.counts == (0, 0, 0)


async def test_swallowing_the_cancellation_is_no_success() -> None:
    async def sloppy(job: JobContext) -> dict[str, Any]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {"done": False}

    assert code_of(await Bench(sloppy).run(claimed(timeout=SHORT))) == "API_TIMEOUT"


async def test_a_thread_that_ignores_its_deadline_keeps_its_slot(release: threading.Event) -> None:
    def stubborn(job: JobContext) -> None:
        release.wait(10)

    bench = Bench(stubborn)
    assert code_of(await bench.run(claimed(timeout=SHORT))) == "API_TIMEOUT"
    assert bench.counts == (0, 1, 1)
    release.set()
    assert await bench.freed.get() == "t"
    assert bench.counts == (0, 0, 0)


async def test_a_thread_sees_that_its_time_is_up() -> None:
    def polite(job: JobContext) -> dict[str, Any]:
        while not job.cancelled:
            pass
        return {"partial": True}

    bench = Bench(polite)
    assert code_of(await bench.run(claimed(timeout=SHORT))) == "API_TIMEOUT"
    assert bench.counts == (0, 0, 0)


async def test_a_thread_that_succeeds_just_after_its_deadline_has_done_its_work() -> None:
    def late(job: JobContext) -> dict[str, Any]:
        threading.Event().wait(0.08)
        return {"done": True}

    patient = Limits(grace=timedelta(seconds=5))
    assert await Bench(late, patient).run(claimed(timeout=SHORT)) == Succeeded(b'{"done":true}')


async def test_a_job_that_found_no_thread_goes_back_unburned(release: threading.Event) -> None:
    bench = Bench(lambda job: release.wait(10) and None)
    hung = [asyncio.create_task(bench.run()) for _ in range(2)]
    await asyncio.sleep(0)
    assert await bench.run(claimed(timeout=SHORT)) is Interrupted.DRAINED
    release.set()
    assert await asyncio.gather(*hung) == [Succeeded(), Succeeded()]
    assert bench.counts == (0, 0, 0)


# -- being told to stop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", list(Interrupted))
async def test_a_task_that_is_stopped_says_why(why: Interrupted) -> None:
    started = asyncio.Event()

    async def handler(job: JobContext) -> None:
        started.set()
        await asyncio.Event().wait()

    bench, job = Bench(handler), claimed()
    running = asyncio.create_task(bench.run(job))
    await started.wait()
    assert bench.counts == (1, 0, 1)
    assert bench.executor.cancel(job.job_id, why)
    assert await running is why
    assert bench.counts == (0, 0, 0)
    assert not bench.executor.cancel(job.job_id, why)


async def start_thread(bench: Bench, job: ClaimedJob, started: threading.Event) -> asyncio.Task[Outcome]:
    running = asyncio.create_task(bench.run(job))
    await asyncio.to_thread(started.wait, 5)
    return running


@pytest.mark.parametrize("why", list(Interrupted))
async def test_a_thread_that_notices_has_been_stopped_even_if_it_just_returns(why: Interrupted) -> None:
    started = threading.Event()

    def handler(job: JobContext) -> dict[str, Any]:
        started.set()
        while not job.cancelled:
            pass
        return {}

    bench, job = Bench(handler), claimed()
    running = await start_thread(bench, job, started)
    bench.executor.cancel(job.job_id, why)
    assert await running is why


@pytest.mark.parametrize(
    ("why", "outcome"),
    [
        (Interrupted.CANCELLED, Succeeded()),
        (Interrupted.DRAINED, Succeeded()),
        (Interrupted.LOST, Interrupted.LOST),
    ],
)
async def test_a_success_before_the_handler_noticed_stands_unless_the_claim_is_lost(
    why: Interrupted, outcome: Outcome, release: threading.Event
) -> None:
    started = threading.Event()

    def handler(job: JobContext) -> None:
        started.set()
        release.wait(10)

    bench, job = Bench(handler), claimed()
    running = await start_thread(bench, job, started)
    bench.executor.cancel(job.job_id, why)
    release.set()
    assert await running == outcome


async def test_a_cancelled_thread_is_given_until_its_deadline_and_a_drained_one_is_not(
    release: threading.Event,
) -> None:
    started = threading.Event()

    def handler(job: JobContext) -> None:
        started.set()
        release.wait(10)

    bench, job = Bench(handler), claimed()
    running = await start_thread(bench, job, started)
    bench.executor.cancel(job.job_id, Interrupted.CANCELLED)
    done, _ = await asyncio.wait([running], timeout=3 * QUICK.grace.total_seconds())
    assert not done
    bench.executor.cancel(job.job_id, Interrupted.DRAINED)
    assert await running is Interrupted.CANCELLED  # the first reason stands
    assert bench.counts == (0, 1, 1)


async def test_being_told_again_changes_nothing_but_a_lost_claim_does() -> None:
    started, stops = asyncio.Event(), 0

    async def slow_to_clean_up(job: JobContext) -> None:
        nonlocal stops
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stops += 1
            await asyncio.sleep(0.03)
            raise

    bench, job = Bench(slow_to_clean_up), claimed()
    running = asyncio.create_task(bench.run(job))
    await started.wait()
    for why in (Interrupted.CANCELLED, Interrupted.DRAINED, Interrupted.LOST):
        bench.executor.cancel(job.job_id, why)
        await asyncio.sleep(0)
    assert await running is Interrupted.LOST
    assert stops == 1


async def test_only_the_named_delivery_is_stopped() -> None:
    started = asyncio.Event()

    async def handler(job: JobContext) -> None:
        started.set()
        await asyncio.Event().wait()

    bench, job = Bench(handler), claimed()
    running = asyncio.create_task(bench.run(job))
    await started.wait()
    assert not bench.executor.cancel(job.job_id, Interrupted.LOST, delivery=2)
    assert bench.executor.cancel(job.job_id, Interrupted.LOST, delivery=3)
    assert await running is Interrupted.LOST


async def test_closing_stops_what_runs() -> None:
    async def handler(job: JobContext) -> None:
        await asyncio.Event().wait()

    bench = Bench(handler)
    running = [asyncio.create_task(bench.run()) for _ in range(3)]
    await asyncio.sleep(0)
    bench.executor.close()
    bench.executor.close()
    assert await asyncio.gather(*running) == [Interrupted.DRAINED] * 3


async def test_a_caller_that_goes_away_takes_the_handler_with_it() -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def handler(job: JobContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    bench = Bench(handler)
    running = asyncio.create_task(bench.run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await stopped.wait()
    await asyncio.sleep(0)
    assert bench.counts == (0, 0, 0)


async def test_a_type_without_a_handler_goes_back() -> None:
    assert await Bench(describe).run(claimed("other")) is Interrupted.DRAINED


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
