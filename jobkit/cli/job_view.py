"""Jobs as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from selfheal.jobs.v1 import job_pb2

from jobkit.cli.output import Cell, coloured, print_details, print_line, print_table, struct_text, time_text
from jobkit.client.job import reason_name, state_name


def print_jobs(jobs: Iterable[job_pb2.Job]) -> None:
    headings = ("JOB ID", "TYPE", "STATE", "ATTEMPTS", "CREATED", "LAST ERROR", "NOTE")
    print_table(headings, map(_row, jobs))


def print_job(job: job_pb2.Job) -> None:
    print_details(_details(job))
    if job.attempt_history:
        headings = ("ATTEMPT", "WORKER", "STARTED", "FINISHED", "ERROR")
        print_table(headings, map(_attempt, job.attempt_history))


def print_change(job: job_pb2.Job) -> None:
    """A line: where the job stands now."""
    error = _error(job.last_error) if job.HasField("last_error") else ""
    attempts = f"(attempts {_attempts(job)})" if job.attempts else ""
    print_line((time_text(job, "update_time"), _state(job), _progress(job), attempts, error, job.note))


def _row(job: job_pb2.Job) -> tuple[Cell, ...]:
    created = time_text(job, "create_time")
    error = job.last_error.code if job.HasField("last_error") else ""
    return (job.job_id, job.job_type, _state(job), _attempts(job), created, error, job.note)


def _details(job: job_pb2.Job) -> Iterable[tuple[str, Cell]]:
    yield "job", job.job_id
    yield "type", job.job_type
    yield "state", _state(job)
    yield "held until", time_text(job.quarantine, "until")
    yield "note", job.note
    yield "payload", struct_text(job.payload)
    yield "result", struct_text(job.result) if job.HasField("result") else ""
    yield "last error", _error(job.last_error) if job.HasField("last_error") else ""
    yield "progress", _progress(job)
    yield "attempts", _attempts(job)
    yield "deliveries", str(job.deliveries)
    yield "holds", str(job.holds) if job.holds else ""
    yield "labels", ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))
    yield "request id", job.request_id
    yield "created", time_text(job, "create_time")
    yield "due", "" if job.HasField("finish_time") else time_text(job, "due_time")
    yield "started", time_text(job, "start_time")
    yield "finished", time_text(job, "finish_time")
    yield "traceparent", job.traceparent


def _attempt(attempt: job_pb2.JobAttempt) -> tuple[Cell, ...]:
    return (
        str(attempt.delivery),
        attempt.worker_id,
        time_text(attempt, "start_time"),
        time_text(attempt, "finish_time"),
        _error(attempt.error) if attempt.HasField("error") else "",
    )


def _state(job: job_pb2.Job) -> Cell:
    reason = reason_name(job.quarantine.reason) if job.HasField("quarantine") else ""
    return coloured(state_name(job.state), reason)


def _progress(job: job_pb2.Job) -> str:
    return f"{job.progress.processed} of {job.progress.total}" if job.HasField("progress") else ""


def _attempts(job: job_pb2.Job) -> str:
    return f"{job.attempts} of {job.max_attempts}" if job.max_attempts else str(job.attempts)


def _error(error: job_pb2.JobError) -> str:
    return f"{error.code}: {error.message}" if error.message else error.code
