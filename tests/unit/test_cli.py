"""The `selfheal` command against a server on a real socket: what it prints and how it exits."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from selfheal.control.v1 import breaker_pb2

from jobkit.cli import main as main_module
from jobkit.cli.main import main
from tests.unit.fake_server import FakeServer


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict:
        return json.loads(self.out)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def selfheal(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        code = main(["--api", server.target, "--control", server.target, *arguments])
        return Ran(code, *capsys.readouterr())

    return run


def test_help_names_the_components_and_imports_no_grpc() -> None:
    script = (
        "import sys\nfrom jobkit.cli.main import main\ncode = main(['--help'])\n"
        "loaded = {'grpc', 'google.protobuf', 'worker', 'jobapi'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("job", "breaker", "jobapi", "worker", "controlplane", "dev"):
        assert f"\n  {name} " in done.stdout


def test_a_component_gets_the_rest_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[list[str]] = []

    class Component:
        name = "worker"

        def load(self) -> Callable[[list[str]], int]:
            return lambda arguments: got.append(arguments) or 7

    monkeypatch.setattr(main_module, "find_components", lambda: {"worker": Component()})
    line = ["worker", "--help", "--", "-x", "job"]
    assert main(line) == 7
    assert main(["--api", "somewhere:1", *line]) == 7
    assert got == [line[1:], line[1:]]


def test_the_version_is_told(selfheal: Callable[..., Ran]) -> None:
    ran = selfheal("--version")
    assert ran.code == 0
    assert ran.out.strip()[0].isdigit()


def test_a_job_is_submitted_and_read(selfheal: Callable[..., Ran]) -> None:
    ran = selfheal("job", "submit", "email", '{"to": "a@b.c", "n": 1}', "--label", "team=core", "--json")
    assert ran.code == 0
    job = ran.document
    assert job["state"] == "JOB_STATE_QUEUED"
    assert job["labels"] == {"team": "core"}
    assert '"n": 1.0' not in ran.out
    assert job["holds"] == 0  # fields without presence are printed
    shown = selfheal("job", "get", job["jobId"])
    assert shown.code == 0
    for text in (job["jobId"], "QUEUED", '{"n": 1, "to": "a@b.c"}', "team=core"):
        assert text in shown.out


def test_every_field_of_a_submit_is_sent(selfheal: Callable[..., Ran], server: FakeServer) -> None:
    options = [
        "--request-id",
        "r",
        "--max-attempts",
        "3",
        "--attempt-timeout",
        "1m30s",
        "--on-open",
        "reject",
    ]
    assert selfheal("job", "submit", "email", *options).code == 0
    (request,) = server.memory.requests
    assert (request.request_id, request.max_attempts, request.on_open) == ("r", 3, 2)
    assert request.attempt_timeout.seconds == 90
    again = selfheal("job", "submit", "email", *options)
    assert (again.code, "seen before" in again.err) == (0, True)


def test_a_payload_comes_from_a_file_or_from_stdin(
    selfheal: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"from": "file"}')
    assert selfheal("job", "submit", "email", f"@{file}", "--json").document["payload"] == {"from": "file"}
    monkeypatch.setattr("sys.stdin", io.StringIO('{"from": "stdin"}'))
    assert selfheal("job", "submit", "email", "-", "--json").document["payload"] == {"from": "stdin"}
    assert selfheal("job", "submit", "email", "--json").document["payload"] == {}


def test_waiting_shows_the_end(selfheal: Callable[..., Ran]) -> None:
    ran = selfheal("job", "submit", "email", "{}", "--wait", "--json")
    assert (ran.code, ran.document["state"], ran.document["result"]) == (
        0,
        "JOB_STATE_SUCCEEDED",
        {"sent": 1},
    )
    assert selfheal("job", "wait", ran.document["jobId"]).code == 0


def test_a_job_is_watched_to_its_end(selfheal: Callable[..., Ran]) -> None:
    def new(job_type: str) -> str:
        return selfheal("job", "submit", job_type, "--json").document["jobId"]

    ran = selfheal("job", "watch", new("steps"))
    assert ran.code == 0
    assert [line.strip() for line in ran.out.splitlines()] == [
        "QUEUED",
        "RUNNING 1 of 2",
        "RUNNING 2 of 2",
        "SUCCEEDED 2 of 2 (attempts 1)",
    ]
    told = [json.loads(line) for line in selfheal("job", "watch", new("steps"), "--json").out.splitlines()]
    states = ["QUEUED", "RUNNING", "RUNNING", "SUCCEEDED"]
    assert [job["state"] for job in told] == [f"JOB_STATE_{state}" for state in states]
    failed = selfheal("job", "watch", new("broken"))
    assert (failed.code, "QUARANTINED RETRIES_EXHAUSTED" in failed.out) == (1, True)
    missing = selfheal("job", "watch", "nonsense")
    assert (missing.code, "JOB_NOT_FOUND" in missing.err) == (1, True)


def test_waiting_for_a_job_that_does_not_succeed_exits_with_1(selfheal: Callable[..., Ran]) -> None:
    broken = selfheal("job", "submit", "--wait", "5", "broken")
    assert broken.code == 1
    assert "QUARANTINED RETRIES_EXHAUSTED" in broken.out
    assert "API_TIMEOUT: no answer\\x1b[31m" in broken.out  # no control character reaches the terminal
    assert "worker-1" in broken.out
    slow = selfheal("job", "submit", "slow", "--wait=0.3", "--json")
    assert (slow.code, slow.document["state"]) == (1, "JOB_STATE_QUEUED")
    assert "has not settled within 0.3 s" in slow.err


def test_jobs_are_listed(selfheal: Callable[..., Ran]) -> None:
    ids = [selfheal("job", "submit", "email", "--json").document["jobId"] for _ in range(3)]
    table = selfheal("job", "list").out.splitlines()
    assert table[0].split() == ["JOB", "ID", "TYPE", "STATE", "ATTEMPTS", "CREATED", "LAST", "ERROR", "NOTE"]
    assert [line.split()[0] for line in table[1:]] == ids[::-1]
    lines = selfheal("job", "list", "--limit", "2", "--json").out.splitlines()
    assert [json.loads(line)["jobId"] for line in lines] == ids[:0:-1]
    assert selfheal("job", "list", "--filter", "state = SUCCEEDED", "--json").out == ""


def test_a_job_is_cancelled_retried_and_discarded(selfheal: Callable[..., Ran]) -> None:
    job_id = selfheal("job", "submit", "broken", "--wait", "--json").document["jobId"]
    retried = selfheal("job", "retry", job_id, "--payload", '{"n": 2}', "--json")
    assert (retried.code, retried.document["payload"]) == (0, {"n": 2})
    assert "CANCELLED" in selfheal("job", "cancel", job_id).out
    refused = selfheal("job", "cancel", job_id)
    assert (refused.code, refused.out) == (1, "")
    assert "error: job is finished (FAILED_PRECONDITION, JOB_FINISHED)" in refused.err
    assert "DISCARDED" in selfheal("job", "discard", job_id).out


def test_an_error_is_told_in_full(selfheal: Callable[..., Ran], server: FakeServer) -> None:
    ran = selfheal("job", "submit", "not a type", "{}")
    assert (ran.code, ran.out) == (1, "")
    assert "(INVALID_ARGUMENT, INVALID_FIELD)" in ran.err
    assert "\n  job_type: must be letters" in ran.err
    ran = selfheal("job", "get", "nonsense")
    assert ran.code == 1
    assert "error: job 'nonsense' not found (NOT_FOUND, JOB_NOT_FOUND)\n  name: nonsense" in ran.err
    server.memory.breakers["email"].state = breaker_pb2.BREAKER_STATE_OPEN
    ran = selfheal("job", "submit", "email", "--on-open", "reject")
    assert ran.code == 1
    assert "try again in 0.05 s" in ran.err


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "get", "x", "--api", "127.0.0.1:1"]) == 1
    assert "is a server running at 127.0.0.1:1?" in capsys.readouterr().err


def test_a_short_absence_is_bridged(selfheal: Callable[..., Ran], server: FakeServer) -> None:
    server.memory.failures.extend([grpc.StatusCode.UNAVAILABLE] * 2)
    assert selfheal("job", "submit", "email").code == 0


@pytest.mark.parametrize(
    "line",
    [
        ["nope"],
        ["job"],
        ["job", "nope"],
        ["job", "submit"],
        ["job", "submit", "email", "{"],
        ["job", "submit", "email", "[]"],
        ["job", "submit", "email", '{"a": NaN}'],
        ["job", "submit", "email", '{"a": 9007199254740993}'],
        ["job", "submit", "email", "@/does/not/exist"],
        ["job", "submit", "email", "--label", "novalue"],
        ["job", "submit", "email", "--label", "a=1", "--label", "a=2"],
        ["job", "submit", "email", "--on-open", "maybe"],
        ["job", "submit", "email", "--max-attempts", "0"],
        ["job", "submit", "email", "--attempt-timeout", "soon"],
        ["job", "list", "--limit", "0"],
        ["breaker", "reset", "email"],
        ["breaker", "open", "email", "--reason", "x", "--until", "2001-01-01T00:00:00Z"],
        ["breaker", "open", "email", "--reason", "x", "--until", "2999-01-01T00:00:00"],
        ["breaker", "open", "email", "--reason", "x", "--until", "tomorrow"],
    ],
)
def test_misuse_exits_with_2_and_asks_no_server(
    selfheal: Callable[..., Ran],
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    line: list[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    ran = selfheal(*line)
    assert ran.code == 2
    assert ran.err or "Usage:" in ran.out
    assert server.memory.requests == []


def test_addresses_come_from_the_environment(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SELFHEAL_API", server.target)
    monkeypatch.setenv("SELFHEAL_CONTROL", server.target)
    assert main(["job", "list"]) == 0
    assert main(["breaker", "list"]) == 0
    assert "email" in capsys.readouterr().out


def test_breakers_are_listed_over_all_pages(selfheal: Callable[..., Ran], server: FakeServer) -> None:
    server.memory.breakers["@smtp"] = breaker_pb2.Breaker(
        breaker="@smtp", state=breaker_pb2.BREAKER_STATE_OPEN, failures={"API_TIMEOUT": 5}, held_jobs=3
    )
    table = selfheal("breaker", "list").out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["@smtp", "OPEN"], ["email", "CLOSED"]]
    assert "API_TIMEOUT 5" in table[1]
    lines = selfheal("breaker", "list", "--json").out.splitlines()
    assert [json.loads(line)["breaker"] for line in lines] == ["@smtp", "email"]
    assert json.loads(lines[0])["heldJobs"] == "3"


def test_breakers_are_moved_with_a_reason_and_a_name(
    selfheal: Callable[..., Ran], server: FakeServer
) -> None:
    ran = selfheal(
        "breaker", "open", "email", "--reason", "provider down", "--actor", "ada", "--until", "10m"
    )
    assert ran.code == 0
    assert "OPEN (by hand)" in ran.out
    assert "provider down" in ran.out
    assert (
        590
        < server.memory.requests[-1].until.seconds - server.memory.breakers["email"].open_time.seconds
        < 610
    )
    closed = selfheal("breaker", "close", "email", "--reason", "x", "--until", "2999-01-01T00:00:00+02:00")
    assert closed.code == 0
    assert server.memory.requests[-1].until.ToJsonString() == "2998-12-31T22:00:00Z"
    reset = selfheal("breaker", "reset", "email", "--reason", "fixed", "--json")
    assert reset.document["transitions"][0]["actor"] == "ada"
    assert reset.document["state"] == "BREAKER_STATE_CLOSED"
    assert selfheal("breaker", "get", "nope").code == 1


def test_a_person_is_asked_for_the_reason(
    selfheal: Callable[..., Ran], server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("it works again\n"))
    monkeypatch.setattr("getpass.getuser", lambda: "grace")
    assert selfheal("breaker", "reset", "email").code == 0
    request = server.memory.requests[-1]
    assert (request.reason, request.actor) == ("it works again", "grace")


def test_a_policy_is_set_shown_and_listed(selfheal: Callable[..., Ran], server: FakeServer) -> None:
    set_ = [
        "breaker",
        "policy",
        "set",
        "mail.*",
        "mode=shadow",
        "cooldown=1m30s",
        "failure_rate=0.7",
        "probes=",
    ]
    ran = selfheal(
        *set_, "ignored_error_codes=GONE,NO", "slow_call_duration=0", "--reason", "to see", "--etag", "3"
    )
    assert ran.code == 0, ran.err
    request = server.memory.requests[-1]
    assert (request.reason, request.policy.etag, request.validate_only) == ("to see", "3", False)
    paths = ["mode", "cooldown", "failure_rate", "probes", "ignored_error_codes", "slow_call_duration"]
    assert list(request.update_mask.paths) == paths
    assert request.policy.cooldown.seconds == 90
    assert request.policy.HasField("slow_call_duration")
    assert not request.policy.HasField("probes")
    for command in (["get", "mail.*"], ["list"]):
        shown = selfheal("breaker", "policy", *command).out
        for said in ("mode=SHADOW", "cooldown=90s", "failure_rate=0.7", "ignored_error_codes=GONE,NO"):
            assert said in shown
        assert selfheal("breaker", "policy", *command, "--json").document


def test_a_policy_can_be_checked_only(selfheal: Callable[..., Ran], server: FakeServer) -> None:
    assert selfheal("breaker", "policy", "set", "x", "probes=2", "--reason", "r", "--validate-only").code == 0
    assert server.memory.policies == {}


@pytest.mark.parametrize(
    "setting", ["probes", "nonsense=1", "probes=many", "mode=LOUD", "cooldown=soon", "etag=1"]
)
def test_what_cannot_be_read_is_a_usage_error(
    selfheal: Callable[..., Ran], server: FakeServer, setting: str
) -> None:
    assert selfheal("breaker", "policy", "set", "x", setting, "--reason", "r").code == 2
    assert server.memory.requests == []


def test_a_setting_is_given_once(selfheal: Callable[..., Ran]) -> None:
    assert selfheal("breaker", "policy", "set", "x", "probes=1", "probes=2", "--reason", "r").code == 2
