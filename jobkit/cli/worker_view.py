"""Workers as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.rpc.status_pb2 import Status
from selfheal.control.v1 import worker_pb2

from jobkit.cli.output import Cell, coloured, print_details, print_table, time_text

STATE_PREFIX = "WORKER_STATE_"
PUSH_PREFIX = "PUSH_STATE_"
MIB = 1024 * 1024
NAMES_SHOWN = 5


def print_fleet(
    workers: Sequence[worker_pb2.Worker], convergence: Iterable[worker_pb2.PushConvergence]
) -> None:
    headings = ("WORKER", "STATE", "SLOTS", "MEMORY", "RELEASE", "REPLICA", "HEARD", "SERVES")
    print_table(headings, map(_row, workers))
    pushed = [(f"{one.kind} v{one.version}", _progress(one)) for one in convergence]
    print_details(pushed)


def print_worker(worker: worker_pb2.Worker) -> None:
    print_details(_details(worker))
    if worker.types:
        rows = [(t.job_type, str(t.in_flight), str(t.processed), str(t.failed)) for t in worker.types]
        print_table(("JOB TYPE", "RUNNING", "PROCESSED", "FAILED"), rows)
    if worker.pushes:
        print_table(("PUSHED", "VERSION", "HELD", "STATE", "WHY"), map(_push, worker.pushes))


def _row(worker: worker_pb2.Worker) -> tuple[Cell, ...]:
    names = list(worker.job_types)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (
        worker.worker_id,
        _state(worker),
        _slots(worker),
        _memory(worker),
        worker.release,
        worker.replica,
        time_text(worker, "heartbeat_time"),
        ", ".join(names[:NAMES_SHOWN]) + more,
    )


def _details(worker: worker_pb2.Worker) -> Iterable[tuple[str, Cell]]:
    yield "worker", worker.worker_id
    yield "state", _state(worker)
    yield "process", f"{worker.pid} on {worker.hostname}" if worker.pid else ""
    yield "release", worker.release
    yield "serves", ", ".join(worker.job_types)
    yield "replica", worker.replica
    yield "connected", time_text(worker, "connect_time")
    yield "heard", time_text(worker, "heartbeat_time")
    yield "slots", _slots(worker)
    yield "memory", _memory(worker)
    if worker.HasField("drain"):
        drain = worker.drain
        yield "drain", f"asked {time_text(drain, 'request_time')} by {drain.actor}: {drain.reason}"
        answer = time_text(drain, "answer_time")
        if not answer:
            yield "", "no answer yet: the order stands"
        elif drain.HasField("error"):
            yield "", f"not done: {_error(drain.error)}"
        else:
            yield "", f"done {answer}"


def _state(worker: worker_pb2.Worker) -> Cell:
    known = worker.state in worker_pb2.WorkerState.values()
    name = worker_pb2.WorkerState.Name(worker.state) if known else f"STATE_{worker.state}"
    return coloured(name.removeprefix(STATE_PREFIX))


def _slots(worker: worker_pb2.Worker) -> str:
    return f"{worker.slots_used}/{worker.slots}" if worker.slots else ""


def _memory(worker: worker_pb2.Worker) -> str:
    return f"{worker.memory_bytes / MIB:.0f} MiB" if worker.memory_bytes else ""


def _push(push: worker_pb2.WorkerPush) -> tuple[Cell, ...]:
    known = push.state in worker_pb2.PushState.values()
    name = worker_pb2.PushState.Name(push.state).removeprefix(PUSH_PREFIX) if known else str(push.state)
    why = _error(push.error) if push.HasField("error") else ""
    return (push.kind, str(push.version), str(push.held_version or ""), coloured(name), why)


def _progress(one: worker_pb2.PushConvergence) -> str:
    """Such as `12 ACK, 1 NACK: unknown job type (worker-3)`."""
    text = f"{one.acked} ACK"
    if one.pending:
        text += f", {one.pending} pending"
    if one.nacked:
        why = "; ".join(f"{_error(refusal.error)} ({refusal.worker_id})" for refusal in one.refusals)
        text += f", {one.nacked} NACK: {why}"
    return text


def _error(error: Status) -> str:
    return error.message or f"code {error.code}"
