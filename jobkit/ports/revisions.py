"""Revisions of what lies in the database: the same number on every replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

# Breaker transitions, and so holds.
LEDGER = "ledger"
# The catalog of job types, and what operators did to them.
JOB_TYPES = "job_types"
# Faults that operators inject.
FAULTS = "faults"
# Breaker policies.
POLICIES = "policies"


class Revisions(Protocol):
    """Counters that grow in the transaction that changes what they count."""

    async def read(self) -> Mapping[str, int]:
        """All of them by name, in one round trip; one that never moved may be missing."""
