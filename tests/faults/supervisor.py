"""What restarts a component that ends, as Kubernetes does, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from tests.system.fleet import SELFHEAL, Fleet, Ports, Program, answers_ok

CHECK_SECONDS = 0.05


class Kept:
    """One component that is started again whenever it ends, on the same ports.

    `first` is the command of the first start only, for a process that is to crash once; None: as all others.
    """

    def __init__(
        self,
        fleet: Fleet,
        arguments: Sequence[str],
        ports: Ports,
        environ: Mapping[str, str],
        first: Sequence[str] | None,
    ) -> None:
        self.arguments = list(arguments)
        self.ports = ports
        self.deaths: list[int] = []  # exit codes, negative for signals
        self._fleet = fleet
        self._environ = dict(environ)
        self._next: Sequence[str] = (SELFHEAL,)
        self.program = self._start(first or self._next)

    @property
    def component(self) -> str:
        return self.arguments[0]

    @property
    def pid(self) -> int:
        return self.program.pid

    def check(self) -> None:
        """Start it again if it has ended."""
        if not self.program.running:
            self.deaths.append(self.program.await_end())
            command, self._next = self._next, (SELFHEAL,)
            self.program = self._start(command)

    def start_next_with(self, command: Sequence[str]) -> None:
        """The next start, and only that one, is with `command`, for a process that is to crash once."""
        self._next = command

    def signal(self, number: signal.Signals) -> None:
        """To the process, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.program.pid, number)

    def kill(self) -> None:
        """SIGKILL; does not wait."""
        self.signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM; does not wait."""
        self.signal(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    @property
    def ready_urls(self) -> list[str]:
        parts = ("jobapi", "worker", "controlplane") if self.component == "dev" else (self.component,)
        return [f"{self.ports.http(part)}/health/ready" for part in parts]

    @property
    def log(self) -> str:
        """Of the process that runs now."""
        return self.program.log

    def _start(self, command: Sequence[str]) -> Program:
        program = Program(
            self.arguments,
            {**self._fleet.environ, **self.ports.environ, **self._environ},
            self._fleet.directory,
            command,
        ).start()
        self._fleet.programs.append(program)  # stopped with the fleet, whatever happens here
        return program


class Supervisor:
    """Keeps components of one fleet running while entered."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.kept: list[Kept] = []
        self._task: asyncio.Task[None] | None = None

    def keep(
        self,
        *arguments: str,
        ports: Ports | None = None,
        first: Sequence[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Kept:
        """Start one, on the fleet's own ports unless others are given, and keep it running."""
        kept = Kept(self.fleet, arguments, ports or self.fleet.ports, environ or {}, first)
        self.kept.append(kept)
        return kept

    async def ready(self, timeout: float = 90.0) -> None:
        """Until every kept component answers that it is ready."""
        await self.ready_again(*self.kept, timeout=timeout)

    async def wait_for_death(self, kept: Kept, before: int, timeout: float = 40.0) -> None:
        """Until it has ended more often than `before`; by then it has been started again."""
        deadline = time.monotonic() + timeout
        while len(kept.deaths) <= before:
            late = f"{kept.program.command} {kept.arguments} runs on after {timeout:g} s:\n"
            assert time.monotonic() < deadline, late + kept.log[-4000:]
            await asyncio.sleep(0.02)

    async def ready_again(self, *kept: Kept, timeout: float = 90.0) -> None:
        """Until these are."""

        async def unready() -> list[Kept]:
            answers = [
                await asyncio.gather(*(asyncio.to_thread(answers_ok, url) for url in one.ready_urls))
                for one in kept
            ]
            return [one for one, ok in zip(kept, answers, strict=True) if not all(ok)]

        deadline = time.monotonic() + timeout
        while late := await unready():
            why = [f"{one.component} {one.deaths}:\n{one.log[-2000:]}" for one in late]
            assert time.monotonic() < deadline, f"not ready within {timeout:g} s: " + "\n".join(why)
            await asyncio.sleep(0.05)

    async def havoc(self, strikes: int, strike: Callable[[Kept], None], among: Sequence[Kept]) -> None:
        """`strike` one of `among` so many times at random instants: half of them while it still starts."""
        for _ in range(strikes):
            victim = random.choice(among)
            before = len(victim.deaths)
            if random.random() < 0.5:
                await self.ready_again(victim)
            await asyncio.sleep(random.uniform(0.0, 0.8))
            strike(victim)
            await self.wait_for_death(victim, before)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for kept in self.kept:
            kept.thaw()
        await asyncio.to_thread(self.fleet.stop)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for kept in self.kept:
                kept.check()


async def until(holds: Callable[[], object], timeout: float, what: str) -> None:
    """Wait for `holds`, plain or async, which takes up to `timeout` seconds on a quiet machine; AssertionError naming
    `what` after twice that."""
    loop = asyncio.get_running_loop()
    patience = 2 * timeout
    deadline = loop.time() + patience
    while True:
        answer = holds()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        assert loop.time() < deadline, f"not within {patience:g} s: {what}"
        await asyncio.sleep(0.05)
