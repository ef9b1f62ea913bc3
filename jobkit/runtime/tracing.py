"""Spans of the way through the queue, named by OpenTelemetry's messaging conventions (v1.44).

Without an exporter configured (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin) nothing samples, and nothing is paid:
the trace context of the submit is carried along as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from jobkit.domain.job import ClaimedJob, TraceContext
from jobkit.domain.outcome import Failed, Outcome
from jobkit.runtime.messaging import consumed_from, sent_to

_propagator = TraceContextTextMapPropagator()


def provider(component: str, environ: Mapping[str, str]) -> TracerProvider | None:
    """A provider that exports over OTLP/gRPC, or None when the environment configures no exporter."""
    wanted = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(environ.get(n) for n in wanted):
        return None
    # Imported here: it costs a tenth of a second at start, for those who export.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    name = environ.get("OTEL_SERVICE_NAME", f"selfheal-{component}")
    made = TracerProvider(resource=Resource.create({"service.name": name}))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


class Tracing:
    """Spans of one component; without a provider it does nothing."""

    def __init__(self, made: TracerProvider | None) -> None:
        self._provider = made
        self._tracer: Tracer | None = made.get_tracer("selfheal") if made is not None else None

    def begin(self, carried: TraceContext) -> TraceContext:
        """A trace that the caller did not bring begins here: the sampler decides whether it is recorded."""
        if self._provider is None or not carried.fresh:
            return carried
        version, trace_id, parent, _ = carried.traceparent.split("-")
        decision = self._provider.sampler.should_sample(None, int(trace_id, 16), "submit").decision
        flags = "01" if decision is Decision.RECORD_AND_SAMPLE else "00"
        return TraceContext("-".join((version, trace_id, parent, flags)), "", carried.baggage)

    def publish(self, job_type: str, job_id: UUID, parent: TraceContext) -> TraceContext:
        """The PRODUCER span of a submit; returns the context to put on the token."""
        if self._tracer is None:
            return parent
        name = f"publish {sent_to(job_type)}"
        attributes: dict[str, str | int] = {
            **_messaging(job_type),
            "messaging.message.id": str(job_id),
            "messaging.operation.type": "send",
        }
        with self._tracer.start_as_current_span(
            name, context=_context(parent), kind=SpanKind.PRODUCER, attributes=attributes
        ):
            carrier: dict[str, str] = {}
            _propagator.inject(carrier)
        return TraceContext(
            carrier.get("traceparent", parent.traceparent),
            carrier.get("tracestate", parent.tracestate),
            parent.baggage,
        )

    def process(self, job: ClaimedJob) -> AbstractContextManager[Callable[[Outcome], None]]:
        """The CONSUMER span of one attempt, in the submit's trace and linked to it; current while the handler
        runs. What it yields is told the outcome."""
        return _UNTRACED if self._tracer is None else self._process(self._tracer, job)

    @contextmanager
    def _process(self, tracer: Tracer, job: ClaimedJob) -> Iterator[Callable[[Outcome], None]]:
        parent = _context(job.trace)
        submit = trace.get_current_span(parent).get_span_context()
        attributes: dict[str, str | int] = {
            **_messaging(job.job_type),
            "messaging.message.id": str(job.job_id),
            "messaging.operation.type": "process",
            "selfheal.job.attempt": job.attempts + 1,
            "selfheal.job.delivery": job.delivery,
        }
        with tracer.start_as_current_span(
            f"process {consumed_from(job.job_type)}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(submit)] if submit.is_valid else [],
        ) as span:

            def end(outcome: Outcome) -> None:
                if isinstance(outcome, Failed):
                    span.set_attribute("error.type", outcome.error.code)
                    span.set_status(StatusCode.ERROR, outcome.error.message)

            yield end

    def close(self) -> None:
        """Export what is left. Safe to repeat."""
        if self._provider is not None:
            self._provider.shutdown()


def _messaging(job_type: str) -> dict[str, str]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": sent_to(job_type),
        "messaging.rabbitmq.destination.routing_key": job_type,
    }


def _context(carried: TraceContext) -> Context:
    return _propagator.extract({"traceparent": carried.traceparent, "tracestate": carried.tracestate})


def _ignore(outcome: Outcome) -> None:
    """Nobody looks."""


_UNTRACED: AbstractContextManager[Callable[[Outcome], None]] = nullcontext(_ignore)
