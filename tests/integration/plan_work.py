"""What several statements do together, for the plans of the queries in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import count

from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Transition
from jobkit.domain.errors import Precondition
from jobkit.domain.redrive import NewRedrive
from tests.contract.store_contract import SESSION, Store, new_id

T0 = 1_760_000_000_000
AFTER_ALL = 50_000


def moves() -> Iterator[BreakerRecord]:
    """A breaker that opens and closes for ever."""
    for generation in count(AFTER_ALL):
        to = (BreakerState.OPEN, BreakerState.CLOSED)[generation % 2]
        move = Transition(to, to, generation, T0, Cause.EVIDENCE)
        yield BreakerRecord("type3", to, generation, T0, transitions=(move,))


MOVES = moves()


async def record(store: Store) -> None:
    """An incident of which there is one already ends, another begins and ends."""
    for _ in range(4):
        await store.ledger.record(next(MOVES))


async def redriving(store: Store) -> None:
    """A round of a redrive: begun, some sent, their ends looked at."""
    new = NewRedrive(new_id(), "error.code = API_TIMEOUT", 10_000, "ada", "")
    redrive, _ = await store.redrives.create(new, 1_000)
    for part in redrive.types:
        await store.redrives.take(redrive.redrive_id, part.job_type, SESSION, 100)
        await store.redrives.learn(redrive.redrive_id, part.job_type, 100)
    await store.redrives.active()
    await store.redrives.finish(redrive.redrive_id)
    with suppress(Precondition):
        await store.redrives.cancel(redrive.redrive_id, "ada", "")
