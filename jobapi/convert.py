"""Wire messages to domain values and back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.unknown_fields import UnknownFieldSet
from selfheal.jobs.v1 import job_pb2, job_service_pb2

from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.domain.filter import PageToken
from jobkit.domain.job import Attempt, Job, JobError, JobState, OnOpen, TraceContext
from jobkit.domain.submit import Submit
from jobkit.rpc.convert import (
    dict_to_struct,
    from_duration,
    from_token,
    struct_to_dict,
    to_timestamp,
    to_token,
)
from jobkit.rpc.strict_json import find_unsafe

_ON_OPEN = {
    job_pb2.ON_OPEN_UNSPECIFIED: OnOpen.HOLD,
    job_pb2.ON_OPEN_HOLD: OnOpen.HOLD,
    job_pb2.ON_OPEN_REJECT: OnOpen.REJECT,
}
_STATES = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.value}") for state in JobState}


def payload_bytes(value: dict[str, Any]) -> bytes:
    """The one encoding of payloads: sorted keys, so that equal objects have equal bytes. Raises InvalidJob for what
    JSON cannot hold."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise InvalidJob([FieldViolation("payload", f"cannot be JSON: {error}")]) from None


def submit_from_wire(request: job_service_pb2.SubmitJobRequest, trace: TraceContext) -> Submit:
    """Raises InvalidJob for a field and for an enum value that are not ours."""
    refuse_unknown(request)
    if request.on_open not in _ON_OPEN:
        raise InvalidJob([FieldViolation("on_open", "must be ON_OPEN_HOLD or ON_OPEN_REJECT")])
    return Submit(
        job_type=request.job_type,
        payload=payload_from_wire(request.payload) if request.HasField("payload") else None,
        request_id=request.request_id,
        max_attempts=request.max_attempts if request.HasField("max_attempts") else None,
        attempt_timeout=from_duration(request.attempt_timeout)
        if request.HasField("attempt_timeout")
        else None,
        labels=dict(request.labels),
        on_open=_ON_OPEN[request.on_open],
        trace=trace,
    )


def refuse_unknown(request: Message) -> None:
    """Raises InvalidJob for fields of a later release, by number: their names are not known here. Protobuf would have
    them ignored, and the job would run without what its sender asked for."""
    if len(unknown := UnknownFieldSet(request)):
        numbers = dict.fromkeys(unknown[index].field_number for index in range(len(unknown)))
        raise InvalidJob(
            [FieldViolation(f"#{number}", "should not exist") for number in numbers], reason="UNKNOWN_FIELD"
        )


def payload_from_wire(payload: Struct) -> bytes:
    """Raises InvalidJob, naming the path, for what REST refuses too: NaN, and nesting too deep to be read back."""
    value = struct_to_dict(payload)
    if (unsafe := find_unsafe(value, "payload")) is not None:
        raise InvalidJob([FieldViolation(unsafe.path, unsafe.message)])
    return payload_bytes(value)


def job_to_wire(job: Job, note: str = "", payload: Struct | None = None) -> job_pb2.Job:
    """`payload` is the job's own where it is at hand: reading it once more may cost more than all the rest."""
    created = to_timestamp(job.create_time)
    message = job_pb2.Job(
        job_id=str(job.job_id),
        job_type=job.job_type,
        payload=dict_to_struct(orjson.loads(job.payload)) if payload is None else payload,
        state=_STATES[job.state],
        labels=job.labels,
        request_id=job.request_id,
        attempts=job.attempts,
        deliveries=job.deliveries,
        holds=job.holds,
        max_attempts=job.max_attempts or 0,
        create_time=created,
        update_time=created if job.update_time == job.create_time else to_timestamp(job.update_time),
        due_time=created if job.due_time == job.create_time else to_timestamp(job.due_time),
        attempt_history=[_attempt(a) for a in job.history],
        traceparent=job.trace.traceparent,
        note=note,
    )
    if job.progress is not None:
        message.progress.processed, message.progress.total = job.progress
    if job.result is not None:
        message.result.CopyFrom(dict_to_struct(orjson.loads(job.result)))
    if job.last_error is not None:
        message.last_error.CopyFrom(_error(job.last_error))
    if job.quarantine is not None:
        message.quarantine.reason = job_pb2.QuarantineReason.Value(
            f"QUARANTINE_REASON_{job.quarantine.reason.value}"
        )
        message.quarantine.breaker = job.quarantine.breaker
        message.quarantine.since.CopyFrom(to_timestamp(job.quarantine.since))
        if job.quarantine.until is not None:
            message.quarantine.until.CopyFrom(to_timestamp(job.quarantine.until))
    if job.start_time is not None:
        message.start_time.CopyFrom(to_timestamp(job.start_time))
    if job.finish_time is not None:
        message.finish_time.CopyFrom(to_timestamp(job.finish_time))
    return message


def _error(error: JobError) -> job_pb2.JobError:
    return job_pb2.JobError(code=error.code, message=error.message, retryable=error.retryable)


def _attempt(attempt: Attempt) -> job_pb2.JobAttempt:
    message = job_pb2.JobAttempt(
        delivery=attempt.delivery,
        worker_id=attempt.worker_id,
        start_time=to_timestamp(attempt.start_time),
    )
    if attempt.finish_time is not None:
        message.finish_time.CopyFrom(to_timestamp(attempt.finish_time))
    if attempt.error is not None:
        message.error.CopyFrom(_error(attempt.error))
    return message


def page_token_to_wire(token: PageToken | None) -> str:
    return "" if token is None else to_token(token.job_id.bytes + token.revision.to_bytes(8, "big"))


def page_token_from_wire(text: str) -> PageToken | None:
    """Raises InvalidJob for a token that we did not make."""
    raw = from_token(text, 24)
    return None if raw is None else PageToken(UUID(bytes=raw[:16]), int.from_bytes(raw[16:], "big"))
