"""`selfheal breaker watch`, `history`, `incidents`, `incident` against a server on a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import breaker_pb2, incident_pb2

from jobkit.cli.main import main
from tests.unit.fake_server import FakeServer
from tests.unit.test_cli import Ran, selfheal, server  # noqa: F401 - fixtures

OPEN, HALF_OPEN, CLOSED = (
    breaker_pb2.BREAKER_STATE_OPEN,
    breaker_pb2.BREAKER_STATE_HALF_OPEN,
    breaker_pb2.BREAKER_STATE_CLOSED,
)
Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def past(server: FakeServer) -> None:  # noqa: F811 - the fixture
    """An outage of `email`, and a worker that failed alone."""
    for revision, (breaker, before, after, scope) in enumerate(
        [
            ("email", CLOSED, OPEN, ""),
            ("sms", CLOSED, OPEN, "worker-7"),
            ("email", OPEN, HALF_OPEN, ""),
            ("email", HALF_OPEN, CLOSED, ""),
        ],
        start=2,
    ):
        server.memory.history.append(
            breaker_pb2.BreakerTransition(
                revision=revision,
                breaker=breaker,
                from_state=before,
                to_state=after,
                scope=scope,
                cause=breaker_pb2.TRANSITION_CAUSE_EVIDENCE,
                transition_time=Timestamp(seconds=1_760_000_000 + revision),
                reason="no answer\x1b[31m",
            )
        )
    server.memory.incidents = [
        incident_pb2.Incident(incident_id="9", breaker="sms", open_time=Timestamp(seconds=1_760_000_300)),
        incident_pb2.Incident(
            incident_id="2",
            breaker="email",
            open_time=Timestamp(seconds=1_760_000_002),
            close_time=Timestamp(seconds=1_760_000_092),
            time_to_detect=Duration(nanos=600_000_000),
            time_to_recover=Duration(seconds=90),
            jobs_held=1200,
            attempts_saved=4800,
            calls_avoided=4799,
        ),
    ]


def test_the_history_is_read_over_all_pages(selfheal: Run) -> None:  # noqa: F811
    table = selfheal("breaker", "history").out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["5", "email"],
        ["4", "email"],
        ["3", "sms"],
        ["2", "email"],
    ]
    assert "worker-7" in table[3]
    assert "\x1b" not in "".join(table)
    lines = selfheal("breaker", "history", "email", "--limit", "2", "--json").out.splitlines()
    assert [json.loads(line)["revision"] for line in lines] == ["5", "4"]


def test_incidents_are_listed_and_shown(selfheal: Run) -> None:  # noqa: F811
    table = selfheal("breaker", "incidents").out.splitlines()
    assert [line.split()[0] for line in table[1:]] == ["9", "2"]
    for text in ("1200", "4800", "0.6 s", "90.0 s", "2025-10-09 08:54:52Z"):
        assert text in table[2]
    only = selfheal("breaker", "incidents", "--open", "--json").out.splitlines()
    assert [json.loads(line)["incidentId"] for line in only] == ["9"]
    shown = selfheal("breaker", "incident", "2").out
    for text in ("calls avoided", "4799", "HALF_OPEN"):
        assert text in shown
    assert "not yet" in selfheal("breaker", "incident", "9").out
    assert selfheal("breaker", "incident", "2", "--json").document["incident"]["jobsHeld"] == "1200"


def test_a_watch_goes_on_where_it_was_when_the_server_comes_back(
    selfheal: Run,  # noqa: F811
    server: FakeServer,  # noqa: F811
) -> None:
    server.memory.failures.extend([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OUT_OF_RANGE])
    ran = selfheal("breaker", "watch")
    assert ran.code == 1
    assert "UNAVAILABLE" in ran.err
    assert "OUT_OF_RANGE" in ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "email CLOSED"
    assert [line.split("revision ")[1] for line in lines[1:]] == ["2)", "3)", "4)", "5)"]
    assert "email OPEN -> HALF_OPEN EVIDENCE" in lines[3]
    assert [r.revision for r in server.memory.requests if r.HasField("revision")] == [5]


def test_a_watch_from_a_revision_as_json(selfheal: Run, server: FakeServer) -> None:  # noqa: F811
    server.memory.failures.append(grpc.StatusCode.OUT_OF_RANGE)
    ran = selfheal("breaker", "watch", "email", "--revision", "3", "--json")
    assert [json.loads(line)["transition"]["revision"] for line in ran.out.splitlines()] == ["4", "5"]
    assert server.memory.requests[0].breaker == "email"


def test_a_watch_of_a_server_that_is_not_there_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["breaker", "watch", "--control", "127.0.0.1:1"]) == 1
    assert "is a server running at 127.0.0.1:1?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [["history", "--limit", "0"], ["watch", "--revision", "-1"], ["incident"], ["incidents", "a", "b"]],
)
def test_misuse_exits_with_2(selfheal: Run, line: list[str]) -> None:  # noqa: F811
    assert selfheal("breaker", *line).code == 2
