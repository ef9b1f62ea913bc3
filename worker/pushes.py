"""Pushes: the newest of each kind is applied, one after the other, and answered. By the rules of xDS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from selfheal.control.v1 import control_stream_pb2 as wire

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

# Returns once the resources are in force. ValueError: they cannot be; anything else: they could not be.
Applier = Callable[[Sequence[AnyMessage]], Awaitable[None]]
APPLY_SECONDS = 10.0
MAX_ERROR = 500


def unpacked(resources: Iterable[AnyMessage], kind: type[M]) -> list[M]:
    """The resources as messages of `kind`. Raises ValueError where one is something else."""
    found = []
    for packed in resources:
        message = kind()
        try:
            if not packed.Unpack(message):
                raise ValueError(f"a resource is of type {packed.type_url}, not {kind.DESCRIPTOR.full_name}")
        except DecodeError as error:
            raise ValueError(f"a resource of type {packed.type_url} cannot be read") from error
        found.append(message)
    return found


class Pushes:
    """`held` survives streams: what is in force, by kind. A kind without an applier is refused."""

    def __init__(self, appliers: Mapping[str, Applier]) -> None:
        self._appliers = appliers
        self.held: dict[str, int] = {}
        self._waiting: dict[str, wire.Push] = {}
        self._ready = asyncio.Event()

    def put(self, push: wire.Push) -> None:
        """In place of one of its kind that still waits."""
        self._waiting[push.kind] = push
        self._ready.set()

    def forget(self) -> None:
        """The stream has ended: its nonces mean nothing any more."""
        self._waiting.clear()

    async def run(self, answer: Callable[[wire.PushAck], None]) -> None:
        """Apply and answer for ever. What was superseded while it was being applied is not answered."""
        while True:
            self._ready.clear()
            while self._waiting:
                push = self._waiting.pop(next(iter(self._waiting)))
                refusal = await self._apply(push)
                if refusal is None:
                    self.held[push.kind] = push.version
                if push.kind not in self._waiting:
                    ack = wire.PushAck(nonce=push.nonce, version=push.version, kind=push.kind, error=refusal)
                    answer(ack)
            await self._ready.wait()

    async def _apply(self, push: wire.Push) -> Status | None:
        """None once it is in force, else why not."""
        applier = self._appliers.get(push.kind)
        if applier is None:
            return _refusal(code_pb2.UNIMPLEMENTED, f"unknown kind '{push.kind}'")
        try:
            async with asyncio.timeout(APPLY_SECONDS):
                await applier(push.resources)
        except ValueError as wrong:
            return _refusal(code_pb2.INVALID_ARGUMENT, str(wrong))
        except TimeoutError:
            return _refusal(code_pb2.DEADLINE_EXCEEDED, f"not in force after {APPLY_SECONDS:g} s")
        except Exception as error:
            _log.exception("%s v%d could not be applied", push.kind, push.version)
            return _refusal(code_pb2.INTERNAL, type(error).__name__)
        return None


def _refusal(code: int, message: str) -> Status:
    return Status(code=code, message=message[:MAX_ERROR])
