"""selfheal as its users run it: processes of the `selfheal` command, on free ports, with their logs kept.

`Program` is one process. `Fleet` is what answers on the six ports: one `selfheal dev`, or the three components.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Self

from tests.servers import free_port, wait_for

SELFHEAL = str(Path(sys.executable).with_name("selfheal"))
HANDLERS = Path(__file__).with_name("trial_handlers.py")
READY_SECONDS = 90.0
STOP_SECONDS = 60.0
COMPONENTS = ("controlplane", "jobapi", "worker")

# Healing in seconds instead of minutes.
BRISK = {
    "COOLDOWN_PERIOD": "2",
    "MAX_COOLDOWN": "4",
    "RETRY_DELAY_MS": "250",
    "MAX_RETRY_DELAY_MS": "1000",
    "SHUTDOWN_GRACE": "3",
    # Many fleets share the one server of a test run.
    "DATABASE_CONNECTIONS": "6",
}
# What the shell that runs the tests may have set, and what must not reach a started process.
_OURS = re.compile(
    "(SELFHEAL|DATABASE|JOBAPI|WORKER|CONTROLPLANE|STREAM|FAILURE|MAX|RETRY|SIMULATE|SMTP|WEBHOOK|OTEL)_.*"
    "|SIMULATE|PORT|BIND|(RABBITMQ|REDIS)_URL|LOG_(LEVEL|FORMAT)|JOB_LEASE|COOLDOWN_PERIOD|ALLOW_INSECURE"
)


def clean_environ() -> dict[str, str]:
    """This process's environment without a setting of selfheal's."""
    return {name: value for name, value in os.environ.items() if not _OURS.fullmatch(name)}


def answers_ok(url: str) -> bool:
    """Whether `url` answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


@dataclass
class Ports:
    """Six ports that nobody listens on now, or those of the components that are to be replaced."""

    numbers: dict[str, int] = field(
        default_factory=lambda: {
            f"{part}_{kind}": free_port()
            for part in ("JOBAPI", "CONTROLPLANE", "WORKER")
            for kind in ("GRPC", "HTTP")
        }
    )

    @property
    def environ(self) -> dict[str, str]:
        ports = {f"{name}_PORT": str(port) for name, port in self.numbers.items()}
        return {**ports, "CONTROLPLANE_ADDR": self.grpc("controlplane")}

    def http(self, component: str) -> str:
        """The root of a component's HTTP address, without a slash."""
        return f"http://127.0.0.1:{self.numbers[f'{component.upper()}_HTTP']}"

    def grpc(self, component: str) -> str:
        return f"127.0.0.1:{self.numbers[f'{component.upper()}_GRPC']}"


class Program:
    """One `selfheal …` process in `directory`; its output goes to a file there."""

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        directory: Path,
        command: Sequence[str] = (SELFHEAL,),
    ) -> None:
        self.command = command
        self.arguments = list(arguments)
        self.environ = dict(environ)
        self.directory = directory
        self._log = directory / f"{Path(arguments[0]).name}-{time.monotonic_ns()}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, *self.arguments],
                cwd=self.directory,
                env={**clean_environ(), **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def await_ready(self, *urls: str) -> Self:
        """Until each of `urls` answers 200. Raises AssertionError with the log when the process ends before."""
        try:
            wait_for(
                lambda: not self.running or all(map(answers_ok, urls)), READY_SECONDS, f"{urls} are ready"
            )
        except TimeoutError as late:
            raise AssertionError(f"{late}:\n{self.log[-4000:]}") from None
        assert self.running, f"{self.arguments} ended at once:\n{self.log[-4000:]}"
        return self

    def await_end(self, timeout: float = STOP_SECONDS) -> int:
        """The exit code."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.arguments} runs on after {timeout} s:\n{self.log[-4000:]}") from None

    def terminate(self) -> None:
        """SIGTERM; does not wait."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not listen. Safe to repeat."""
        if not self.running:
            return
        self.terminate()
        try:
            self.await_end()
        finally:
            self.kill()


class Fleet:
    """What answers on one set of ports, over one set of stores. Job types of a test begin with `prefix`, because
    the operators' keys in Redis carry no namespace of their own."""

    def __init__(self, directory: Path, environ: Mapping[str, str], prefix: str, *, dev: bool) -> None:
        self.directory = directory
        self.prefix = prefix
        self.dev = dev
        self.ports = Ports()
        self.environ = {**BRISK, "TRIAL_PREFIX": prefix, **environ}
        self.programs: list[Program] = []
        self._names = 0
        shutil.copy(HANDLERS, directory)

    @property
    def redis_url(self) -> str:
        """Only where there are servers."""
        return self.environ["REDIS_URL"]

    def job_type(self, name: str) -> str:
        """A type that no other test uses."""
        self._names += 1
        return f"{self.prefix}.{name}.{self._names}"

    def handled(self, name: str) -> str:
        """The type of a handler in `trial_handlers.py`."""
        return f"{self.prefix}.{name}"

    def start(self, *arguments: str) -> Self:
        """All there is to start, and wait until it is ready. `arguments` go to `selfheal dev`."""
        if self.dev:
            self.spawn("dev", "--data", str(self.directory / "data"), *arguments)
        else:
            for component in COMPONENTS:
                self.spawn(component)
        for program in self.programs:
            component = program.arguments[0]
            parts = COMPONENTS if component == "dev" else (component,)
            program.await_ready(*(f"{self.ports.http(part)}/health/ready" for part in parts))
        return self

    def spawn(self, *arguments: str, ports: Ports | None = None, **environ: str) -> Program:
        """One process of this fleet, not waited for; stopped with the fleet."""
        control = {"CONTROLPLANE_ADDR": self.ports.grpc("controlplane")}
        values = {**self.environ, **(ports or self.ports).environ, **control, **environ}
        program = Program(arguments, values, self.directory).start()
        self.programs.append(program)
        return program

    def worker(self, **environ: str) -> tuple[Program, Ports]:
        """A worker on ports of its own, ready."""
        ports = Ports()
        program = self.spawn("worker", ports=ports, **environ)
        return program.await_ready(f"{ports.http('worker')}/health/ready"), ports

    def stop(self) -> None:
        """All processes: the first that was started last. Safe to repeat."""
        for program in reversed(self.programs):
            if program.running:
                program.terminate()
        for program in reversed(self.programs):
            program.stop()
