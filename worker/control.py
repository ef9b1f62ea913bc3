"""The worker's side of the control stream: connected whenever it can be, and never needed for a job."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

import grpc
from google.rpc.status_pb2 import Status
from selfheal.control.v1 import control_stream_service_pb2_grpc

from jobkit.runtime.health import NotYet
from jobkit.runtime.lifecycle import Loops
from worker.stream import Stream, StreamLost, StreamParts, told

_log = logging.getLogger(__name__)

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
LONG_ENOUGH = 5.0  # seconds after which a stream counts as a success
OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A new attempt is a new connection, never the one whose other end has gone.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
)


def pause_before(failures: int, fraction: float) -> float:
    """Seconds before the next attempt after `failures` in a row (from 1); `fraction` in [0, 1) is the random draw.
    Full jitter ("Exponential Backoff And Jitter", AWS, 2015), but for a floor: a fleet must not come back as one."""
    ceiling: float = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE)
    return ceiling * (0.1 + 0.9 * fraction)


class Control:
    """Keeps one stream to the control plane at `target` (host:port) open from `start` to `stop`."""

    def __init__(self, target: str, parts: StreamParts) -> None:
        self._target = target
        self._parts = parts
        self._answered: dict[str, Status | None] = {}
        self._stream: Stream | None = None
        self._connected = False
        self._why: str | None = None
        self._loops = Loops()

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def unreported(self) -> int:
        """Breaker moves that have no receipt yet."""
        return self._parts.reports.waiting

    def nudge(self) -> None:
        """Something changed that is worth a heartbeat."""
        if self._stream is not None:
            self._stream.nudge()

    async def check(self) -> None:
        """For health: raises ConnectionError while there is no stream, and NotYet before the first try."""
        if self._connected:
            return
        if self._why is None:
            raise NotYet
        raise ConnectionError(f"not connected to {self._target}: {self._why}")

    def start(self) -> None:
        self._loops.spawn("control-stream", self._run)

    async def stop(self) -> None:
        """Safe to repeat."""
        await self._loops.stop()

    async def _run(self) -> None:
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                await self._converse()
            except (StreamLost, grpc.aio.AioRpcError) as lost:
                why = told(lost)
                level = logging.INFO if self._connected or why != self._why else logging.DEBUG
                _log.log(level, "no control stream to %s: %s", self._target, why)
                self._why = why
            finally:
                self._connected, self._stream = False, None
            failures = 1 if loop.time() - began > LONG_ENOUGH else failures + 1
            await asyncio.sleep(pause_before(failures, random.random()))  # noqa: S311 - jitter

    async def _converse(self) -> None:
        """One stream. Raises StreamLost or AioRpcError when it ends."""
        channel = grpc.aio.insecure_channel(self._target, options=OPTIONS)
        try:
            # The stubs type their aio methods apart from these.
            call = control_stream_service_pb2_grpc.ControlStreamServiceStub(channel).Connect()
            self._stream = Stream(call, self._parts, self._answered)
            await self._stream.run(self._on_connected)
        finally:
            await channel.close()  # cancels the call, which the other side is told

    def _on_connected(self) -> None:
        _log.info("control stream to %s is open", self._target)
        self._connected = True
