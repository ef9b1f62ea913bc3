"""Spans of the way through the queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from jobkit.domain.job import NO_TRACE, ClaimedJob, JobError, TraceContext
from jobkit.domain.outcome import Failed, Succeeded
from jobkit.runtime.tracing import Tracing, provider

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = TraceContext(f"00-{TRACE}-00f067aa0ba902b7-01", "vendor=1", "tenant=acme")
FRESH = TraceContext(f"00-{TRACE}-00f067aa0ba902b7-00", "", "", fresh=True)


class Recorder:
    """Tracing with an exporter in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        made = TracerProvider()
        made.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(made)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.tracing.close()


def claimed(carried: TraceContext) -> ClaimedJob:
    now = datetime.now(UTC)
    return ClaimedJob(
        job_id=uuid4(),
        job_type="email",
        payload=b"{}",
        delivery=3,
        attempts=1,
        attempts_base=0,
        losses=0,
        losses_alone=0,
        max_attempts=None,
        attempt_timeout=None,
        labels={},
        start_time=now,
        due_time=now,
        create_time=now,
        history=(),
        trace=carried,
    )


def test_a_submit_is_a_producer_span_in_the_callers_trace(recorder: Recorder) -> None:
    carried = recorder.tracing.publish("email", "j-1", GIVEN)
    (span,) = recorder.spans
    assert (span.name, span.kind) == ("publish jobs:email", SpanKind.PRODUCER)
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert span.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "jobs:email",
        "messaging.rabbitmq.destination.routing_key": "email",
        "messaging.message.id": "j-1",
        "messaging.operation.type": "send",
    }
    assert carried == TraceContext(f"00-{TRACE}-{span.context.span_id:016x}-01", "vendor=1", "tenant=acme")


def test_an_attempt_is_a_consumer_span_in_the_submits_trace_and_linked_to_it(recorder: Recorder) -> None:
    with recorder.tracing.process(claimed(GIVEN)) as end:
        assert trace.get_current_span().get_span_context().is_valid
        end(Succeeded())
    (span,) = recorder.spans
    assert (span.name, span.kind) == ("process jobs:email:jobs.main.email", SpanKind.CONSUMER)
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    (link,) = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, "00f067aa0ba902b7")
    assert span.attributes is not None
    assert span.attributes["selfheal.job.attempt"] == 2
    assert span.attributes["selfheal.job.delivery"] == 3
    assert span.status.status_code is StatusCode.UNSET


def test_a_failed_attempt_says_with_what(recorder: Recorder) -> None:
    with recorder.tracing.process(claimed(GIVEN)) as end:
        end(Failed(JobError("API_TIMEOUT", "too slow")))
    (span,) = recorder.spans
    assert span.attributes is not None
    assert span.attributes["error.type"] == "API_TIMEOUT"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "too slow")


def test_a_job_without_a_trace_begins_one_and_links_to_nothing(recorder: Recorder) -> None:
    with recorder.tracing.process(claimed(NO_TRACE)):
        pass
    (span,) = recorder.spans
    assert (span.parent, span.links) == (None, ())


def test_what_a_caller_does_not_want_recorded_is_not(recorder: Recorder) -> None:
    unwanted = replace(GIVEN, traceparent=GIVEN.traceparent[:-2] + "00")
    assert recorder.tracing.begin(unwanted) is unwanted
    carried = recorder.tracing.publish("email", "j-1", unwanted)
    with recorder.tracing.process(claimed(carried)):
        pass
    assert recorder.spans == ()
    assert carried.traceparent.endswith("-00")


def test_a_trace_that_no_caller_brought_is_the_samplers_to_decide(recorder: Recorder) -> None:
    begun = recorder.tracing.begin(FRESH)
    assert begun == TraceContext(FRESH.traceparent[:-2] + "01")
    assert Tracing(TracerProvider(sampler=ParentBased(ALWAYS_OFF))).begin(FRESH) == TraceContext(
        FRESH.traceparent
    )
    recorder.tracing.publish("email", "j-1", begun)
    assert len(recorder.spans) == 1


def test_without_an_exporter_nothing_is_paid() -> None:
    tracing = Tracing(None)
    assert tracing.begin(FRESH) is FRESH
    assert tracing.publish("email", "j-1", GIVEN) is GIVEN
    with tracing.process(claimed(GIVEN)) as end:
        end(Succeeded())
        assert not trace.get_current_span().get_span_context().is_valid
    tracing.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "True"},
    ],
)
def test_no_exporter_no_provider(environ: dict[str, str]) -> None:
    assert provider("worker", environ) is None


def test_an_endpoint_makes_a_provider() -> None:
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}
    made = provider("worker", environ)
    assert made is not None
    assert made.resource.attributes["service.name"] == "selfheal-worker"
    tracing = Tracing(made)
    tracing.close()
    tracing.close()
