"""The control plane's settings."""

from __future__ import annotations

from pydantic import Field

from jobkit.ports import Ages
from jobkit.runtime.policy import PolicySettings
from jobkit.runtime.settings import Port

DAY_MS = 86_400_000
QUARANTINE_DAYS = 30


class ControlPlaneSettings(PolicySettings):
    """What the control plane reads from its environment."""

    grpc_port: Port = Field(50052, alias="CONTROLPLANE_GRPC_PORT")
    http_port: Port = Field(3002, alias="CONTROLPLANE_HTTP_PORT")
    job_lease: float = Field(15, alias="JOB_LEASE", ge=1, le=3600)
    overdue_interval: float = Field(0.5, alias="OVERDUE_INTERVAL", gt=0, le=60)
    retention_days: float = Field(7, alias="RETENTION_DAYS", gt=0, le=3650)
    stream_heartbeat: float = Field(3, alias="STREAM_HEARTBEAT", ge=0.05, le=60)
    lost_after: float = Field(60, alias="LOST_AFTER", ge=1, le=86400)

    @property
    def ages(self) -> Ages:
        """Finished jobs stay `RETENTION_DAYS`; quarantined ones and the ledger 30 days, or that if it is longer."""
        return Ages(
            finished_ms=round(self.retention_days * DAY_MS),
            quarantined_ms=round(max(self.retention_days, QUARANTINE_DAYS) * DAY_MS),
        )
