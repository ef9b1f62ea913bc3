"""A TCP proxy that misbehaves on request: what networks do between a component and a server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self
from urllib.parse import urlsplit

RST = struct.pack("ii", 1, 0)
CHUNK = 16 * 1024


class Proxy:
    """Forwards to the server that `url` names while entered; in a thread of its own, so that neither a blocked test
    nor a busy loop slows it. Each fault lasts until `heal`.

    stall     connections are accepted, and nothing passes either way; what was sent arrives once it heals
    half_open the same in one direction only ("up" to the server, "down" to the client)
    slow      each chunk of 16 KB waits `delay` seconds, and for its share of `rate` bytes a second
    cut       connections are closed, new ones refused
    reset     connections are ended by RST, once; new ones are forwarded
    """

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self._delay, self._rate = 0.0, float("inf")
        self.accepted = 0  # connections so far

    @property
    def url(self) -> str:
        """That of the server, by way of the proxy."""
        who, at, _ = self._url.netloc.rpartition("@")
        return self._url._replace(netloc=f"{who}{at}127.0.0.1:{self.port}").geturl()

    def stall(self) -> None:
        self._gate(up=False, down=False)

    def half_open(self, shut: str) -> None:
        self._gate(up=shut != "up", down=shut != "down")

    def slow(self, *, delay: float = 0.0, rate: float = float("inf")) -> None:
        self._delay, self._rate = delay, rate

    def cut(self) -> None:
        self._run(self._cut())

    def reset(self) -> None:
        self._run(self._reset())

    def heal(self) -> None:
        self.slow()
        self._gate(up=True, down=True)
        self._run(self._listen())

    def __enter__(self) -> Self:
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._server: asyncio.Server | None = None
        self.port = 0
        self._thread.start()
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._cut())
        self._gate(up=True, down=True)
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _gate(self, *, up: bool, down: bool) -> None:
        async def turn() -> None:
            for gate, is_open in ((self._up, up), (self._down, down)):
                gate.set() if is_open else gate.clear()

        self._run(turn())

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _reset(self) -> None:
        for writer in list(self._open):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            writer.transport.abort()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._open.add(to_client)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._up.wait()
            server, to_server = await asyncio.open_connection(self._url.hostname, self._url.port)
            self._open.add(to_server)
            pumps = [self._pump(client, to_server, self._up), self._pump(server, to_client, self._down)]
            await asyncio.wait(map(asyncio.ensure_future, pumps), return_when=asyncio.FIRST_COMPLETED)
            to_server.close()
            self._open.discard(to_server)
        to_client.close()
        self._open.discard(to_client)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(CHUNK):
                await asyncio.sleep(self._delay + len(chunk) / self._rate)
                await gate.wait()
                sink.write(chunk)
                await sink.drain()
