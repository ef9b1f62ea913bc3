"""Dispatch: tokens that say which job may run next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobkit.domain.job import Token
from jobkit.domain.lean import lean


@lean
@dataclass(frozen=True, slots=True)
class Dispatch:
    """A token to publish; `delay` is 0 or a rung of `retry.LADDER`, in milliseconds."""

    token: Token
    delay: int = 0


Undecodable = tuple[bytes, Mapping[str, str]]
"""A message that is no token: its body and its headers."""


class Delivery(Protocol):
    """A token in a worker's hand, not yet acknowledged."""

    @property
    def token(self) -> Token | None:
        """None when the message could not be decoded: file it with `Lane.quarantine`."""

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before (a crash, a return)."""

    @property
    def live(self) -> bool:
        """False once the channel that it came on is gone: the broker will deliver it again."""


class Lane(Protocol):
    """One job type's way from the broker to this process: its own channel, at most one consumer."""

    @property
    def job_type(self) -> str: ...

    @property
    def consuming(self) -> bool:
        """Whether the broker has our consumer *now*; compare with what was asked for."""

    async def consume(self, prefetch: int) -> None:
        """Start consuming, or change the prefetch; reopens what is closed. Deliveries go to the lane's
        `receive` callback in order, at most `prefetch` unacknowledged."""

    async def pause(self) -> None:
        """Stop consuming. What is in hand stays in hand."""

    async def take(self) -> Delivery | None:
        """One token now, without a consumer; None when the queue is empty."""

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these; one write. Those no longer live are skipped."""

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Back to their place in the queue, marked redelivered. Those no longer live are skipped."""

    async def quarantine(self, delivery: Delivery) -> None:
        """Put an undecodable message aside in the intake with its headers, confirmed, then acknowledge it."""

    async def close(self) -> None:
        """Stop consuming and close the channel; what is in hand goes back to the queue. Safe to repeat."""


class Dispatcher(Protocol):
    """Carries tokens from whoever queued a job to whoever may run it; one FIFO queue per job type."""

    @property
    def volatile(self) -> bool:
        """True when queues die with the process: then a start publishes again all that waits."""

    @property
    def available(self) -> bool:
        """Whether a publish is worth trying."""

    @property
    def delivering(self) -> bool:
        """Whether tokens can come to us; also while we may not publish (a broker short of memory)."""

    async def start(self) -> None:
        """Connect; returns once connected or raises Unavailable, and keeps reconnecting afterwards."""

    async def publish(self, batch: Sequence[Dispatch]) -> list[bool]:
        """Publish in order, one answer each: True once the broker has taken responsibility. False means
        unknown or refused; it never raises for the broker's sake. Declares queues on first use."""

    async def open_lane(self, job_type: str, receive: Callable[[Delivery], None]) -> Lane:
        """The lane of `job_type`, declared and not yet consuming. `receive` must not block."""

    async def depth(self, job_type: str) -> int:
        """Tokens ready in the type's queue; 0 when there is no such queue."""

    async def drop(self, job_type: str) -> bool:
        """Delete the type's queue with what lies on it, unless somebody consumes from it; whether it is gone now.
        For a type without a job: a token there is a surplus, or that of a job which has come just now, and is
        missed and published again."""

    async def drain_intake(self, limit: int, keep: Callable[[Sequence[Undecodable]], Awaitable[None]]) -> int:
        """Hand up to `limit` undecodable messages to `keep`, and take them out of the intake once it returns;
        they stay there when it raises. Returns how many."""

    async def close(self) -> None:
        """Close connections in order. Safe to repeat."""
