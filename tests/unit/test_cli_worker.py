"""`selfheal worker list|get|drain` against a service on a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status
from selfheal.control.v1 import worker_pb2, worker_service_pb2_grpc
from selfheal.control.v1 import worker_service_pb2 as api

from jobkit.cli import main as main_module
from jobkit.cli.main import main

NOW = Timestamp(seconds=1_767_225_600)


class FakeWorkerService(worker_service_pb2_grpc.WorkerServiceServicer):
    """One worker a page; drains are remembered."""

    def __init__(self) -> None:
        self.drained: list[api.DrainWorkerRequest] = []
        self.workers = {
            "w1": worker_pb2.Worker(
                worker_id="w1",
                state=worker_pb2.WORKER_STATE_ACTIVE,
                hostname="host",
                pid=7,
                slots=16,
                slots_used=2,
                memory_bytes=64 << 20,
                job_types=[f"t{n}" for n in range(7)],
                heartbeat_time=NOW,
                types=[worker_pb2.WorkerTypeFigures(job_type="t0", in_flight=2, processed=30, failed=4)],
                pushes=[
                    worker_pb2.WorkerPush(
                        kind="policies",
                        version=7,
                        held_version=6,
                        state=worker_pb2.PUSH_STATE_NACKED,
                        error=Status(code=3, message="unknown job type"),
                    )
                ],
            ),
            "w2": worker_pb2.Worker(worker_id="w2", state=worker_pb2.WORKER_STATE_DISCONNECTED),
        }

    def ListWorkers(self, request: Any, context: Any) -> Any:
        names = sorted(self.workers)
        at = int(request.page_token or 0)
        refusal = worker_pb2.PushRefusal(worker_id="w1", error=Status(code=3, message="unknown job type"))
        told = worker_pb2.PushConvergence(
            kind="policies", version=7, acked=12, nacked=1, pending=2, refusals=[refusal]
        )
        return api.ListWorkersResponse(
            workers=[self.workers[names[at]]],
            next_page_token=str(at + 1) if at + 1 < len(names) else "",
            convergence=[told],
        )

    def GetWorker(self, request: Any, context: Any) -> Any:
        if request.worker_id not in self.workers:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such worker")
        return api.GetWorkerResponse(worker=self.workers[request.worker_id])

    def DrainWorker(self, request: Any, context: Any) -> Any:
        self.drained.append(request)
        worker = worker_pb2.Worker()
        worker.CopyFrom(self.workers[request.worker_id])
        worker.drain.CopyFrom(
            worker_pb2.WorkerDrain(
                reason=request.reason, actor=request.actor, request_time=NOW, answer_time=NOW
            )
        )
        return api.DrainWorkerResponse(worker=worker)


@pytest.fixture
def service() -> FakeWorkerService:
    return FakeWorkerService()


@pytest.fixture
def selfheal(
    service: FakeWorkerService, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    server = grpc.server(ThreadPoolExecutor(2))
    worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--control", f"127.0.0.1:{port}"])
        return code, *capsys.readouterr()

    yield run
    server.stop(0).wait()


def test_the_fleet_and_how_far_pushes_have_come(selfheal: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = selfheal("worker", "list")
    assert code == 0
    first, second = (line for line in out.splitlines() if line.startswith("w"))
    assert "ACTIVE" in first
    assert "2/16" in first
    assert "64 MiB" in first
    assert "t0, t1, t2, t3, t4 and 2 more" in first
    assert "DISCONNECTED" in second
    assert "policies v7" in out
    assert "12 ACK, 2 pending, 1 NACK: unknown job type (w1)" in out


def test_programs_get_a_document_a_line(selfheal: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = selfheal("worker", "list", "--json")
    assert [json.loads(line)["workerId"] for line in out.splitlines()] == ["w1", "w2"]
    _, out, _ = selfheal("worker", "get", "w1", "--json")
    assert json.loads(out)["types"] == [{"jobType": "t0", "inFlight": 2, "processed": "30", "failed": "4"}]


def test_one_worker_in_full(selfheal: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = selfheal("worker", "get", "w1")
    assert code == 0
    assert "7 on host" in out
    assert any(line.split() == ["t0", "2", "30", "4"] for line in out.splitlines())
    assert any("NACKED" in line and "unknown job type" in line for line in out.splitlines())
    code, _, err = selfheal("worker", "get", "w3")
    assert code == 1
    assert "NOT_FOUND" in err


def test_a_drain_has_a_reason_and_a_name(
    selfheal: Callable[..., tuple[int, str, str]], service: FakeWorkerService
) -> None:
    assert selfheal("worker", "drain", "w1")[0] == 2
    code, out, _ = selfheal("worker", "drain", "w1", "--reason", "a new disk", "--actor", "ada")
    assert code == 0
    assert "by ada: a new disk" in out
    assert "done" in out
    (request,) = service.drained
    assert (request.worker_id, request.reason, request.actor) == ("w1", "a new disk", "ada")


def test_everything_else_starts_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[list[str]] = []

    class Component:
        name = "worker"

        def load(self) -> Callable[[list[str]], int]:
            return lambda arguments: got.append(arguments) or 0

    monkeypatch.setattr(main_module, "find_components", lambda: {"worker": Component()})
    for line in (["worker"], ["worker", "--list"], ["worker", "--", "list"]):
        assert main(line) == 0
        assert main(["--control", "somewhere:1", *line]) == 0
    assert got == [[], [], ["--list"], ["--list"], ["--", "list"], ["--", "list"]]
