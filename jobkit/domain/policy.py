"""Breaker policies as operators set them: overrides by name pattern over what the environment says.

A pattern is a breaker's name, or the beginning of names and `*`: `email`, `mail.*`, `@smtp`, `@*`, `*`. Only what an
override sets counts, and the most specific one that sets it wins: the whole name, then the longest beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from jobkit.domain.breaker import BreakerPolicy, Mode
from jobkit.domain.errors import Aborted, FieldViolation

ANY = "*"
_PATTERN = re.compile(r"\*|@?[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\*?|@\*")
_CODE = re.compile(r"[A-Za-z0-9_]{1,64}")
MAX_CODES_IGNORED = 50
YEAR = 365 * 86_400_000

# The bounds of each number: times in milliseconds.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "failure_threshold": (1, 1_000_000),
    "failure_rate": (0.01, 1),
    "failure_sample": (1, 1000),
    "failure_window": (1_000, YEAR),
    "cooldown": (1, YEAR),
    "max_cooldown": (1, YEAR),
    "success_threshold": (1, 100),
    "probes": (1, 100),
    "slow_call_duration": (0, YEAR),
    "slow_call_rate": (0.01, 1),
}


@dataclass(frozen=True, slots=True)
class PolicyOverride:
    """What an operator set; None is what was left to a less specific pattern or to the environment. As
    `BreakerPolicy`."""

    mode: Mode | None = None
    failure_threshold: int | None = None
    failure_rate: float | None = None
    failure_sample: int | None = None
    failure_window: int | None = None
    cooldown: int | None = None
    max_cooldown: int | None = None
    success_threshold: int | None = None
    probes: int | None = None
    slow_call_duration: int | None = None
    slow_call_rate: float | None = None
    ignored_error_codes: frozenset[str] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What is set."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """An override where it is kept; `revision` is that of its last change (0: nothing is stored), `updated_at`
    database ms."""

    pattern: str
    override: PolicyOverride
    revision: int
    actor: str = ""
    reason: str = ""
    updated_at: int = 0

    @property
    def etag(self) -> str:
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All overrides as of `revision`."""

    revision: int = 0
    overrides: Mapping[str, PolicyOverride] = field(default_factory=dict)

    def chain(self, name: str) -> list[str]:
        """The patterns that apply to a breaker, or to a pattern's own names: the least specific first."""
        return sorted((p for p in self.overrides if covers(p, name)), key=lambda p: (p == name, len(p)))

    def merged(self, name: str) -> PolicyOverride:
        """All that is set for a breaker."""
        found = PolicyOverride()
        for pattern in self.chain(name):
            found = replace(found, **self.overrides[pattern].settings)
        return found

    def resolve(self, base: BreakerPolicy, name: str) -> BreakerPolicy:
        """The policy in force. A cooldown above its cap lifts the cap."""
        policy = replace(base, **self.merged(name).settings)
        return replace(policy, max_cooldown=max(policy.max_cooldown, policy.cooldown))


def check_policies(policies: PolicySet) -> None:
    """Raises ValueError for a set that no worker can go by, naming the first policy that is wrong and why."""
    for pattern, override in policies.overrides.items():
        for fault in find_policy_faults(pattern, override):
            raise ValueError(f"the policy of '{pattern}': {fault.path} {fault.message}")


def covers(pattern: str, name: str) -> bool:
    """Whether the pattern applies to the breaker."""
    if pattern.endswith(ANY):
        return name.startswith(pattern[:-1])
    return pattern == name


def check_etag(stored: StoredPolicy, etag: str) -> None:
    """Raises Aborted when somebody changed the policy since `etag` was read."""
    if etag != stored.etag:
        raise Aborted(
            f"the policy of '{stored.pattern}' was changed meanwhile",
            reason="ETAG_MISMATCH",
            metadata={"name": stored.pattern, "etag": stored.etag},
        )


def find_policy_faults(pattern: str, override: PolicyOverride) -> Iterator[FieldViolation]:
    """What is wrong with an override; field names as in `PolicyOverride`."""
    if not _PATTERN.fullmatch(pattern):
        yield FieldViolation("breaker", "must be a breaker's name, or the beginning of names followed by *")
    for name, value in override.settings.items():
        if name in BOUNDS:
            low, high = BOUNDS[name]
            if not low <= value <= high:
                yield FieldViolation(f"policy.{name}", f"must be from {low:g} to {high:g}")
    codes = override.ignored_error_codes or frozenset()
    if len(codes) > MAX_CODES_IGNORED:
        yield FieldViolation("policy.ignored_error_codes", f"must be at most {MAX_CODES_IGNORED} codes")
    for code in sorted(codes):
        if not _CODE.fullmatch(code):
            yield FieldViolation("policy.ignored_error_codes", f"{code!r} must match {_CODE.pattern}")
