"""The worker's settings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from jobkit.domain.retry import RetryPolicy
from jobkit.runtime.policy import PolicySettings
from jobkit.runtime.settings import Count, Flag, Port, Seconds

Names = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )
    ),
]
Target = Annotated[str, Field(pattern=r"^[^\s/]+:\d{1,5}$", max_length=255)]


class WorkerSettings(PolicySettings):
    """What a worker reads from its environment."""

    grpc_port: Port = Field(50053, alias="WORKER_GRPC_PORT")
    http_port: Port = Field(3001, alias="WORKER_HTTP_PORT")
    controlplane_addr: Target = Field("127.0.0.1:50052", alias="CONTROLPLANE_ADDR")
    name: str = Field("", alias="WORKER_NAME", max_length=64)
    handlers: Names = Field((), alias="WORKER_HANDLERS")
    processes: Annotated[int, Field(ge=1, le=256)] = Field(1, alias="WORKER_PROCESSES")
    concurrency: Count = Field(16, alias="WORKER_CONCURRENCY")
    max_concurrency: Count = Field(256, alias="WORKER_MAX_CONCURRENCY")
    attempt_timeout: Seconds = Field(30, alias="ATTEMPT_TIMEOUT")
    shutdown_grace: float = Field(30, alias="SHUTDOWN_GRACE", ge=0, le=3600)
    job_lease: float = Field(15, alias="JOB_LEASE", ge=1, le=3600)
    ack_after: float = Field(600, alias="ACK_AFTER", ge=1, le=1500)
    max_losses: int = Field(3, alias="MAX_LOSSES", ge=1, le=100)
    max_job_types: Count = Field(1000, alias="MAX_JOB_TYPES")

    max_retry_after: Seconds = Field(3600, alias="MAX_RETRY_AFTER")

    max_retries: int = Field(3, alias="MAX_RETRIES", ge=0, le=99)
    retry_delay_ms: int = Field(5000, alias="RETRY_DELAY_MS", ge=1, le=86_400_000)
    max_retry_delay_ms: int = Field(30_000, alias="MAX_RETRY_DELAY_MS", ge=1, le=86_400_000)
    retry_permanent: Flag = Field(False, alias="RETRY_PERMANENT")

    simulate: Flag = Field(False, alias="SIMULATE")
    simulated_failure_rate: float = Field(0, alias="SIMULATED_FAILURE_RATE", ge=0, le=1)
    simulated_seed: int | None = Field(None, alias="SIMULATED_SEED")

    smtp_host: str | None = Field(None, alias="SMTP_HOST")
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = Field(587, alias="SMTP_PORT")
    smtp_username: str | None = Field(None, alias="SMTP_USERNAME")
    smtp_password: str | None = Field(None, alias="SMTP_PASSWORD", repr=False)
    smtp_security: Literal["starttls", "tls", "none"] = Field("starttls", alias="SMTP_SECURITY")
    smtp_from: str = Field("selfheal@localhost", alias="SMTP_FROM")
    webhook_secret: str | None = Field(None, alias="WEBHOOK_SECRET", repr=False)
    webhook_allow: Names = Field((), alias="WEBHOOK_ALLOW")
    webhook_retry_scope: Literal["job", "type"] = Field("job", alias="WEBHOOK_RETRY_SCOPE")

    def contradictions(self) -> Iterator[tuple[set[str], str]]:
        yield from super().contradictions()
        if self.simulate and self.env == "production":
            yield {"SELFHEAL_ENV", "SIMULATE"}, "SIMULATE: production runs real handlers only"
        if self.max_retry_delay_ms < self.retry_delay_ms:
            yield (
                {"MAX_RETRY_DELAY_MS", "RETRY_DELAY_MS"},
                "MAX_RETRY_DELAY_MS: must not be below RETRY_DELAY_MS",
            )

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            max_attempts=self.max_retries + 1,
            base_delay=timedelta(milliseconds=self.retry_delay_ms),
            max_delay=timedelta(milliseconds=self.max_retry_delay_ms),
            retry_permanent=self.retry_permanent,
        )
