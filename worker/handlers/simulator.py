"""The simulator: stands in for any job type, and fails as it is told.

`payload.simulate` may hold
    failWith     the error code to fail with; alone it fails every run. VALIDATION_ERROR raises `Permanent`
    failAttempts the number of first runs that fail; later ones succeed (or fail by `failureRate`)
    failureRate  the fraction of runs that fail, 0 to 1
    seed         makes `failureRate` repeatable: the draw is a hash of (seed, job id, run)
    durationMs   how long a run takes before it succeeds or fails
    retryAfter   seconds: a run that would fail asks to be run again after them instead (`RetryLater`); alone, the
                 first run does

Runs are counted by `delivery`, not by `attempt`: a failed probe and a `RetryLater` leave `attempt` as it was, so a
job told to fail once would otherwise fail as long as its breaker tests it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobkit.domain.outcome import VALIDATION_ERROR
from jobkit.handling import Handler, JobContext, Permanent, RetryLater, TransientError, error_code
from worker.handlers.fields import invalid, refuse_unknown

SIMULATED_FAILURE = "SIMULATED_FAILURE"
RESULT = {"simulated": True}
MAX_DURATION = 86_400_000  # a day, in milliseconds
MAX_RETRY_AFTER = 86_400 * 365  # seconds


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """`failure_rate` (0 to 1) applies to jobs that do not say themselves whether they fail; with a `seed`, which
    of them do depends on their ids alone."""

    failure_rate: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """`payload.simulate`, checked."""

    fail_with: str | None = None
    fail_attempts: int | None = None
    failure_rate: float | None = None
    seed: int | None = None
    duration: float = 0.0  # seconds
    retry_after: float | None = None  # seconds


def simulator(settings: SimulatorSettings) -> Handler:
    """A handler for any job type: give it to the registry as its fallback."""

    async def simulate(job: JobContext) -> dict[str, bool]:
        script = read_script(job.payload)
        if script.duration:
            await asyncio.sleep(script.duration)
        if fails(script, job, settings):
            raise _failure(script)
        return RESULT

    return Handler("simulator", simulate)


def fails(script: Script, job: JobContext, settings: SimulatorSettings) -> bool:
    """Whether this run fails."""
    if script.fail_attempts is not None and job.delivery <= script.fail_attempts:
        return True
    if script.failure_rate is not None:
        seed = settings.seed if script.seed is None else script.seed
        return draw(seed, job) < script.failure_rate
    if script.fail_attempts is not None:
        return False
    if script.fail_with is not None:
        return True
    if script.retry_after is not None:
        return job.delivery == 1
    return settings.failure_rate > 0 and draw(settings.seed, job) < settings.failure_rate


def draw(seed: int | None, job: JobContext) -> float:
    """A number in [0, 1): the same for the same seed, job and run, on every worker."""
    if seed is None:
        return random.random()  # noqa: S311 - nothing secret hangs on it
    digest = hashlib.blake2b(f"{seed}:{job.job_id}:{job.delivery}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def read_script(payload: Mapping[str, Any]) -> Script:
    """Raises Permanent(VALIDATION_ERROR), naming the field."""
    raw = payload.get("simulate")
    if raw is None:
        return Script()
    if not isinstance(raw, dict):
        raise invalid("payload.simulate", "must be an object")
    known = {"failWith", "failAttempts", "failureRate", "seed", "durationMs", "retryAfter"}
    refuse_unknown(raw, known, "payload.simulate.")
    fail_with = raw.get("failWith")
    if fail_with is not None and (not isinstance(fail_with, str) or error_code(fail_with) != fail_with):
        raise invalid("payload.simulate.failWith", "must be an error code, [A-Za-z0-9_]{1,64}")
    return Script(
        fail_with=fail_with,
        fail_attempts=_whole(raw, "failAttempts", 0, 2**53),
        failure_rate=_number(raw, "failureRate", 1),
        seed=_whole(raw, "seed", -(2**53), 2**53),
        duration=(_number(raw, "durationMs", MAX_DURATION) or 0) / 1000,
        retry_after=_number(raw, "retryAfter", MAX_RETRY_AFTER),
    )


def _failure(script: Script) -> Exception:
    code = script.fail_with or SIMULATED_FAILURE
    if code == VALIDATION_ERROR:
        return Permanent(code, "simulated")
    if script.retry_after is not None:
        return RetryLater(script.retry_after, message="simulated")
    return TransientError(code, "simulated")


def _number(raw: Mapping[str, Any], name: str, most: float) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"payload.simulate.{name}", "must be a number")
    if not 0 <= value <= most:
        raise invalid(f"payload.simulate.{name}", f"must lie between 0 and {most}")
    return float(value)


def _whole(raw: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = raw.get(name)
    if value is None:
        return None
    # A client that sends JSON through a double may write 2.0.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"payload.simulate.{name}", "must be a whole number")
    if not least <= value <= most:
        raise invalid(f"payload.simulate.{name}", f"must lie between {least} and {most}")
    return value
