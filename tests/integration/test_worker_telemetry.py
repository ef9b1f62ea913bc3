"""What the components tell: every metric of the contract, spans, log lines, health by dependency."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from jobkit import Permanent, RetryLater, TransientError
from jobkit.domain.errors import store_unavailable
from jobkit.domain.job import JobState, TraceContext
from jobkit.handling import JobContext
from jobkit.runtime.logs import JsonLines
from tests.integration.stage import Place, Stage, Trade, eventually, succeed

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = TraceContext(f"00-{TRACE}-00f067aa0ba902b7-01")


async def test_the_metrics_of_the_contract(embedded: Place) -> None:
    email = Trade("email", max_attempts=2)

    async def act(job: JobContext) -> None:
        if job.payload.get("fail") == "transient":
            raise TransientError("API_TIMEOUT")
        if job.payload.get("fail") == "permanent":
            raise Permanent("VALIDATION_ERROR")
        if job.payload.get("fail") == "later" and job.delivery == 1:
            raise RetryLater(0)

    email.act = act
    async with Stage(embedded) as stage:
        api = await stage.jobapi()
        worker = await stage.worker(email)
        good = [await stage.submit("email") for _ in range(3)]
        bad = [await stage.submit("email", {"fail": kind}) for kind in ("transient", "permanent")]
        later = await stage.submit("email", {"fail": "later"})
        await stage.all_reach(bad, JobState.QUARANTINED)
        await stage.all_reach([*good, later], JobState.SUCCEEDED)
        go, before = email.hang(), len(email.begun)
        running = await stage.submit("email")
        await email.began(before + 1)
        cancelled = await stage.submit("email")
        await email.began(before + 2)

        api_found, found = await stage.metrics(api), await stage.metrics(worker)
        assert api_found['selfheal_jobs_submitted_total{job_type="email"}'] == 8
        assert found['selfheal_jobs_running{job_type="email"}'] == 2
        finished = "selfheal_jobs_finished_total"
        assert found[f'{finished}{{job_type="email",outcome="succeeded"}}'] == 4
        assert found[f'{finished}{{job_type="email",outcome="quarantined"}}'] == 2
        attempts = "selfheal_job_attempts_total"
        assert found[f'{attempts}{{error_code="",job_type="email",outcome="succeeded"}}'] == 4
        assert found[f'{attempts}{{error_code="API_TIMEOUT",job_type="email",outcome="failed"}}'] == 2
        assert found[f'{attempts}{{error_code="VALIDATION_ERROR",job_type="email",outcome="failed"}}'] == 1
        assert found[f'{attempts}{{error_code="",job_type="email",outcome="deferred"}}'] == 1
        assert found['selfheal_job_duration_seconds_count{job_type="email"}'] == 8
        assert found['selfheal_job_queue_seconds_count{job_type="email"}'] == 8
        at = 'messaging_destination_name="jobs:email{}",messaging_operation_name="{}",messaging_system="selfheal"'
        sent = f'messaging_client_sent_messages_total{{error_type="",{at.format("", "publish")}}}'
        taken = at.format(":jobs.main.email", "process")
        assert api_found[sent] == 8
        assert found[f"messaging_client_consumed_messages_total{{{taken}}}"] == 10  # two came again
        assert found[f"messaging_process_duration_seconds_count{{{taken}}}"] == 8
        await stage.api.jobs.cancel(cancelled)
        await stage.reaches(cancelled, JobState.CANCELLED)
        go.set()
        await stage.reaches(running, JobState.SUCCEEDED)

        async def ended() -> dict[str, float]:
            return await stage.metrics(worker)

        last = await eventually(ended, lambda now: now['selfheal_jobs_running{job_type="email"}'] == 0)
        assert last[f'{finished}{{job_type="email",outcome="cancelled"}}'] == 1
        plane = await stage.controlplane()
        counted = await eventually(
            lambda: stage.metrics(plane), lambda now: 'selfheal_breaker_state{breaker="email"}' in now
        )
        assert counted['selfheal_breaker_state{breaker="email"}'] == 0


# -- spans -------------------------------------------------------------------------------------------------------


@pytest.fixture
def exporter() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


async def test_submit_and_attempts_are_in_one_trace(
    place: Place, exporter: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    provider, memory = exporter
    email = Trade(place.type("email"))

    async def act(job: JobContext) -> None:
        if job.attempt == 1:
            raise TransientError("API_TIMEOUT")

    email.act = act
    async with Stage(place, provider) as stage:
        await stage.jobapi()
        await stage.worker(email)
        await stage.reaches(await stage.submit(email.job_type, trace=GIVEN), JobState.SUCCEEDED)
        # A caller without a trace of its own gets one that is recorded.
        status, _ = await stage.post(stage.api, "/jobs", json={"jobType": email.job_type, "payload": {}})
        assert status == 202
        await email.began(4)
        spans = await eventually(_spans(memory), lambda found: len(found) == 6)
    given = [span for span in spans if f"{span.context.trace_id:032x}" == TRACE]
    own = [span for span in spans if span not in given]
    for trace in (given, own):
        producer, *consumers = trace
        assert (producer.name, producer.kind) == (f"publish jobs:{email.job_type}", SpanKind.PRODUCER)
        assert [span.kind for span in consumers] == [SpanKind.CONSUMER] * 2
        for span in consumers:
            (link,) = span.links
            assert link.context.trace_id == producer.context.trace_id == span.context.trace_id
            assert link.context.span_id == producer.parent.span_id
    assert {job.traceparent[3:35] for job in email.begun[:2]} == {TRACE}


def _spans(memory: InMemorySpanExporter):  # type: ignore[no-untyped-def]
    async def read():  # type: ignore[no-untyped-def]
        return memory.get_finished_spans()

    return read


async def test_a_handlers_log_line_carries_job_and_trace(embedded: Place) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines("worker"))
    logger = logging.getLogger("selfheal.handler")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    email = Trade("email")

    async def act(job: JobContext) -> None:
        job.logger.info("on my way")

    email.act = act
    try:
        async with Stage(embedded) as stage:
            await stage.jobapi()
            await stage.worker(email)
            job_id = await stage.submit("email", trace=GIVEN)
            await stage.reaches(job_id, JobState.SUCCEEDED)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert (line["message"], line["job_id"], line["job_type"], line["trace_id"]) == (
        "on my way",
        str(job_id),
        "email",
        TRACE,
    )


# -- health ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("component", "own", "required"),
    [
        ("jobapi", "api", {"database"}),
        ("worker", "worker", {"database", "rabbitmq"}),
        ("controlplane", "controlPlane", {"database"}),
    ],
)
async def test_health_flips_by_dependency(
    embedded: Place, component: str, own: str, required: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(embedded) as stage:
        app = await getattr(stage, component)()
        health = app.front.health
        assert (await stage.get(app, "/health/ready"))[0] == 200
        for name, probe in {
            "database": (stage.world.database, "now"),
            "rabbitmq": (stage.world.dispatcher, "_running"),
            "redis": (stage.world.breakers, "version"),
        }.items():
            with monkeypatch.context() as outage:
                if name == "rabbitmq":
                    outage.setattr(*probe, False)
                else:

                    async def away() -> int:
                        raise store_unavailable("it")

                    outage.setattr(*probe, away)
                await health.check()
                await asyncio.sleep(0)
                await health.check()
                status, body = await stage.get(app, "/health")
                assert status == (503 if name in required else 200), name
                assert body["info"][name]["status"] == "down"
                assert body["info"][own]["status"] == ("down" if name in required else "up")
                assert body["status"] == ("error" if name in required else "ok")
                assert (await stage.get(app, "/health/live"))[0] == 200
            if name == "redis" and component == "worker":
                await eventually(_alone(app), lambda alone: not alone)
            await health.check()
            assert health.ok


def _alone(app):  # type: ignore[no-untyped-def]
    async def read() -> bool:
        return bool(app.organs.fallback.alone)

    return read


async def test_a_handler_that_is_quick_costs_no_round_trip_to_the_breakers(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    email = Trade("email")
    email.act = succeed
    async with Stage(embedded) as stage:
        await stage.jobapi()
        await stage.worker(email)
        calls = 0
        report = stage.world.breakers.report

        async def counted(*args, **named):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            return await report(*args, **named)

        monkeypatch.setattr(stage.world.breakers, "report", counted)
        ids = await stage.submit_many("email", 300)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await stage.all_reach(ids, JobState.SUCCEEDED)
        assert calls <= (loop.time() - started) / 0.2 + 2
