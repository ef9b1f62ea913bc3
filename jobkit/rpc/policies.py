"""Breaker policies to and from the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.unknown_fields import UnknownFieldSet
from selfheal.control.v1 import breaker_policy_pb2 as wire

from jobkit.domain.breaker import Mode
from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.domain.policy import PolicyOverride, PolicySet, StoredPolicy
from jobkit.rpc.breakers import EPOCH, MILLISECOND
from jobkit.rpc.convert import to_timestamp

_NUMBERS = (
    "failure_threshold", "failure_rate", "failure_sample", "success_threshold", "probes", "slow_call_rate",
)  # fmt: skip
_DURATIONS = ("failure_window", "cooldown", "max_cooldown", "slow_call_duration")
_MODE = "BREAKER_MODE_"


def override_from_wire(message: wire.BreakerPolicy, pattern: str) -> PolicyOverride:
    """What is set. Raises InvalidJob for what no override can hold, and for another name than `pattern`."""
    wrong = []
    if message.breaker not in ("", pattern):
        wrong.append(FieldViolation("policy.breaker", "must be the breaker that the request names, or empty"))
    given = {field.name: value for field, value in message.ListFields()}
    values: dict[str, Any] = {name: given[name] for name in _NUMBERS if name in given}
    for name in set(_DURATIONS) & given.keys():
        try:
            values[name] = round(given[name].ToTimedelta() / MILLISECOND)
        except (ValueError, OverflowError):
            wrong.append(FieldViolation(f"policy.{name}", "must be a duration"))
    if message.HasField("mode") and message.mode != wire.BREAKER_MODE_UNSPECIFIED:
        try:
            values["mode"] = Mode(wire.BreakerMode.Name(message.mode).removeprefix(_MODE))
        except ValueError:
            wrong.append(FieldViolation("policy.mode", "is no mode of this release"))
    if message.HasField("ignored_error_codes"):
        values["ignored_error_codes"] = frozenset(message.ignored_error_codes.codes)
    if wrong:
        raise InvalidJob(wrong)
    return PolicyOverride(**values)


def override_to_wire(pattern: str, override: PolicyOverride) -> wire.BreakerPolicy:
    """What is set, and nothing else."""
    message = wire.BreakerPolicy(breaker=pattern)
    for name, value in override.settings.items():
        if name in _NUMBERS:
            setattr(message, name, value)
        elif name in _DURATIONS:
            getattr(message, name).CopyFrom(_duration(value))
    if override.mode is not None:
        message.mode = wire.BreakerMode.Value(f"{_MODE}{override.mode.value}")
    if override.ignored_error_codes is not None:
        message.ignored_error_codes.CopyFrom(wire.ErrorCodes(codes=sorted(override.ignored_error_codes)))
    return message


def policy_to_wire(stored: StoredPolicy) -> wire.BreakerPolicy:
    """As it is stored."""
    message = override_to_wire(stored.pattern, stored.override)
    message.etag = stored.etag
    message.revision = stored.revision
    message.actor = stored.actor
    message.reason = stored.reason
    if stored.updated_at:
        message.update_time.CopyFrom(to_timestamp(EPOCH + stored.updated_at * MILLISECOND))
    return message


def _duration(milliseconds: int) -> Duration:
    found = Duration()
    found.FromTimedelta(timedelta(milliseconds=milliseconds))
    return found


def set_from_wire(messages: Sequence[wire.BreakerPolicy]) -> PolicySet:
    """All policies, as they are pushed. Raises ValueError for a set that cannot be applied as a whole."""
    overrides = {}
    for message in messages:
        pattern = message.breaker
        if unknown := UnknownFieldSet(message):
            raise ValueError(f"the policy of '{pattern}' has a field {unknown[0].field_number}, unknown here")
        try:
            overrides[pattern] = override_from_wire(message, pattern)
        except InvalidJob as wrong:
            raise ValueError(f"the policy of '{pattern}': {wrong.message}") from wrong
    # Policies are never removed, so that the latest change of one is the set's.
    return PolicySet(max((message.revision for message in messages), default=0), overrides)
