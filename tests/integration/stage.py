"""The three components in the test's own process, built as their processes build them, on the embedded default or on
real servers; and handlers that a test steers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

import aiohttp
import orjson
import pytest
from opentelemetry.sdk.trace import TracerProvider

import controlplane.app
import jobapi.app
import worker.app
from controlplane.app import ControlPlaneApp
from controlplane.settings import ControlPlaneSettings
from jobapi.app import JobApiApp
from jobapi.settings import JobApiSettings
from jobkit import JobContext, job_handler
from jobkit.domain.errors import Unavailable
from jobkit.domain.job import Job, JobState
from jobkit.domain.submit import Submit
from jobkit.host.world import World
from jobkit.runtime.settings import Settings, load
from jobkit.runtime.tracing import Tracing
from worker.app import WorkerApp
from worker.settings import WorkerSettings

T = TypeVar("T")
PATIENCE = 30.0
# So much longer than on a quiet machine something may take before it is given up.
BUSY = 3
# A pause between two looks is so many times what one took.
LOOKING = 4

Act = Callable[[JobContext], Awaitable[dict[str, Any] | None]]


async def eventually(
    read: Callable[[], Awaitable[T]], holds: Callable[[T], bool], patience: float = PATIENCE
) -> T:
    """What `read` gives once it `holds`; for what nobody tells. A server that is away is no answer."""
    patience *= BUSY
    now = asyncio.get_running_loop().time
    deadline = now() + patience
    while True:
        began = now()
        try:
            value: object = await read()
            if holds(value):  # type: ignore[arg-type]
                return value  # type: ignore[return-value]
        except Unavailable as error:
            value = error
        if now() > deadline:
            pytest.fail(f"not within {patience} s; the last was {value!r}"[:2000])
        # Those who are waited for share this process: a fifth of it is enough for looking.
        await asyncio.sleep(max(0.01, LOOKING * (now() - began)))


async def succeed(job: JobContext) -> None:
    """The simplest handler."""


class Trade:
    """A handler that does as it is told at the moment; `begun` holds every run, in order."""

    def __init__(self, job_type: str, **options: Any) -> None:
        self.job_type = job_type
        self.act: Act = succeed
        self.begun: list[JobContext] = []
        self.running = 0
        self.most = 0
        self._began = asyncio.Event()
        job_handler(job_type, **options)(self)

    async def __call__(self, job: JobContext) -> dict[str, Any] | None:
        self.begun.append(job)
        self._began.set()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.act(job)
        finally:
            self.running -= 1

    @property
    def ids(self) -> list[UUID]:
        return [UUID(job.job_id) for job in self.begun]

    async def began(self, count: int, patience: float = PATIENCE) -> list[JobContext]:
        """The first `count` runs."""
        try:
            async with asyncio.timeout(patience):
                while len(self.begun) < count:
                    self._began.clear()
                    await self._began.wait()
        except TimeoutError:
            pytest.fail(f"{len(self.begun)} runs of {self.job_type}, expected {count}")
        return self.begun[:count]

    def hang(self) -> asyncio.Event:
        """From now on every run waits for the event."""
        go = asyncio.Event()

        async def wait(job: JobContext) -> None:
            await go.wait()

        self.act = wait
        return go

    def fail(self, error: Callable[[], Exception]) -> None:
        """From now on every run raises."""

        async def fail(job: JobContext) -> None:
            raise error()

        self.act = fail


@dataclass(frozen=True)
class Place:
    """Where a deployment lives: its environment, and the prefix that keeps its job types to itself."""

    environ: Mapping[str, str]
    prefix: str

    @property
    def embedded(self) -> bool:
        return "RABBITMQ_URL" not in self.environ

    def type(self, name: str) -> str:
        return f"{self.prefix}-{name}"


# Short waits: nobody wants to see a test sleep.
QUICK = {
    "JOBAPI_GRPC_PORT": "0",
    "JOBAPI_HTTP_PORT": "0",
    "CONTROLPLANE_GRPC_PORT": "0",
    "CONTROLPLANE_HTTP_PORT": "0",
    "WORKER_GRPC_PORT": "0",
    "WORKER_HTTP_PORT": "0",
    "RETRY_DELAY_MS": "250",
    "MAX_RETRY_DELAY_MS": "250",
    "SHUTDOWN_GRACE": "2",
    "OVERDUE_INTERVAL": "0.1",
    "STREAM_HEARTBEAT": "2",  # who is silent for three of them is dropped, and those that tests play do not beat
    "DATABASE_CONNECTIONS": "6",
    "CONTROLPLANE_ADDR": "127.0.0.1:1",  # nobody, until there is a control plane
}


class Stage:
    """Components that run until the stage is left, or until they `leave`. On real servers each has a world of its
    own, as a process would; embedded they share one."""

    def __init__(self, place: Place, provider: TracerProvider | None = None) -> None:
        self.place = place
        self._provider = provider
        self._shared: World | None = None
        self._stacks: dict[int, AsyncExitStack] = {}
        self._outer = AsyncExitStack()
        self._api: JobApiApp | None = None
        self._control: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        base = self._settings(Settings, {})
        world = World("test", base, {})
        await world.migrate()
        if self.place.embedded:
            self._shared = world
            await world.open()
        self.world = world
        self._outer.push_async_callback(world.close)
        self.http = await self._outer.enter_async_context(aiohttp.ClientSession())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for stack in reversed(list(self._stacks.values())):
            await stack.aclose()
        await self._outer.aclose()

    async def jobapi(self, **environ: str) -> JobApiApp:
        self._api = await self._enter("jobapi", jobapi.app.build, JobApiSettings, environ)
        return self._api

    async def controlplane(self, **environ: str) -> ControlPlaneApp:
        app: ControlPlaneApp = await self._enter(
            "controlplane", controlplane.app.build, ControlPlaneSettings, environ
        )
        self._control = {"CONTROLPLANE_ADDR": app.front.rpc.address}
        return app

    async def worker(self, *trades: Any, **environ: str) -> WorkerApp:
        """A worker with these handlers; it serves them once this returns."""
        if trades:
            module = ModuleType(f"handlers_{uuid4().hex}")
            for number, trade in enumerate(trades):
                setattr(module, f"handler_{number}", trade)
            sys.modules[module.__name__] = module
            environ["WORKER_HANDLERS"] = module.__name__
        app: WorkerApp = await self._enter(
            "worker", worker.app.build, WorkerSettings, {**self._control, **environ}
        )
        await app.organs.lanes.learn()
        return app

    async def leave(self, app: object) -> None:
        """Drain one component."""
        await self._stacks.pop(id(app)).aclose()

    async def _enter(self, name: str, build: Any, kind: type[Settings], environ: Mapping[str, str]) -> Any:
        stack = AsyncExitStack()
        settings = self._settings(kind, environ)
        world = self._shared
        if world is None:
            world = World(name, settings, {})
            stack.push_async_callback(world.close)
            await world.open()
        if self._provider is not None:
            world.tracing = Tracing(self._provider)
        app = await stack.enter_async_context(build(settings, world))
        self._stacks[id(app)] = stack
        return app

    def _settings(self, kind: type[Settings], environ: Mapping[str, str]) -> Any:
        return load(kind, {**QUICK, **self.place.environ, **environ}, embedded=True)

    # -- what tests do over and over

    @property
    def api(self) -> JobApiApp:
        assert self._api is not None
        return self._api

    async def submit(self, job_type: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> UUID:
        job, _ = await self.api.jobs.submit(Submit(job_type, orjson.dumps(payload or {}), **fields))
        return job.job_id

    async def submit_many(self, job_type: str, count: int) -> list[UUID]:
        answers = await self.api.jobs.submit_many([Submit(job_type, b"{}") for _ in range(count)])
        return [answer[0].job_id for answer in answers if not isinstance(answer, Exception)]

    async def job(self, job_id: UUID) -> Job:
        return (await self.world.reader.get([job_id]))[job_id]

    async def reaches(self, job_id: UUID, *states: JobState, patience: float = PATIENCE) -> Job:
        """The job once it is in one of these states."""
        return await eventually(lambda: self.job(job_id), lambda job: job.state in states, patience)

    async def all_reach(self, ids: Sequence[UUID], state: JobState, patience: float = PATIENCE) -> list[Job]:
        async def read() -> list[Job]:
            found = await self.world.reader.get(ids)
            return [found[job_id] for job_id in ids]

        return await eventually(read, lambda jobs: all(job.state is state for job in jobs), patience)

    async def get(self, app: Any, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of an HTTP GET."""
        return await self._request("GET", app, path, **options)

    async def request(self, method: str, app: Any, path: str, **options: Any) -> tuple[int, Any]:
        return await self._request(method, app, path, **options)

    async def post(self, app: Any, path: str, **options: Any) -> tuple[int, Any]:
        return await self._request("POST", app, path, **options)

    async def _request(self, method: str, app: Any, path: str, **options: Any) -> tuple[int, Any]:
        url = f"{app.front.http.url}{path}"
        async with self.http.request(method, url, **options) as response:
            return response.status, await response.json()

    async def metrics(self, app: Any) -> dict[str, float]:
        """Every sample by its exposition text, such as `up{a="b"}`."""
        url = f"{app.front.http.url}/metrics"
        async with self.http.get(url, headers={"Accept": "text/plain"}) as response:
            lines = (await response.text()).splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}
