"""Failures on purpose: what operators inject to see the fleet heal."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from jobkit.domain.errors import FieldViolation

ERROR_CODE = re.compile(r"[A-Za-z0-9_]{1,64}")
LONGEST = timedelta(days=1)
REPLACED = "another was put in its place"


@dataclass(frozen=True, slots=True)
class Fault:
    """A share `rate` of the type's attempts fails with the code. `remaining` is what was left when it was read."""

    fault_id: UUID
    job_type: str
    error_code: str
    rate: float
    remaining: timedelta
    actor: str
    reason: str

    @property
    def message(self) -> str:
        """What a job's error says."""
        return f"injected by {self.actor}: {self.reason}"

    def hits(self, job_id: UUID, delivery: int) -> bool:
        """Whether this run of the job fails: the same answer wherever and whenever it is asked, and over many runs a
        share `rate` of them."""
        return fraction(self.fault_id, job_id, delivery) < self.rate


@dataclass(frozen=True, slots=True)
class StoredFault:
    """A fault with its record. Times are database milliseconds; `stopped_at` is None unless somebody stopped it."""

    fault: Fault
    ttl: timedelta
    injected_at: int
    stopped_at: int | None = None
    stopped_by: str = ""
    stop_reason: str = ""


def fraction(fault_id: UUID, job_id: UUID, delivery: int) -> float:
    """Uniform in [0, 1), from these three alone."""
    seed = fault_id.bytes + job_id.bytes + delivery.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(seed, digest_size=7).digest(), "big") / (1 << 56)


def find_fault_faults(error_code: str, rate: float, ttl: timedelta) -> Iterator[FieldViolation]:
    """What is wrong with a fault that somebody wants to inject."""
    if not ERROR_CODE.fullmatch(error_code):
        yield FieldViolation("error_code", f"must match {ERROR_CODE.pattern}")
    if not (math.isfinite(rate) and 0 < rate <= 1):
        yield FieldViolation("rate", "must be above 0 and at most 1")
    if not timedelta(milliseconds=1) <= ttl <= LONGEST:
        yield FieldViolation("ttl", "must be at least a millisecond and at most a day")
