"""What may be submitted: one set of rules for gRPC, REST and batches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from uuid import UUID

from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.domain.job import NO_TRACE, NewJob, OnOpen, TraceContext
from jobkit.domain.lean import lean

JOB_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
MAX_LABELS = 32
MAX_LABEL_VALUE = 255
MAX_ATTEMPTS = 100
MAX_TIMEOUT = timedelta(days=1)
JOB_TYPE_RULE = "must be 1 to 128 characters, letters, digits and . _ : -, and start with a letter or a digit"


@lean
@dataclass(frozen=True, slots=True)
class Submit:
    """A submit before it is checked. `payload` is a JSON object in UTF-8, or None when it was not given."""

    job_type: str
    payload: bytes | None
    request_id: str = ""
    max_attempts: int | None = None
    attempt_timeout: timedelta | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    on_open: OnOpen = OnOpen.HOLD
    trace: TraceContext = NO_TRACE


def check_submit(submit: Submit, job_id: UUID, max_payload: int) -> NewJob:
    """The job, or InvalidJob with everything that is wrong: messages continue the field's name."""
    wrong = list(_violations(submit))
    if submit.payload is not None and len(submit.payload) > max_payload:
        wrong.append(FieldViolation("payload", f"must be at most {max_payload} bytes as JSON"))
        if len(wrong) == 1:
            raise InvalidJob(wrong, reason="PAYLOAD_TOO_LARGE")
    if wrong:
        raise InvalidJob(wrong)
    assert submit.payload is not None
    return NewJob(
        job_id=job_id,
        job_type=submit.job_type,
        payload=submit.payload,
        request_id=submit.request_id,
        content_hash=content_hash(submit) if submit.request_id else b"",
        max_attempts=submit.max_attempts,
        attempt_timeout=submit.attempt_timeout,
        labels=submit.labels,
        on_open=submit.on_open,
        trace=submit.trace,
    )


def content_hash(submit: Submit) -> bytes:
    """What decides whether a repeated request_id carries the same content. The payload's bytes come from one
    encoder with sorted keys, so equal objects have equal bytes."""
    digest = blake2b(digest_size=16)
    timeout = submit.attempt_timeout
    parts = (
        submit.job_type.encode(),
        submit.payload or b"",
        str(submit.max_attempts).encode(),
        str(timeout.total_seconds() if timeout else None).encode(),
        repr(sorted(submit.labels.items())).encode(),
        submit.on_open.value.encode(),
    )
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _violations(submit: Submit) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if not submit.job_type.strip():
        found.append(FieldViolation("job_type", "should not be empty"))
    elif not JOB_TYPE.fullmatch(submit.job_type):
        found.append(FieldViolation("job_type", JOB_TYPE_RULE))
    if submit.payload is None:
        found.append(FieldViolation("payload", "must be an object"))
    if submit.request_id and not REQUEST_ID.fullmatch(submit.request_id):
        found.append(
            FieldViolation("request_id", "must be 1 to 128 printable ASCII characters without spaces")
        )
    if submit.max_attempts is not None and not 1 <= submit.max_attempts <= MAX_ATTEMPTS:
        found.append(FieldViolation("max_attempts", f"must be between 1 and {MAX_ATTEMPTS}"))
    timeout = submit.attempt_timeout
    if timeout is not None and not timedelta(milliseconds=1) <= timeout <= MAX_TIMEOUT:
        found.append(FieldViolation("attempt_timeout", "must be between 1 ms and 24 h"))
    return found + _label_violations(submit.labels)


def _label_violations(labels: Mapping[str, str]) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if len(labels) > MAX_LABELS:
        found.append(FieldViolation("labels", f"must be at most {MAX_LABELS}"))
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            rule = "must have a key of 1 to 63 letters, digits and . _ -"
            found.append(FieldViolation(f"labels.{key}"[:100], rule))
        elif len(value) > MAX_LABEL_VALUE or "\x00" in value:
            rule = f"must be at most {MAX_LABEL_VALUE} characters without NUL"
            found.append(FieldViolation(f"labels.{key}", rule))
    return found
