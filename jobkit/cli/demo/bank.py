"""The dependency of the demo: a little bank on a loopback port, which can die, and which takes only so many calls."""

from __future__ import annotations

import asyncio
from contextlib import suppress

TAKEN, BUSY = b"TAKEN\n", b"BUSY\n"
BURST_SECONDS = 0.25  # how much of a second's capacity may come at once
ANSWER_SECONDS = 0.03


class Bank:
    """Takes `capacity` payments a second and answers BUSY beyond. While it is down it hangs up on who calls."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.up = True
        self.calls = self.taken = self.hung_up = self.busy = 0
        self._room = self._most = capacity * BURST_SECONDS
        self._at = 0.0
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """`host:port`, while it is started."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def refused(self) -> int:
        """Calls that came to nothing."""
        return self.hung_up + self.busy

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        if not self.up:
            self.hung_up += 1
            writer.transport.abort()
            return
        with suppress(OSError):
            await reader.readline()
            writer.write(await self._take())
            await writer.drain()
        writer.close()

    async def _take(self) -> bytes:
        now = asyncio.get_running_loop().time()
        self._room = min(self._room + (now - self._at) * self.capacity, self._most)
        self._at = now
        if self._room < 1:
            self.busy += 1
            return BUSY
        self._room -= 1
        await asyncio.sleep(ANSWER_SECONDS)
        self.taken += 1
        return TAKEN
