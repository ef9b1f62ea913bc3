"""Where the servers are: the root's options, kept apart from everything that takes long to import."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_API = "127.0.0.1:50051"
DEFAULT_CONTROL = "127.0.0.1:50052"


@dataclass(frozen=True, slots=True)
class Targets:
    """`host:port` of the job API and of the control plane."""

    api: str
    control: str
