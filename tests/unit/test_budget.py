"""Retry budgets: a fifth of first attempts and one a second, whoever retries and however often."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from jobkit.domain.budget import CREDIT, LONGEST, MOST, Bucket, Purse, Statement, settle

SECOND = timedelta(seconds=1)


def test_a_lone_failure_waits_for_nobody() -> None:
    purse = Purse()
    for _ in range(CREDIT):
        purse, wait = purse.retry(SECOND)
        assert wait == SECOND
    _, wait = purse.retry(SECOND)
    assert wait >= SECOND


def test_nothing_is_told_while_nothing_is_retried() -> None:
    purse = Purse()
    for _ in range(100):
        purse = purse.first()
    assert purse.statement is None
    assert purse.rested().firsts == 90


def test_a_retry_without_means_waits_until_its_turn_and_never_for_ever() -> None:
    purse = Purse(block=0)
    waits = []
    for _ in range(1000):
        purse, wait = purse.retry(SECOND)
        waits.append(wait)
    assert waits[9] == 10 * SECOND
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST


def test_what_happens_during_a_statement_stays() -> None:
    purse = Purse(block=0, firsts=7, owed=2)
    sent = purse.statement
    assert sent is not None
    purse, _ = purse.first().retry(SECOND)
    _, account = settle(Bucket(), sent, 1)
    after = purse.settled(sent, account)
    assert (after.firsts, after.owed, after.block) == (1, 1, account.block)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 5)), min_size=1, max_size=100)
)
def test_over_time_blocks_and_debts_are_what_the_budget_allows(seconds: list[tuple[int, int, int]]) -> None:
    """Retries that were paid for are never more than what came in, and what was saved up."""
    bucket, paid, firsts = Bucket(), 0.0, 0
    for n, (first, owed, wanted) in enumerate(seconds, start=1):
        firsts += first
        bucket, account = settle(bucket, Statement(first, owed, wanted), n * 1000)
        paid += account.block + owed
        assert paid - account.debt <= MOST + 0.2 * firsts + n + 1e-6
        assert account.debt == max(-bucket.balance, 0)
        assert account.income >= 1
