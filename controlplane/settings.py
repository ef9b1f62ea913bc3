"""The control plane's settings."""

from __future__ import annotations

from pydantic import Field

from jobkit.runtime.settings import Port, Settings


class ControlPlaneSettings(Settings):
    """What the control plane reads from its environment."""

    grpc_port: Port = Field(50052, alias="CONTROLPLANE_GRPC_PORT")
    http_port: Port = Field(3002, alias="CONTROLPLANE_HTTP_PORT")
    job_lease: float = Field(15, alias="JOB_LEASE", ge=1, le=3600)
    overdue_interval: float = Field(0.5, alias="OVERDUE_INTERVAL", gt=0, le=60)
    lost_after: float = Field(60, alias="LOST_AFTER", ge=1, le=86400)
