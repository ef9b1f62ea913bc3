"""MAX_BACKLOG: refused at the bound, also while nothing is in the database yet; let in again once there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from jobapi.backlog import Backlog
from jobkit.domain.errors import Exhausted, Unavailable, store_unavailable
from jobkit.ports import JobReader


class Counts:
    """The part of `JobReader` that is asked."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        self.asked: list[list[str]] = []
        self.away = False

    async def count_waiting_of(self, names: Sequence[str], limit: int) -> dict[str, int]:
        self.asked.append(list(names))
        if self.away:
            raise store_unavailable("database")
        return {name: min(self.waiting.get(name, 0), limit) for name in names}


@pytest.fixture
def counts() -> Counts:
    return Counts()


def backlog(counts: Any, limit: int = 3) -> Backlog:
    return Backlog(cast(JobReader, counts), limit)


def fill(backlog: Backlog, number: int, job_type: str = "email", *, accepted: bool = True) -> None:
    for _ in range(number):
        backlog.let_in(job_type)
        backlog.came(job_type, 1, int(accepted))


def is_full(backlog: Backlog, job_type: str = "email") -> bool:
    try:
        backlog.let_in(job_type)
    except Exhausted:
        return True
    backlog.came(job_type, 1, 0)
    return False


async def test_what_is_on_its_way_counts_before_it_is_accepted(counts: Counts) -> None:
    backlog_ = backlog(counts)
    for _ in range(3):
        backlog_.let_in("email")
    with pytest.raises(Exhausted) as refused:
        backlog_.let_in("email")
    assert refused.value.reason == "BACKLOG_FULL"
    assert refused.value.retry_after.total_seconds() > 0
    assert refused.value.metadata == {"jobType": "email", "limit": "3"}
    assert not is_full(backlog_, "sms")
    backlog_.came("email", 1, 0)
    assert not is_full(backlog_)


async def test_the_count_corrects_what_was_added_in_between(counts: Counts) -> None:
    backlog_ = backlog(counts)
    fill(backlog_, 3)
    assert is_full(backlog_)
    counts.waiting = {"email": 1}
    await backlog_.refresh()
    fill(backlog_, 2)
    assert is_full(backlog_)
    counts.waiting = {"email": 3}
    await backlog_.refresh()
    assert is_full(backlog_)
    counts.waiting = {}
    await backlog_.refresh()
    assert not is_full(backlog_)


async def test_only_types_in_use_and_full_ones_are_counted(counts: Counts) -> None:
    backlog_ = backlog(counts)
    await backlog_.refresh()
    fill(backlog_, 1, "sms")
    fill(backlog_, 3, "email")
    counts.waiting = {"email": 3, "sms": 1}
    for _ in range(2):
        await backlog_.refresh()
    assert counts.asked == [["email", "sms"], ["email"]]


async def test_a_count_that_failed_is_made_up_for(counts: Counts) -> None:
    backlog_ = backlog(counts)
    fill(backlog_, 1)
    counts.away = True
    with pytest.raises(Unavailable):
        await backlog_.refresh()
    counts.away, counts.waiting = False, {"email": 3}
    await backlog_.refresh()
    assert is_full(backlog_)


async def test_refused_and_repeated_submits_take_no_room(counts: Counts) -> None:
    backlog_ = backlog(counts)
    fill(backlog_, 10, accepted=False)
    assert not is_full(backlog_)


async def test_zero_is_off(counts: Counts) -> None:
    backlog_ = backlog(counts, 0)
    fill(backlog_, 100)
    await backlog_.refresh()
    assert counts.asked == []
