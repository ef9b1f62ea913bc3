"""Loops that outlive their bad moments, and a process that stops when it is told."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest

from jobkit.domain.errors import store_unavailable
from jobkit.runtime import lifecycle
from jobkit.runtime.lifecycle import Loops, StopSignal


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No jitter to speak of: backoffs are a tenth of a second at most."""
    monkeypatch.setattr(lifecycle.random, "uniform", lambda low, high: 0.01)


class Body:
    """A loop's body that fails as told; `calls` can be awaited."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0
        self._called = asyncio.Event()

    async def __call__(self) -> None:
        self.calls += 1
        self._called.set()
        if self.errors:
            raise self.errors.pop(0)

    async def reached(self, calls: int) -> None:
        async with asyncio.timeout(5):
            while self.calls < calls:
                self._called.clear()
                await self._called.wait()


async def test_every_runs_again_and_again_until_stopped() -> None:
    loops, body = Loops(), Body()
    loops.every(0.001, "body", body)
    await body.reached(3)
    await loops.stop()
    calls = body.calls
    await asyncio.sleep(0.01)
    assert body.calls == calls
    await loops.stop()


@pytest.mark.usefixtures("hasty")
async def test_a_loop_that_raises_is_logged_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    loops, body = Loops(), Body(store_unavailable("database"), store_unavailable("database"), OSError("x"))
    loops.every(0.001, "body", body)
    with caplog.at_level(logging.WARNING, "jobkit.runtime.lifecycle"):
        await body.reached(3)
        assert "body" in loops.failing
        await body.reached(5)
    assert loops.failing == {}
    assert [record.getMessage() for record in caplog.records] == [
        "loop body failed, going on: database is unavailable"
    ]
    assert not caplog.records[0].exc_info  # news enough in one line
    await loops.stop()


@pytest.mark.usefixtures("hasty")
async def test_an_unexpected_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Exception):
        reason = None  # as ssl.SSLError has it

    loops, body = Loops(), Body(Odd("odd"))
    loops.spawn("body", body)
    with caplog.at_level(logging.WARNING, "jobkit.runtime.lifecycle"):
        await body.reached(2)
    assert caplog.records[0].exc_info
    await loops.stop()


@pytest.mark.usefixtures("hasty")
async def test_a_body_that_returns_is_run_again() -> None:
    loops, body = Loops(), Body()
    loops.spawn("body", body)
    await body.reached(3)
    await loops.stop()


@pytest.mark.usefixtures("hasty")
async def test_a_loop_that_had_recovered_is_logged_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "WELL_SECONDS", -1.0)  # every run counts as a long one
    loops, body = Loops(), Body(OSError("first"), OSError("second"))
    loops.spawn("body", body)
    with caplog.at_level(logging.WARNING, "jobkit.runtime.lifecycle"):
        await body.reached(3)
    assert len(caplog.records) == 2
    await loops.stop()


@pytest.mark.usefixtures("hasty")
async def test_waiting_long_for_nothing_is_no_recovery(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane waits as long as a backoff for its broker before it gives up: a thousand of them filled the log."""
    monkeypatch.setattr(lifecycle, "MAX_BACKOFF", -1.0)  # every run lasts longer
    loops, body = Loops(), Body(*(store_unavailable("broker") for _ in range(5)))
    loops.spawn("body", body, max_backoff=0.001)
    with caplog.at_level(logging.WARNING, "jobkit.runtime.lifecycle"):
        await body.reached(6)
    assert len(caplog.records) == 1
    await loops.stop()


async def test_once_runs_once_and_its_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    loops, body = Loops(), Body(OSError("x"))
    loops.once("body", body)
    await body.reached(1)
    await asyncio.sleep(0)
    await loops.stop()
    assert body.calls == 1
    assert [record.getMessage() for record in caplog.records] == ["body failed"]


async def test_stop_before_a_start_is_nothing() -> None:
    await Loops().stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_and_a_later_one_ends_at_once(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(lifecycle.os, "_exit", exits.append)
    monkeypatch.setattr(lifecycle.logging, "shutdown", lambda: None)
    stop = StopSignal()
    stop.install()
    try:
        waiting = asyncio.create_task(stop.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await waiting
        os.kill(os.getpid(), number)  # what a whole group was sent, and make passes on as well
        await asyncio.sleep(0.05)
        assert exits == []
        monkeypatch.setattr(lifecycle, "SAME_REQUEST_SECONDS", 0.01)
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        assert exits == [1]
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(each)


async def test_a_stop_may_come_before_anybody_waits() -> None:
    stop = StopSignal()
    stop.set()
    await stop.wait()
