"""What follows from the ledger's values alone, and the ledger that tells of its growth."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.feed import Feed
from jobkit.adapters.embedded.signals import EmbeddedSignals
from jobkit.domain.breaker import BreakerRecord, BreakerState, Cause, Transition
from jobkit.domain.ledger import Entry, Incident, Stretch, run_times
from jobkit.domain.retry import RetryPolicy
from jobkit.host.ledger import CHANNEL, TellingLedger

OVER = Incident(1, "email", 10_000, Cause.EVIDENCE, first_failure_at=9_400, closed_at=70_000)


@pytest.mark.parametrize(
    ("policy", "times"),
    [
        (RetryPolicy(), (0, 5_000, 15_000, 35_000)),
        (RetryPolicy(max_attempts=1), (0,)),
        (RetryPolicy(max_attempts=6), (0, 5_000, 15_000, 35_000, 65_000, 95_000)),
        (RetryPolicy(base_delay=timedelta(milliseconds=250), max_attempts=3), (0, 250, 750)),
    ],
)
def test_when_a_job_would_have_run(policy: RetryPolicy, times: tuple[int, ...]) -> None:
    assert run_times(policy) == times


def test_times_of_an_incident() -> None:
    assert OVER.time_to_detect == timedelta(milliseconds=600)
    assert OVER.time_to_recover == timedelta(seconds=60)
    # Clocks of two stores may differ: never below nothing.
    assert replace(OVER, first_failure_at=11_000).time_to_detect == timedelta()
    assert replace(OVER, closed_at=9_000).time_to_recover == timedelta()
    assert replace(OVER, close_cause=Cause.EVIDENCE).good_probe_at == 70_000
    assert replace(OVER, close_cause=Cause.OPERATOR).good_probe_at is None


class FakeLedger:
    def __init__(self) -> None:
        self.revision = 0

    async def record(self, record: BreakerRecord) -> int:
        self.revision += 1
        return self.revision

    async def heads(self, names: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(names, 7)

    async def latest(self, names: Sequence[str] | None = None) -> dict[str, BreakerRecord]:
        return {name: BreakerRecord(name) for name in names or ()}


async def test_a_record_is_signalled_with_its_revision() -> None:
    signals = EmbeddedSignals()
    heard: list[Sequence[UUID]] = []
    signals.listen(CHANNEL, heard.append)
    ledger = TellingLedger(FakeLedger(), signals)
    assert await ledger.record(BreakerRecord("email")) == 1
    await asyncio.sleep(0)
    assert heard == [(UUID(int=1),)]
    assert await ledger.heads(["email"]) == {"email": 7}
    assert await ledger.latest(["email"]) == {"email": BreakerRecord("email")}


class FakeHistory:
    """A ledger of `total` entries over three breakers, which grows as the test says."""

    def __init__(self) -> None:
        self.total = 0

    async def head(self) -> int:
        return self.total

    async def after(self, revision: int, breaker: str | None, limit: int) -> Stretch:
        move = Transition(BreakerState.CLOSED, BreakerState.OPEN, 1, 1, Cause.EVIDENCE)
        all_entries = (Entry(n, f"type{n % 3}", move) for n in range(revision + 1, self.total + 1))
        found = [e for e in all_entries if breaker in (None, e.breaker)][:limit]
        return Stretch(tuple(found), found[-1].revision if len(found) == limit else self.total)


@given(
    before=st.integers(0, 40),
    growth=st.lists(st.integers(0, 60), max_size=8),
    start=st.integers(0, 40),
    breaker=st.sampled_from([None, "type0", "type1"]),
)
def test_memory_and_database_together_tell_everything_once(
    before: int, growth: list[int], start: int, breaker: str | None
) -> None:
    """However the ledger grows between looks, and wherever a watcher begins."""

    async def run() -> None:
        history = FakeHistory()
        history.total = before
        feed = Feed(history, EmbeddedSignals())  # type: ignore[arg-type]
        cursor, seen = min(start, before), list[int]()
        for more in [*growth, 0]:
            history.total += more
            await feed.catch_up()
            while cursor < history.total:
                stretch = feed.after(cursor, breaker) or await history.after(cursor, breaker, 7)
                seen += [entry.revision for entry in stretch.entries]
                assert stretch.revision > cursor
                cursor = stretch.revision
        await feed.close()
        wanted = range(min(start, before) + 1, history.total + 1)
        assert seen == [n for n in wanted if breaker in (None, f"type{n % 3}")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("controlplane.feed.KEPT", 25)
        patch.setattr("controlplane.feed.PAGE", 9)
        asyncio.run(run())
