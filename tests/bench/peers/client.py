"""The other end of `apps/client.py`: a load generator in a process of its own, asked over its standard input."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.bench.figures import Span
from tests.system.fleet import clean_environ

PATIENCE = 120.0


class Client:
    """Use it entered. A client that fails or hangs is an AssertionError with what it said."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], directory: Path) -> None:
        self._log = directory / "client.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env={**clean_environ(), **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def submit(self, task: str, door: str, total: int, width: int) -> Span:
        """At least `total` jobs (whole batches by the door "many"), `width` calls in flight."""
        return self._ask(do="submit", task=task, door=door, total=total, width=width)

    def pace(self, task: str, door: str, total: int, rate: float) -> Span:
        """`total` jobs on schedule, `rate` a second."""
        return self._ask(do="pace", task=task, door=door, total=total, rate=rate)

    def _ask(self, **order: Any) -> Span:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        return Span(answer["jobs"], answer["began"], answer["ended"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        guard = threading.Timer(PATIENCE, self._process.kill)
        guard.start()
        try:
            line = self._process.stdout.readline()
        finally:
            guard.cancel()
        assert line, f"the client ended:\n{self._log.read_text(errors='replace')[-3000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer
