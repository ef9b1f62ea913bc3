"""What an attempt says to each breaker that its job stands behind, by that one's policy."""

from __future__ import annotations

import pytest

from jobkit.domain.breaker import SLOW_CALL, BreakerPolicy
from jobkit.domain.job import JobError
from jobkit.domain.outcome import Failed, Interrupted, Outcome, Succeeded
from tests.unit.executor_kit import claimed
from worker.breaker import Breaker
from worker.gate import Gate

EMAIL = BreakerPolicy(slow_call_duration=500, ignored_error_codes=frozenset({"GONE"}))
SMTP = BreakerPolicy(slow_call_duration=300)


def gate(*depends_on: str) -> Gate:
    behind = [Breaker("email", EMAIL), *(Breaker(f"@{name}", SMTP) for name in depends_on)]
    return Gate("email", behind, depends_on)


def failed(code: str, dependency: str = "") -> Failed:
    return Failed(JobError(code, ""), dependency=dependency)


@pytest.mark.parametrize(
    ("depends_on", "outcome", "codes"),
    [
        ((), Succeeded(), {"email": ""}),
        (("smtp",), Succeeded(), {"email": "", "@smtp": SLOW_CALL}),
        (("smtp", "ldap"), Succeeded(), {"email": "", "@smtp": "", "@ldap": ""}),  # slow through whom?
        (("smtp",), failed("DOWN"), {"email": "DOWN", "@smtp": "DOWN"}),
        (("smtp",), failed("GONE"), {"@smtp": "GONE"}),
        (("smtp",), failed("GONE", "smtp"), {"@smtp": "GONE"}),
        ((), failed("GONE"), {}),
        ((), Interrupted.DRAINED, {}),
    ],
)
def test_what_counts(depends_on: tuple[str, ...], outcome: Outcome, codes: dict[str, str]) -> None:
    assert gate(*depends_on).evidence(claimed("email"), outcome, 0.4).codes == codes


def test_what_is_ignored_is_told_for_the_log() -> None:
    job = claimed("email")
    answer = gate().evidence(job, failed("GONE"), 0.4)
    told = answer.outcomes["email"]
    assert (told.job_id, told.own_code, told.took, told.ignored) == (job.job_id, "GONE", 400, True)


def test_a_duration_goes_to_those_that_it_is_about() -> None:
    told = gate("smtp", "ldap").evidence(claimed("email"), Succeeded(), 0.7).outcomes
    assert {name: outcome.took for name, outcome in told.items()} == {"email": 700, "@smtp": 0, "@ldap": 0}
    assert told["email"].slow
