"""Which policy counts for which breaker, and whom an outcome is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from jobkit.domain.attribution import attribute, breakers_of, spoken_for
from jobkit.domain.breaker import BreakerPolicy, Mode
from jobkit.domain.job import JobError
from jobkit.domain.outcome import Deferred, Failed, Interrupted, Outcome, Succeeded
from jobkit.domain.policy import PolicyOverride, PolicySet, covers, find_policy_faults

BASE = BreakerPolicy()
SET = PolicySet(
    4,
    {
        "*": PolicyOverride(cooldown=1_000, probes=2, failure_rate=0.3),
        "mail.*": PolicyOverride(probes=3, mode=Mode.SHADOW),
        "mail.out*": PolicyOverride(failure_threshold=9),
        "mail.out": PolicyOverride(probes=4, ignored_error_codes=frozenset()),
        "@*": PolicyOverride(mode=Mode.DISABLED),
    },
)


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("*", "email", True),
        ("*", "@smtp", True),
        ("@*", "@smtp", True),
        ("@*", "email", False),
        ("mail.*", "mail.out", True),
        ("mail.*", "mail", False),
        ("mail", "mail.out", False),
        ("mail", "mail", True),
    ],
)
def test_what_a_pattern_covers(pattern: str, name: str, covered: bool) -> None:
    assert covers(pattern, name) is covered


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("sms", replace(BASE, cooldown=1_000, probes=2, failure_rate=0.3)),
        ("@smtp", replace(BASE, cooldown=1_000, probes=2, failure_rate=0.3, mode=Mode.DISABLED)),
        ("mail.in", replace(BASE, cooldown=1_000, probes=3, failure_rate=0.3, mode=Mode.SHADOW)),
        (
            "mail.out",
            replace(BASE, cooldown=1_000, probes=4, failure_rate=0.3, mode=Mode.SHADOW, failure_threshold=9),
        ),
    ],
)
def test_the_most_specific_that_sets_a_field_wins(name: str, policy: BreakerPolicy) -> None:
    assert SET.resolve(BASE, name) == policy


def test_without_any_the_environment_counts() -> None:
    assert PolicySet().resolve(BASE, "email") == BASE
    assert SET.chain("mail.out") == ["*", "mail.*", "mail.out*", "mail.out"]


def test_a_cooldown_above_its_cap_lifts_the_cap() -> None:
    policies = PolicySet(1, {"*": PolicyOverride(cooldown=10**7)})
    assert policies.resolve(BASE, "email").max_cooldown == 10**7


@pytest.mark.parametrize("pattern", ["email", "@smtp", "*", "@*", "mail.*", "a:b_c-d.*", "@a*"])
def test_good_patterns(pattern: str) -> None:
    assert list(find_policy_faults(pattern, PolicyOverride())) == []


@pytest.mark.parametrize("pattern", ["", "**", "*.mail", "a*b", "@", "@@a", "a b", ".a", "a" * 129])
def test_bad_patterns(pattern: str) -> None:
    assert [fault.path for fault in find_policy_faults(pattern, PolicyOverride())] == ["breaker"]


@pytest.mark.parametrize(
    ("override", "path"),
    [
        (PolicyOverride(failure_threshold=0), "policy.failure_threshold"),
        (PolicyOverride(failure_rate=0), "policy.failure_rate"),
        (PolicyOverride(failure_rate=float("nan")), "policy.failure_rate"),
        (PolicyOverride(failure_sample=1001), "policy.failure_sample"),
        (PolicyOverride(slow_call_duration=-1), "policy.slow_call_duration"),
        (PolicyOverride(probes=101), "policy.probes"),
        (PolicyOverride(ignored_error_codes=frozenset({"a b"})), "policy.ignored_error_codes"),
        (
            PolicyOverride(ignored_error_codes=frozenset(f"E{n}" for n in range(51))),
            "policy.ignored_error_codes",
        ),
    ],
)
def test_bad_values_are_named(override: PolicyOverride, path: str) -> None:
    assert [fault.path for fault in find_policy_faults("*", override)] == [path]


def failed(dependency: str = "", counts: bool = True) -> Failed:
    return Failed(JobError("E", ""), counts, dependency)


@pytest.mark.parametrize(
    ("outcome", "needs", "said"),
    [
        (Succeeded(), (), {"email": ""}),
        (Succeeded(), ("smtp", "db"), {"email": "", "@db": "", "@smtp": ""}),
        (failed(), (), {"email": "E"}),
        (failed(), ("smtp",), {"email": "E", "@smtp": "E"}),
        (failed(), ("smtp", "db"), {"email": "E"}),
        (failed("smtp"), ("smtp", "db"), {"@smtp": "E"}),
        (failed("smtp"), ("smtp",), {"@smtp": "E"}),
        (failed("other"), ("smtp",), {"email": "E", "@smtp": "E"}),  # not declared: as if unnamed
        (failed("smtp", counts=False), ("smtp",), {}),
        (Interrupted.DRAINED, ("smtp",), {}),
        (Deferred(timedelta(1), wide=True), ("smtp",), {}),
    ],
)
def test_whom_an_outcome_is_about(outcome: Outcome, needs: tuple[str, ...], said: dict[str, str]) -> None:
    assert attribute(outcome, "email", needs) == said


@pytest.mark.parametrize(
    ("dependency", "needs", "opens"),
    [
        (None, ("smtp",), "email"),
        ("", ("smtp",), "@smtp"),
        ("", ("smtp", "db"), "email"),
        ("db", ("smtp", "db"), "@db"),
        ("other", ("smtp",), "email"),
    ],
)
def test_what_a_wide_retry_later_opens(dependency: str | None, needs: tuple[str, ...], opens: str) -> None:
    assert spoken_for(Deferred(timedelta(1), "", True, dependency), "email", needs) == opens


def test_the_breakers_of_a_type_are_in_the_order_of_their_names() -> None:
    assert breakers_of("email", ("smtp", "db", "smtp")) == ("email", "@db", "@smtp")
