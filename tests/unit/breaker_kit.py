"""Windows to decide upon, drawn in letters."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from jobkit.domain.breaker import BreakerPolicy, BreakerRecord, BreakerState, Seen, Window

NOW = 1_700_000_000_000
POLICY = BreakerPolicy()
CLOSED = BreakerRecord("email", generation=7)
OPEN = BreakerRecord(
    "email", BreakerState.OPEN, generation=7, opened_at=NOW - 60_000, open_until=NOW, error_code="A"
)
HALF_OPEN = replace(OPEN, state=BreakerState.HALF_OPEN)
FORCED = replace(CLOSED, forced=True)


def seen_of(recent: str, jobs: int | None = None) -> tuple[Seen, ...]:
    """Outcomes newest first: "." a success, an upper-case letter a failure of worker "x" with that code, of distinct
    jobs or of `jobs` in turn. "<w>" before them names another worker."""
    outcomes, worker = [], "x"
    for number, sign in enumerate(recent):
        if sign.islower():
            worker = sign
        elif sign == ".":
            outcomes.append(Seen("", worker, "email"))
        else:
            job = UUID(int=number if jobs is None else number % jobs)
            outcomes.append(Seen(sign, worker, "email", job, f"trace-{number}"))
    return tuple(outcomes)


def window(recent: str, jobs: int | None = None, age: int = 1_000, record: BreakerRecord = CLOSED) -> Window:
    """What the fleet saw: see `seen_of`; `jobs` bounds the distinct ones."""
    seen = seen_of(recent, jobs)
    codes = sorted({outcome.code for outcome in seen} - {""})
    failures = {code: sum(outcome.code == code for outcome in seen) for code in codes}
    return Window(
        now=NOW,
        record=record,
        distinct_jobs={code: failures[code] if jobs is None else min(jobs, failures[code]) for code in codes},
        failures=failures,
        seen=seen,
        first_failure_at=NOW - age if codes else None,
        workers=len({outcome.worker for outcome in seen}),
        sources=1,
    )
