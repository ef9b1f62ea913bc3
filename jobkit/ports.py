"""The ports: what the product needs from the world. Each has an embedded and a real adapter, which pass the
same contract tests. Every method may raise `errors.Unavailable` where its world is away, and nothing of a driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from jobkit.domain.breaker import BreakerRecord, Evidence, Transition, Window
from jobkit.domain.job import Token

# -- dispatch: tokens that say which job may run next -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A token to publish; `delay` is 0 or a rung of `retry.LADDER`, in milliseconds."""

    token: Token
    delay: int = 0


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

    async def start(self) -> None:
        """Connect; returns once connected or raises Unavailable, and keeps reconnecting afterwards."""

    async def publish(self, batch: Sequence[Dispatch]) -> list[bool]:
        """Publish in order, one answer each: True once the broker has taken responsibility. False means
        unknown or refused; it never raises for the broker's sake. Declares queues on first use."""

    async def open_lane(self, job_type: str, receive: Callable[[Delivery], None]) -> Lane:
        """The lane of `job_type`, declared and not yet consuming. `receive` must not block."""

    async def depth(self, job_type: str) -> int:
        """Tokens ready in the type's queue; 0 when there is no such queue."""

    async def drop_intake(self, limit: int) -> list[tuple[bytes, Mapping[str, str]]]:
        """Take up to `limit` undecodable messages (body, headers) out of the intake for good."""

    async def close(self) -> None:
        """Close connections in order. Safe to repeat."""


# -- breakers: hot shared state ------------------------------------------------------------------------------------


class BreakerStore(Protocol):
    """Shared breaker state. It stores and compares; `domain.breaker` decides. Its clock is the store's."""

    async def now(self) -> int:
        """The store's time in milliseconds."""

    async def read(self, names: Sequence[str]) -> dict[str, BreakerRecord]:
        """The records of those breakers that exist, in one round trip."""

    async def create(self, name: str) -> None:
        """Make a CLOSED breaker of generation 0 exist; keeps one that does."""

    async def report(self, name: str, evidence: Evidence, sample: int, window: int) -> Window:
        """Add evidence (dropped when its generation is not the current one) and return the window of the
        last `window` ms with at most `sample` recent outcomes, after the addition. Atomic."""

    async def window(self, name: str, sample: int, window: int) -> Window:
        """The window without adding to it."""

    async def swap(self, name: str, generation: int, record: BreakerRecord) -> bool:
        """Replace the record if its generation is still `generation`; a record of a CLOSED state also
        forgets all evidence. False: somebody else was first. Bumps the change counter and tells watchers.
        `breaker:<name>` and `failure:*` are written beside it."""

    async def take_permit(self, name: str, generation: int, holder: str, permits: int, lease: timedelta) -> bool:
        """One of `permits` leased probe permits of this generation, if one is free."""

    async def return_permit(self, name: str, generation: int, holder: str) -> None:
        """Give a permit back; nothing happens when it is not held."""

    async def version(self) -> int:
        """The change counter: it moves with every swap and create."""

    def changes(self) -> AsyncIterator[str]:
        """Names of breakers as they change, hurried by push; may miss some, so poll `version` too."""

    async def close(self) -> None:
        """Safe to repeat."""


# -- signals between processes: hints that hurry, never the truth --------------------------------------------------


class Signals(Protocol):
    """Small best-effort messages between processes. Losing one costs time (a poll finds out), never a job."""

    async def send(self, channel: str, ids: Sequence[UUID]) -> None:
        """Tell every listener of `channel`; silently does nothing when the carrier is away."""

    def listen(self, channel: str, heard: Callable[[Sequence[UUID]], None]) -> Callable[[], None]:
        """Call `heard` for each message until the returned function is called."""

    async def close(self) -> None:
        """Safe to repeat."""


# -- the database: the one truth -----------------------------------------------------------------------------------


class Ledger(Protocol):
    """Every breaker transition, in commit order, and the holds that follow from it."""

    async def record(self, breaker: str, transitions: Sequence[Transition]) -> int:
        """Insert those that are missing (unique by breaker and generation), set or lift the type's hold to
        match the newest, and return the ledger's revision. Idempotent."""
