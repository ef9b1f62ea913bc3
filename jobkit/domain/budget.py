"""The fleet's retry budget: retries of a type are at most a fifth of its first attempts and one a second.

"Handling Overload" (Site Reliability Engineering, O'Reilly 2016, ch. 21) keeps retries to a share of requests;
Finagle's `RetryBudget` does it with a token bucket which first attempts fill. Here a retry for which the budget has
nothing is not given up: it goes into debt, and waits until the debt is paid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

SHARE = 0.2
PER_SECOND = 1.0
# What a quiet time saves up at most, and how far the fleet may go into debt (retries).
MOST = 10.0
DEEPEST = 100_000.0
BLOCK = 5
# What a worker may spend before it has asked, so that a lone failure waits for nobody.
CREDIT = 3
LONGEST = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a worker did since its last one: first attempts, retries beyond the block it was given. It asks for a
    block of `wanted`."""

    firsts: int
    owed: int
    wanted: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """What it gets: a block of retries; and when the fleet is in debt, how many, and how many are paid a second."""

    block: int
    debt: float = 0.0
    income: float = PER_SECOND


@dataclass(frozen=True, slots=True)
class Bucket:
    """The budget of one type as of `at` (store ms). `income` is what first attempts bring in, smoothed over about ten
    seconds."""

    balance: float = MOST
    at: int = 0
    income: float = 0.0


def settle(bucket: Bucket, statement: Statement, now: int) -> tuple[Bucket, Account]:
    """The bucket after a statement, and the answer to it."""
    elapsed = max(now - bucket.at, 0) / 1000 if bucket.at else 0.0
    kept = max(1 - elapsed / 10, 0.0)
    income = bucket.income * kept + SHARE * statement.firsts / 10
    earned = SHARE * statement.firsts + PER_SECOND * elapsed
    balance = min(bucket.balance + earned, max(MOST, MOST * income)) - statement.owed
    block = min(statement.wanted, max(int(balance), 0))
    balance = max(balance - block, -DEEPEST)
    account = Account(block, max(-balance, 0.0), PER_SECOND + income)
    return Bucket(balance, now, income), account


@dataclass(frozen=True, slots=True)
class Purse:
    """One worker's side: what is left of its block, and what it has done since its last statement."""

    block: int = CREDIT
    firsts: int = 0
    owed: int = 0
    debt: float = 0.0
    income: float = PER_SECOND

    def first(self, times: int = 1) -> Purse:
        return replace(self, firsts=self.firsts + times)

    def rested(self) -> Purse:
        """A second without a statement: first attempts count for about ten."""
        return replace(self, firsts=self.firsts * 9 // 10)

    def retry(self, delay: timedelta) -> tuple[Purse, timedelta]:
        """Pay for a retry; without means it waits as long as its turn needs, but never less than `delay`."""
        if self.block > 0:
            return replace(self, block=self.block - 1), delay
        owing = replace(self, owed=self.owed + 1)
        wait = timedelta(seconds=(owing.debt + owing.owed) / owing.income)
        return owing, max(delay, min(wait, LONGEST))

    @property
    def statement(self) -> Statement | None:
        """What to tell the store; None while nothing was retried: then first attempts are only counted."""
        if self.block >= CREDIT and not self.owed:
            return None
        return Statement(self.firsts, self.owed, max(BLOCK - self.block, 0))

    def settled(self, sent: Statement, account: Account) -> Purse:
        """After the answer to what was `sent`; what has happened meanwhile stays."""
        return Purse(
            block=self.block + account.block,
            firsts=max(self.firsts - sent.firsts, 0),
            owed=max(self.owed - sent.owed, 0),
            debt=account.debt,
            income=account.income,
        )
