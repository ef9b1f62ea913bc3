"""The public face: what handler authors and submitting programs import.

Names are loaded when first used: the CLI and the domain live in this package too and must not pay for gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobkit.client import JobClient
    from jobkit.handling import JobContext, Permanent, RetryLater, TransientError, job_handler

__version__ = "0.1.0"
__all__ = ["JobClient", "JobContext", "Permanent", "RetryLater", "TransientError", "job_handler"]

_HOMES = {
    "JobClient": "jobkit.client",
    "JobContext": "jobkit.handling",
    "Permanent": "jobkit.handling",
    "RetryLater": "jobkit.handling",
    "TransientError": "jobkit.handling",
    "job_handler": "jobkit.handling",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
