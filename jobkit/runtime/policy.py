"""What the environment says about breakers: the policy below all that operators set. Workers go by it; the control
plane simulates with it, so both are to be given the same."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from jobkit.domain.breaker import BreakerPolicy
from jobkit.runtime.settings import Count, Seconds, Settings


class PolicySettings(Settings):
    """Settings of a component that needs the policy."""

    failure_threshold: Count = Field(5, alias="FAILURE_THRESHOLD")
    failure_rate: float = Field(0.5, alias="FAILURE_RATE", gt=0, le=1)
    failure_sample: int = Field(50, alias="FAILURE_SAMPLE", ge=1, le=1000)
    failure_window: Seconds = Field(60, alias="FAILURE_WINDOW")
    cooldown: Seconds = Field(60, alias="COOLDOWN_PERIOD")
    max_cooldown: Seconds = Field(600, alias="MAX_COOLDOWN")
    success_threshold: int = Field(1, alias="SUCCESS_THRESHOLD", ge=1, le=100)

    def contradictions(self) -> Iterator[tuple[set[str], str]]:
        yield from super().contradictions()
        if self.max_cooldown < self.cooldown:
            yield {"MAX_COOLDOWN", "COOLDOWN_PERIOD"}, "MAX_COOLDOWN: must not be below COOLDOWN_PERIOD"

    @property
    def breaker_policy(self) -> BreakerPolicy:
        return BreakerPolicy(
            failure_threshold=self.failure_threshold,
            failure_rate=self.failure_rate,
            failure_sample=self.failure_sample,
            failure_window=round(self.failure_window * 1000),
            cooldown=round(self.cooldown * 1000),
            max_cooldown=round(self.max_cooldown * 1000),
            success_threshold=self.success_threshold,
        )
