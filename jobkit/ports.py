"""The ports: what the product needs from the world. Each has an embedded and a real adapter, which pass the
same contract tests. Every method may raise `errors.Unavailable` where its world is away, and nothing of a driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from jobkit.domain.breaker import BreakerRecord, Evidence, Window
from jobkit.domain.filter import JobFilter, PageToken
from jobkit.domain.job import Attempt, ClaimedJob, Job, NewJob, Token
from jobkit.domain.retry import Decision

# -- dispatch: tokens that say which job may run next -----------------------------------------------------------


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
        """Delete the type's queue if it is empty and nobody consumes from it; whether it is gone now."""

    async def drain_intake(self, limit: int, keep: Callable[[Sequence[Undecodable]], Awaitable[None]]) -> int:
        """Hand up to `limit` undecodable messages to `keep`, and take them out of the intake once it returns;
        they stay there when it raises. Returns how many."""

    async def close(self) -> None:
        """Close connections in order. Safe to repeat."""


# -- breakers: hot shared state ------------------------------------------------------------------------------------


class BreakerStore(Protocol):
    """Shared breaker state. It stores and compares; `domain.tripping` decides. Its clock is the store's.
    A breaker that does not exist counts as CLOSED of generation 0."""

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
        """Replace the record if its generation is still `generation` and the new one is greater (or the same
        with more successes); a record of a CLOSED state also forgets all evidence. False: somebody else was
        first. Bumps the change counter and tells watchers. `breaker:<name>` and `failure:*` are written
        beside it."""

    async def take_permit(
        self, name: str, generation: int, holder: str, permits: int, lease: timedelta
    ) -> bool:
        """One of `permits` leased probe permits of this generation, if one is free."""

    async def return_permit(self, name: str, generation: int, holder: str) -> None:
        """Give a permit back; nothing happens when it is not held."""

    async def version(self) -> int:
        """The change counter: it moves with every swap and create, and maybe without; a wipe resets it."""

    async def failures(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """For display: failed attempts by code within the window last reported with, in one round trip. Only
        names that have any, so a caller sums or lists what is there."""

    async def repair(self, names: Sequence[str]) -> None:
        """Write the operator-readable copies anew where they differ from the truth, and nothing else."""

    def changes(self) -> AsyncIterator[str]:
        """Names of breakers as they change from this call until `close`, hurried by push; may miss some, so
        poll `version` too."""

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

    async def record(self, record: BreakerRecord) -> int:
        """Insert the record's transitions that are missing (unique by breaker and generation), set or lift
        the type's hold to match the record unless a newer generation did, and return the ledger's revision.
        Idempotent."""

    async def latest(self) -> dict[str, BreakerRecord]:
        """Each breaker as its last 16 transitions tell it: what a wiped breaker store is rebuilt from."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to one submit: `existed` when its request_id had been seen before with the same content."""

    job_id: UUID
    existed: bool


class Intake(Protocol):
    """Accepting jobs."""

    async def insert(
        self, batch: Sequence[NewJob], *, session: UUID | None, now: int, marks: Mapping[str, int]
    ) -> list[Accepted | Exception]:
        """Insert in one commit, as QUEUED under the publisher `session`, or PENDING when it is None. `marks`
        gives each type's hold mark. Answers item by item: AlreadyExists, InvalidJob. Raises Unavailable, and
        then nothing may be called accepted."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a token got no claim. `retry_in` is set when the token should come back after that time: the job
    runs elsewhere under a live lease, or is not due yet. None: the token has no job to run, drop it."""

    retry_in: timedelta | None


@dataclass(frozen=True, slots=True)
class Held:
    """A live claim as its worker holds it: the fence is `delivery`."""

    job_id: UUID
    delivery: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to write about one finished run. `at` is the fence, `entry` the attempt for the history."""

    at: Held
    decision: Decision
    history: tuple[Attempt, ...]
    session: UUID | None = None


class WorkStore(Protocol):
    """What a worker does to the rows of jobs. Every call carries the fence; a stale one changes nothing."""

    async def claim(
        self, ids: Sequence[UUID], *, claim_id: UUID, worker_id: str, lease: timedelta
    ) -> Mapping[UUID, ClaimedJob | Miss]:
        """Claim in one statement. Repeating it with the same `claim_id` after a lost reply wins again."""

    async def renew(self, held: Sequence[Held], *, lease: timedelta) -> tuple[set[UUID], set[UUID]]:
        """Extend leases; returns (still ours, of those: asked to cancel)."""

    async def mark_alone(self, held: Held) -> bool:
        """This claim runs with nothing beside it in its process: should it be lost, that counts as such. False: the
        claim is lost already."""

    async def progress(self, marks: Sequence[tuple[Held, int, int]]) -> None:
        """Record (processed, total) of running jobs."""

    async def settle(self, batch: Sequence[Settlement]) -> list[bool]:
        """Record outcomes in one commit; False: the claim was lost and nothing was written. Repeatable."""


class JobReader(Protocol):
    """Reading jobs, with holds applied: a held job reads as QUARANTINED."""

    async def get(self, ids: Sequence[UUID]) -> dict[UUID, Job]:
        """Those that exist."""

    async def page(
        self, query: JobFilter, size: int, after: PageToken | None
    ) -> tuple[list[Job], PageToken | None]:
        """One page, newest first, and where the next one starts."""

    async def count_waiting_of(self, names: Sequence[str], limit: int) -> dict[str, int]:
        """Waiting jobs of each type, counted up to `limit`."""


class Steering(Protocol):
    """What people do to single jobs. Each returns the job as it is afterwards; NotFound, Precondition."""

    async def cancel(self, job_id: UUID) -> Job: ...

    async def retry(self, job_id: UUID, payload: bytes | None, session: UUID) -> tuple[Job, Token | None]:
        """Back to work; the token is to be published, or None for a held job whose place in line stays."""

    async def discard(self, job_id: UUID) -> Job: ...


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """A job type. `hold_number` grows with each hold; times are database milliseconds."""

    job_type: str
    hold_number: int = 0
    held: bool = False
    held_since: int | None = None
    held_until: int | None = None

    @property
    def mark(self) -> int:
        """The hold mark of a job queued now: one queued during a hold counts that hold."""
        return self.hold_number - 1 if self.held else self.hold_number


class TypeCatalog(Protocol):
    """The truth about job types."""

    async def ensure(self, names: Sequence[str], limit: int) -> list[str]:
        """Insert those unseen, up to `limit` types in all; returns those that did not fit."""

    async def all(self) -> dict[str, TypeInfo]: ...


class Sessions(Protocol):
    """Publishers and what they answer for. A row names its publisher's session; one row a second per publisher
    replaces a second write per job."""

    async def beat(self, session: UUID, component: str, confirmed_to: UUID | None) -> int:
        """I live, and tokens of ids below `confirmed_to` (None: all) are settled. Returns database ms."""

    async def orphan(self, session: UUID, ids: Sequence[UUID]) -> None:
        """The broker did not take these tokens: their waiting rows become nobody's, hence overdue."""

    async def leave(self, session: UUID) -> None:
        """A clean good-bye."""


class Presence(Protocol):
    """Which workers live, what they serve and how far they are."""

    async def beat(self, worker_id: str, serves: Sequence[str], fronts: Mapping[str, int]) -> None:
        """`serves` lists job types, "*" for all; `fronts` the smallest due time (database ms) claimed since
        the last beat, by type."""

    async def leave(self, worker_id: str) -> None:
        """A clean good-bye."""

    async def served_types(self, within: timedelta) -> set[str]:
        """Types that a worker serves which beat `within`; "*" when one serves every type."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A RUNNING row whose lease has run out by database time."""

    held: Held
    lease_until: int


class Recovery(Protocol):
    """What the reconcilers do: find what nobody answers for, make it theirs, and publish it again. Each takes
    at most `limit` rows, locked so that two control planes never take the same."""

    async def take_overdue(self, session: UUID, limit: int) -> list[Token]:
        """Waiting rows that nobody answers for and whose time has come; now QUEUED under `session`."""

    async def take_orphans(self, session: UUID, silent: timedelta, limit: int) -> list[Token]:
        """QUEUED rows of publishers that stopped beating, from their confirmed_to on; now under `session`."""

    async def fronts(self, within: timedelta) -> dict[str, int]:
        """By type: the smallest due time that live workers are claiming now."""

    async def take_lost(self, session: UUID, job_type: str, due_before: int, limit: int) -> list[Token]:
        """Waiting rows of the type with a due time before `due_before`; now under `session` and due now, so
        that each is published again once and not on every pass."""

    async def oldest_waiting(self) -> dict[str, int]:
        """By type with waiting rows whose time has come: the smallest due time."""

    async def expired(self, limit: int) -> list[Lease]:
        """RUNNING rows whose lease has run out."""

    async def rescue(self, session: UUID, leases: Sequence[Lease]) -> list[Token]:
        """Those still unrenewed go back to QUEUED under `session`, one loss more."""

    async def waiting_pages(self, limit: int) -> AsyncIterator[list[tuple[Token, int]]]:
        """All that waits with its remaining delay in ms, in order, in pages: to fill volatile queues. Running
        rows are released first; call it only when no worker can be alive."""

    async def count_waiting(self) -> dict[tuple[str, str], int]:
        """Rows that wait or run or are quarantined, by (type, state); held ones count as "HELD"."""

    async def file_undecodable(self, messages: Sequence[Undecodable]) -> None:
        """Keep messages that no worker could decode, for a person."""


@dataclass(frozen=True, slots=True)
class Ages:
    """How old rows may get, in milliseconds: finished jobs; quarantined ones, the ledger and filed messages;
    what workers that are gone left behind."""

    finished_ms: int
    quarantined_ms: int
    silent_ms: int = 3_600_000


@dataclass(frozen=True, slots=True)
class PurgeStep:
    """What one step removed, and where the next goes on: None at the end of what is old."""

    removed: int
    after: UUID | None


class Retention(Protocol):
    """Rows that have had their time."""

    async def purge(self, after: UUID, ages: Ages, limit: int) -> PurgeStep:
        """Look at up to `limit` jobs with ids above `after`, oldest first, and remove those that are too old,
        with their labels and idempotency keys."""

    async def purge_records(self, ages: Ages, limit: int) -> int:
        """Remove what is too old of the ledger (up to `limit`), of filed messages and of workers' traces."""

    async def idle_types(self, older_than_ms: int) -> list[str]:
        """Types made that long ago of which there is no job, and which are not held."""

    async def drop_type(self, job_type: str) -> bool:
        """Forget a type, unless a job of it has come meanwhile."""
