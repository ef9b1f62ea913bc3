"""WORKER_PROCESSES: several workers under one parent."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.servers import wait_for
from tests.system.client import SUCCEEDED, Client
from tests.system.fleet import Fleet, Ports, Program, clean_environ

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis]


def fetched(ports: Ports, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of what the parent answers; status 0 while nobody does."""
    request = urllib.request.Request(f"{ports.http('worker')}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status), bytes(answer.read())
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()
    except OSError:
        return 0, b""


def info(ports: Ports) -> dict[str, Any]:
    """By name, of `/health`."""
    _, body = fetched(ports, "/health")
    found: dict[str, Any] = orjson.loads(body)["info"] if body else {}
    return {name: one["status"] for name, one in found.items()}


def children(program: Program) -> list[int]:
    listed = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    return [int(pid) for pid in listed]


ALL_UP = dict.fromkeys(
    ("worker", "ready", "processes", "database", "rabbitmq", "redis", "controlPlane"), "up"
)


async def test_two_processes_share_the_work_and_answer_as_one(
    headless: Fleet, headless_client: Client
) -> None:
    client, job_type = headless_client, headless.handled("echo")
    parent, ports = headless.worker(WORKER_PROCESSES="2", WORKER_NAME="pair", WORKER_CONCURRENCY="1")
    wait_for(lambda: info(ports) == ALL_UP, 90, "both are ready")
    jobs = [await client.settled(job_id) for job_id in await client.submit_many(job_type, 60)]
    assert {job.state for job in jobs} == {SUCCEEDED}
    assert {attempt.worker_id for job in jobs for attempt in job.attempt_history} == {"pair-1", "pair-2"}

    _, text = fetched(ports, "/metrics")
    finished = [
        line for line in text.decode().splitlines() if line.startswith("selfheal_jobs_finished_total{")
    ]
    assert {line.partition('process="')[2][0] for line in finished if job_type in line} == {"1", "2"}
    assert sum(float(line.rpartition(" ")[2]) for line in finished if job_type in line) == 60
    assert text.count(b"# TYPE selfheal_jobs_finished_total") == 1
    status, body = fetched(ports, f"/queues/{job_type}/stats")
    assert (status, orjson.loads(body)["waiting"]) == (200, 0)
    assert fetched(ports, "/queues/none.such/stats")[0] == 404

    before = children(parent)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: info(ports).get("processes") == "down", 20, "it is missed")
    assert info(ports)["worker"] == "up"
    wait_for(lambda: info(ports) == ALL_UP, 30, "another has taken its place")
    assert len(set(children(parent)) - set(before)) == 1

    parent.terminate()
    assert parent.await_end() == 0, parent.log


async def test_no_process_outlives_its_parent(headless: Fleet) -> None:
    parent, ports = headless.worker(WORKER_PROCESSES="2", SHUTDOWN_GRACE="1")
    wait_for(lambda: info(ports) == ALL_UP, 90, "both are ready")
    orphans = children(parent)
    assert len(orphans) == 2
    parent.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans), 60, "they end too")


@pytest.mark.parametrize("command", ["jobapi", "worker", "controlplane", "migrate"])
def test_a_component_takes_no_arguments_but_help(command: str, tmp_path: Path) -> None:
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path / 'selfheal.db'}"}
    asked = Program([command, "--help"], environ, tmp_path).start()
    assert asked.await_end() == 0
    assert "docs/configuration.md" in asked.log
    mistaken = Program([command, "--prot", "4000"], environ, tmp_path).start()
    assert mistaken.await_end() == 2
    assert "unrecognized arguments: --prot 4000" in mistaken.log
    assert not (tmp_path / "selfheal.db").exists()


@pytest.mark.parametrize(
    ("command", "environ", "said"),
    [
        ("worker", {"WORKER_PROCESSES": "2", "WORKER_HANDLERS": "no_such_module"}, "no_such_module"),
        ("worker", {"WORKER_PROCESSES": "0"}, "WORKER_PROCESSES=0"),
        ("dev", {"WORKER_PROCESSES": "2"}, "`selfheal dev` is one process"),
    ],
)
def test_what_cannot_be_is_said_once(
    command: str, environ: dict[str, str], said: str, tmp_path: Path
) -> None:
    urls = {"DATABASE_URL": f"sqlite:///{tmp_path / 'selfheal.db'}"}
    program = Program([command], {**clean_environ(), **Ports().environ, **urls, **environ}, tmp_path).start()
    assert program.await_end() == 2
    assert [said in line for line in program.log.splitlines()] == [True]
