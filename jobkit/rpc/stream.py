"""A server's stream over HTTP: lines of JSON, each sent as soon as there is one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

LINES = "application/x-ndjson"
# A reader that takes nothing for so long is gone: it could hold its connection, and its place here, for ever.
STALLED_SECONDS = 30.0


class ReaderGone(Exception):
    """Nobody reads this answer any more."""


class Lines:
    """Answers `request` line by line. The headers go out with the first line, so that until then an error can still
    be told in the ordinary way. Nothing is queued: `send` waits until the line is on its way."""

    def __init__(self, request: web.Request, stalled: float = STALLED_SECONDS) -> None:
        self._request = request
        self._stalled = stalled
        self._response: web.StreamResponse | None = None

    @property
    def begun(self) -> bool:
        return self._response is not None

    async def send(self, line: bytes) -> None:
        """Raises ReaderGone, also for one that has not read for too long."""
        try:
            async with asyncio.timeout(self._stalled):
                response = await self._begin()
                await response.write(line + b"\n")
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ReaderGone from None
        except ConnectionError as error:
            raise ReaderGone from error

    async def end(self, line: bytes = b"") -> web.StreamResponse:
        """After a last line, if there is one."""
        response = await self._begin()
        with suppress(ReaderGone, ConnectionError):
            if line:
                await self.send(line)
            await response.write_eof()
        return response

    async def _begin(self) -> web.StreamResponse:
        if self._response is None:
            response = web.StreamResponse(headers={"Content-Type": LINES, "X-Accel-Buffering": "no"})
            await response.prepare(self._request)
            self._response = response
        return self._response
