"""Log lines, for people and for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from jobkit.handling import JobContext
from jobkit.runtime import logs

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


Stderr = Callable[[], str]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    """What was written to standard error; the logging tree is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    names = ("jobkit", "jobapi", "worker", "controlplane", "selfheal", "aio_pika", "aiormq")
    levels = {name: logging.getLogger(name).level for name in names}
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(stderr: Stderr) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr().splitlines()]


def test_a_json_line_says_when_who_and_what(stderr: Stderr) -> None:
    logs.configure("worker", "INFO", "json")
    logging.getLogger("worker.lane").info("%d jobs", 3)
    (line,) = lines(stderr)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "component": "worker", "logger": "worker.lane", "message": "3 jobs"}


def test_a_handlers_line_carries_its_job_and_its_trace(stderr: Stderr) -> None:
    logs.configure("worker", "INFO", "json")
    job = JobContext(
        job_id="j-1", job_type="email", payload={}, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01"
    )
    job.logger.info("sent", extra={"request_id": "r-1"})
    (line,) = lines(stderr)
    assert {k: line[k] for k in ("job_id", "job_type", "trace_id", "request_id")} == {
        "job_id": "j-1",
        "job_type": "email",
        "trace_id": TRACE,
        "request_id": "r-1",
    }


def test_a_line_within_a_span_carries_it(stderr: Stderr) -> None:
    logs.configure("worker", "INFO", "json")
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        logging.getLogger("worker").warning("slow")
        context = span.get_span_context()
    (line,) = lines(stderr)
    assert line["trace_id"] == f"{context.trace_id:032x}"
    assert line["span_id"] == f"{context.span_id:016x}"


def test_an_exception_is_part_of_its_line(stderr: Stderr) -> None:
    logs.configure("jobapi", "INFO", "json")
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("jobapi").exception("failed")
    (line,) = lines(stderr)
    assert line["level"] == "error"
    assert line["exception"].endswith("ValueError: bad")


def test_text_that_is_no_unicode_costs_no_line(stderr: Stderr) -> None:
    logs.configure("worker", "INFO", "json")
    logging.getLogger("selfheal.handler").info("half of it: \ud83d")
    (line,) = lines(stderr)
    assert line["message"] == "half of it: \ud83d"


def test_people_see_the_job_behind_the_message(stderr: Stderr) -> None:
    logs.configure("worker", "INFO", "console")
    logging.getLogger("worker").info("plain")
    JobContext(job_id="j-1", job_type="email", payload={}).logger.warning("odd")
    first, second = stderr().splitlines()
    assert first.endswith("INFO    plain")
    assert second.endswith("WARNING odd  job=j-1")


def test_libraries_are_heard_from_warning_on_and_the_level_is_ours(stderr: Stderr) -> None:
    logs.configure("worker", "WARNING", "json")
    logging.getLogger("worker").info("not this")
    logging.getLogger("somebody.else").info("nor this")
    logging.getLogger("aio_pika.robust").error("nor every reconnect")
    logging.getLogger("somebody.else").warning("but this")
    assert [line["message"] for line in lines(stderr)] == ["but this"]
