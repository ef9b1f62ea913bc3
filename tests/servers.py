"""The servers that tests run against: those that are already there, or private instances for one session.

A private instance (`PrivateRabbit`, `PrivateRedis`, `PrivatePostgres`) lives in a temporary directory on free
ports and can be stopped, killed, paused and resumed, which is what the fault tests do to it. Never do that to
a shared server: tests isolate themselves there by a vhost, a key prefix and a database of their own.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0


class NotAvailable(Exception):
    """There is no such server and none can be started; says why."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now. Not one that the system gives to outgoing connections: they
    would take it while a server is down that is to come back on it."""
    for _ in range(1000):
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NotAvailable("no free port between 10000 and 32000")


def reachable(url: str, default_port: int) -> bool:
    """Whether something listens where `url` points."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or default_port), 1):
            return True
    except OSError:
        return False


def wait_for(ready: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll `ready` until it holds; raises TimeoutError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {timeout:.0f} s")
        time.sleep(0.02)


def process_tree(root: int) -> list[int]:
    """`root` and everything it started, children last. PostgreSQL's and RabbitMQ's processes leave their
    parent's process group, so a group signal would miss them."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def demotion() -> dict[str, object]:
    """Arguments of `subprocess` that drop root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd  # noqa: PLC0415 - there is none on Windows

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise NotAvailable("PostgreSQL does not run as root, and there is no other user to run it as")


class PrivateServer:
    """A server process of our own in a temporary directory. Starting it again after a stop or a kill finds
    the same data on the same port. `remove` ends it for good."""

    name = "server"

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"selfheal-{self.name}-"))
        self.directory.chmod(0o755)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _spawn_arguments(self) -> dict[str, object]:
        return {}

    def _ready(self) -> bool:
        return reachable(self.url, self.port)

    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()

    def running(self) -> bool:
        """Whether the process lives (a paused one does)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start and wait until it answers; TimeoutError with the log's tail if it does not."""
        if self.running():
            return self
        log_path = self.directory / "server.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._spawn_arguments(),  # type: ignore[call-overload]
            )
        try:
            wait_for(lambda: not self.running() or self._ready(), START_TIMEOUT, f"{self.name} answers")
        except TimeoutError:
            self.kill()
            raise
        if not self.running():
            raise NotAvailable(f"{self.name} did not start: {log_path.read_text(errors='replace')[-2000:]}")
        return self

    def stop(self) -> None:
        """Shut down in order; kills what does not stop within `STOP_TIMEOUT`."""
        if self._process is None or self._process.poll() is not None:
            return
        self.resume()
        self._ask_to_stop(self._process)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the whole tree, as a power cut would."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Stop and delete the data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if not self.running():
            return
        assert self._process is not None
        if number in (signal.SIGKILL, signal.SIGSTOP):
            os.kill(self._process.pid, signal.SIGSTOP)  # or what it forks after our look is missed
        for pid in process_tree(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()


class PrivateRedis(PrivateServer):
    """Redis or Valkey with an append-only file that is written through."""

    name = "redis"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            raise NotAvailable("redis-server is not installed")
        return [
            binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "",
        ]  # fmt: skip

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as link:
            link.sendall(b"PING\r\n")
            return link.recv(16).startswith(b"+PONG")  # not while it still loads its file
        return False


class PrivatePostgres(PrivateServer):
    """PostgreSQL with trust authentication; `url` names the database `postgres`."""

    name = "postgres"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @staticmethod
    def binary(name: str) -> str:
        """The newest installed `name`, which distributions keep off the PATH."""
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: float(p.parts[-3]))
        path = str(found[-1]) if found else shutil.which(name)
        if path is None:
            raise NotAvailable("PostgreSQL's server programs are not installed")
        return path

    def _command(self) -> list[str]:
        data = self.directory / "data"
        if not data.exists():
            self._initialize(data)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.directory}"]
        return [self.binary("postgres"), "-D", str(data), "-p", str(self.port), *options]

    def _initialize(self, data: Path) -> None:
        initdb = self.binary("initdb")
        who = demotion()
        if who:
            os.chown(self.directory, who["user"], who["group"])  # type: ignore[arg-type]
        command = [initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            cwd=self.directory,
            **who,  # type: ignore[call-overload]
        )

    def _spawn_arguments(self) -> dict[str, object]:
        return {"cwd": self.directory, **demotion()}

    def _ready(self) -> bool:
        assert self._process is not None
        with contextlib.suppress(OSError, IndexError):
            lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
            # A kill leaves the file behind, so "ready" counts only with the pid of this start.
            return lines[0].strip() == str(self._process.pid) and lines[-1].strip() == "ready"
        return False

    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGINT)  # "fast": SIGTERM would wait for every client to leave


class PrivateRabbit(PrivateServer):
    """A RabbitMQ node with its own name, cookie and epmd, so that it meets no other node of the machine."""

    name = "rabbitmq"
    _scripts = Path("/usr/lib/rabbitmq/bin")  # Debian's wrappers on the PATH insist on the shared node

    def __init__(self) -> None:
        super().__init__()
        self.node = f"selfheal-{uuid.uuid4().hex[:8]}@localhost"
        self._ports = (free_port(), free_port())

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def script(self, name: str) -> str:
        path = self._scripts / name
        found = str(path) if path.exists() else shutil.which(name)
        if found is None:
            raise NotAvailable(f"{name} is not installed")
        return found

    @property
    def environment(self) -> dict[str, str]:
        """What the node and its tools need to find each other."""
        here = str(self.directory)
        plugins = self.directory / "enabled_plugins"
        if not plugins.exists():
            plugins.write_text("[].\n")
        return {
            "PATH": os.environ["PATH"],
            "HOME": here,
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._ports[0]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._ports[1]),
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
            "RABBITMQ_LOG_BASE": f"{here}/log",
            "RABBITMQ_PID_FILE": f"{here}/rabbit.pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node; returns what it prints."""
        command = [self.script("rabbitmqctl"), "-q", *arguments]
        return run_tool(command, self.environment)

    def _command(self) -> list[str]:
        return [self.script("rabbitmq-server")]

    def _spawn_arguments(self) -> dict[str, object]:
        return {"env": self.environment, "cwd": self.directory}

    def _ready(self) -> bool:
        if not reachable(self.url, self.port):
            return False
        try:
            self.ctl("await_startup", "--timeout", "30")
        except NotAvailable:
            return False
        return True

    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(NotAvailable):
            self.ctl("stop")

    def remove(self) -> None:
        super().remove()
        epmd = shutil.which("epmd")
        if epmd is not None:  # the node's own daemon, by its own port
            command = [epmd, "-port", str(self._ports[0]), "-kill"]
            subprocess.run(command, capture_output=True, check=False)


def run_tool(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Standard output of a command; NotAvailable with its standard error if it fails."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise NotAvailable(f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}")
    return done.stdout


@contextlib.contextmanager
def found_or_private(url: str, default_port: int, private: Callable[[], PrivateServer]) -> Iterator[str]:
    """`url` if something listens there, else a private instance for as long as the context lasts."""
    if reachable(url, default_port):
        yield url
        return
    server = private()
    try:
        yield server.start().url
    finally:
        server.remove()
