"""A job in the shim's JSON, which the job API and the queue routes share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from jobkit.domain.job import Job


def job_view(job: Job, *, with_payload: bool = False) -> dict[str, Any]:
    """`GET /jobs/{jobId}`; `status` is the state in lower case, a held job's is "quarantined"."""
    view: dict[str, Any] = {
        "jobId": str(job.job_id),
        "jobType": job.job_type,
        "status": job.state.value.lower(),
        "attempts": job.attempts,
        "deliveries": job.deliveries,
        "holds": job.holds,
        "progress": None,
        "result": None if job.result is None else orjson.loads(job.result),
        "error": None,
        "createdAt": _iso(job.create_time),
        "updatedAt": _iso(job.update_time),
    }
    if job.progress is not None:
        view["progress"] = {"processed": job.progress[0], "total": job.progress[1]}
    if job.last_error is not None:
        view["error"] = {"code": job.last_error.code, "message": job.last_error.message}
    if with_payload:
        view["payload"] = orjson.loads(job.payload)
    return view


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
