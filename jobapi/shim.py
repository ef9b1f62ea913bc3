"""The shim routes: `POST /jobs`, `GET /jobs/{jobId}`, in the JSON of the original system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from jobapi.convert import payload_bytes
from jobapi.jobs import Jobs
from jobkit.domain.asked import parse_id
from jobkit.domain.errors import FieldViolation, InvalidJob, NotFound
from jobkit.domain.submit import Submit
from jobkit.host.jobview import job_view
from jobkit.rpc.shim import ShimError, json_response, read_json
from jobkit.rpc.trace import current_trace

FIELDS = ("jobType", "payload", "requestId", "maxAttempts", "labels")
# Room for what stands around a payload of the largest size.
SLACK = 16 * 1024


def add_routes(app: web.Application, jobs: Jobs) -> None:
    async def submit(request: web.Request) -> web.Response:
        body = await read_json(request, jobs.max_payload + SLACK)
        job, _ = await jobs.submit(read_submit(body))
        accepted = {
            "status": "accepted",
            "message": "Job queued for processing",
            "jobType": job.job_type,
            "jobId": str(job.job_id),
        }
        return json_response(accepted, 202, {"Location": f"/jobs/{job.job_id}"})

    async def get(request: web.Request) -> web.Response:
        name = request.match_info["job_id"]
        try:
            job = await jobs.get(parse_id("job", name))
        except NotFound as error:
            raise ShimError(404, f"Job '{name[:64]}' not found") from error
        return json_response(job_view(job))

    app.router.add_post("/jobs", submit)
    app.router.add_get("/jobs/{job_id}", get)


def read_submit(body: Any) -> Submit:
    """Raises InvalidJob that names every field that is missing, wrong or unknown."""
    given: Mapping[str, Any] = body if isinstance(body, dict) else {}
    wrong = [FieldViolation(name, "should not exist") for name in given if name not in FIELDS]
    job_type = given.get("jobType")
    if not isinstance(job_type, str):
        if job_type is None:
            wrong.append(FieldViolation("job_type", "should not be empty"))
        wrong.append(FieldViolation("job_type", "must be a string"))
    elif not job_type.strip():
        wrong.append(FieldViolation("job_type", "should not be empty"))
    payload = given.get("payload")
    if not isinstance(payload, dict):
        wrong.append(FieldViolation("payload", "must be an object"))
    request_id = given.get("requestId")
    if request_id is not None and (not isinstance(request_id, str) or not request_id):
        wrong.append(FieldViolation("request_id", "must be a string and not empty"))
    attempts = given.get("maxAttempts")
    if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int)):
        wrong.append(FieldViolation("max_attempts", "must be a whole number"))
    labels = given.get("labels")
    if labels is not None and not _is_labels(labels):
        wrong.append(FieldViolation("labels", "must be an object of strings"))
    if wrong:
        raise InvalidJob(wrong)
    assert isinstance(job_type, str)
    return Submit(
        job_type=job_type,
        payload=payload_bytes(payload or {}),
        request_id=request_id or "",
        max_attempts=attempts,
        labels=labels or {},
        trace=current_trace(),
    )


def _is_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
