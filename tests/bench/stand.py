"""The stand that measurements are made on: processes of the product, the meter, and a report to fill."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.bench.figures import Report, Span
from tests.bench.meter import Match, Meter
from tests.servers import free_port, reachable, wait_for
from tests.system.fleet import Ports, Program

ROOT = Path(__file__).resolve().parents[2]
OURS = ("jobapi", "worker", "controlplane", "dev")
SETTINGS = {"SIMULATE": "1", "LOG_LEVEL": "WARNING"}
RESTING = 120.0  # seconds, the longest wait for servers
QUIET = 0.1  # cores, of all servers together


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of it. `jobs` is a round of the batched submit and of the drain; the rest follows from it."""

    jobs: int
    rounds: int

    @property
    def singly(self) -> int:
        """A round of what is done one by one, many at a time."""
        return max(self.jobs // 4, 300)

    @property
    def lone(self) -> int:
        """A round of what is done strictly one after the other."""
        return max(self.jobs // 50, 100)


class Measured(Program):
    """A process whose use of the machine is looked at."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Stand:
    """Use it entered: leaving stops all that was started, and keeps the peaks of memory. `lends_client` says that
    this process is the load generator."""

    def __init__(
        self,
        environ: Mapping[str, str],
        servers: Mapping[str, Match],
        report: Report,
        sizes: Sizes,
        *,
        lends_client: bool = True,
    ) -> None:
        self.sizes = sizes
        self.ports = Ports()
        self._environ = {**SETTINGS, **self.ports.environ, **environ}
        self._report = report
        self._stack = contextlib.ExitStack()
        self.meter = Meter((*OURS, "echo"), servers)
        if lends_client:
            self.meter.watch("client", os.getpid())

    def __enter__(self) -> Self:
        self.directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="selfheal-bench-"))
        )
        self._stack.enter_context(self.meter)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._note_memory()
        self._stack.__exit__(*raised)

    @property
    def environ(self) -> Mapping[str, str]:
        """What every process is started with."""
        return self._environ

    def migrate(self) -> None:
        migration = Measured(["migrate"], self._environ, self.directory).start()
        assert migration.await_end() == 0, migration.log

    def start(self, component: str, *arguments: str, **environ: str) -> Measured:
        """A component, ready."""
        program = Measured([component, *arguments], {**self._environ, **environ}, self.directory).start()
        self._stack.callback(program.stop)
        self.meter.follow(component, program.pid)
        parts = ("controlplane", "jobapi", "worker") if component == "dev" else (component,)
        return program.await_ready(*(f"{self.ports.http(part)}/health/ready" for part in parts))

    def run(self, part: str, command: Sequence[str], environ: Mapping[str, str]) -> Measured:
        """Anything else, with all that it starts accounted to `part`."""
        program = Measured(command[1:], environ, self.directory, command[:1]).start()
        self._stack.callback(program.stop)
        self.meter.follow(part, program.pid)
        return program

    def stop(self, program: Measured) -> None:
        """In order, its peak of memory noted."""
        self._note_memory()
        program.stop()

    @contextlib.contextmanager
    def echo(self) -> Iterator[str]:
        """The address of a bare grpc.aio server in a process of its own."""
        port = free_port()
        process = subprocess.Popen([sys.executable, "-m", "tests.bench.echo", str(port)], cwd=ROOT)
        self.meter.watch("echo", process.pid)
        try:
            wait_for(lambda: reachable(f"//127.0.0.1:{port}", port), 10, "the echo answers")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)

    def rest(self) -> None:
        """Until the servers have done what was left over for later, such as moving a log to its segments; for
        RESTING at most."""
        began = time.time()
        while (now := time.time()) - began < RESTING:
            time.sleep(1.0)
            used = self.meter.between(now, time.time())
            if sum(used[part] for part in self.meter.servers) < QUIET * (time.time() - now):
                break

    def rate(self, name: str, span: Span, *against: str) -> None:
        """Report a round of something done many times."""
        self._report.rate(name, span, self.meter.between(span.began, span.ended), against)

    def latency(self, name: str, span: Span, *against: str, same: bool = False) -> None:
        """Report a round of something waited for; the `same` work is not accounted for twice."""
        used = {} if same else self.meter.between(span.began, span.ended)
        self._report.latency(name, span, used, against)

    def _note_memory(self) -> None:
        self._report.memory({part: peak for part, peak in self.meter.memory().items() if part in OURS})
