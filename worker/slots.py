"""The bulkhead inside a process: no set of hanging types takes the last slot."""

from __future__ import annotations

from collections import Counter


class Slots:
    """A type runs at most `per_type` attempts, and above its first slot never more than the number of slots that
    are still free in the process. The first slot is every type's own, even past the process's bound."""

    def __init__(self, per_type: int, in_all: int) -> None:
        self.per_type = per_type
        self._in_all = in_all
        self._used: Counter[str] = Counter()
        self._total = 0
        self._reserved = False

    def reserve(self, reserved: bool) -> None:
        """While `reserved`, nothing more starts: what runs has the process to itself once the rest has ended."""
        self._reserved = reserved

    @property
    def total(self) -> int:
        """Slots in use."""
        return self._total

    @property
    def by_type(self) -> dict[str, int]:
        """Slots in use, of the types that have any."""
        return {job_type: used for job_type, used in self._used.items() if used}

    def used(self, job_type: str) -> int:
        return self._used[job_type]

    def admits(self, job_type: str) -> bool:
        """Whether one more attempt of the type may start now."""
        if self._reserved:
            return False
        used = self._used[job_type]
        return used == 0 or (used < self.per_type and used < self._in_all - self._total)

    def take(self, job_type: str) -> None:
        self._used[job_type] += 1
        self._total += 1

    def free(self, job_type: str) -> None:
        self._used[job_type] -= 1
        self._total -= 1
