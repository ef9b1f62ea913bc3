"""The job API's settings."""

from __future__ import annotations

from pydantic import Field

from jobkit.runtime.settings import Count, Port, Seconds, Settings


class JobApiSettings(Settings):
    """What the job API reads from its environment."""

    grpc_port: Port = Field(50051, alias="JOBAPI_GRPC_PORT")
    http_port: Port = Field(3000, alias="JOBAPI_HTTP_PORT")
    max_payload_bytes: int = Field(262_144, alias="MAX_PAYLOAD_BYTES", ge=1024, le=4 * 1024 * 1024)
    max_job_types: Count = Field(1000, alias="MAX_JOB_TYPES")
    max_backlog: int = Field(0, alias="MAX_BACKLOG", ge=0)
    cooldown: Seconds = Field(60, alias="COOLDOWN_PERIOD")
