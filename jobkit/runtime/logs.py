"""Logging: lines for people, or JSON lines for machines, with the job and the trace that they belong to."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import orjson
from opentelemetry import trace

_EXTRA = ("job_id", "job_type", "request_id")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what the line belongs to."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "component": self._component,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        for name in (*_EXTRA, "trace_id"):
            value = getattr(record, name, None)
            if value:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except orjson.JSONEncodeError:  # half a surrogate pair, in somebody's text
            return json.dumps(line, default=str)


class ForPeople(logging.Formatter):
    """`12:00:00 INFO  worker  message  job=…`"""

    def __init__(self, component: str) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        job_id = getattr(record, "job_id", None)
        return f"{line}  job={job_id}" if job_id else line


def configure(component: str, level: str, kind: str) -> None:
    """Log to standard error. Libraries are heard from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(component) if kind == "json" else ForPeople(component))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("jobkit", "jobapi", "worker", "controlplane", "selfheal"):
        logging.getLogger(ours).setLevel(level)
    # aio-pika tells of every reconnect with a traceback; the health says it in a line.
    for loud in ("aio_pika", "aiormq"):
        logging.getLogger(loud).setLevel(logging.CRITICAL)
