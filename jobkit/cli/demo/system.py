"""The running system of the demo: the product's own three components, on a temporary file and free ports."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobkit.cli.parts import find_parts
from jobkit.host.world import World
from jobkit.runtime.settings import load

CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Addresses:
    """`host:port` of the two gRPC doors, and where the worker tells its figures."""

    api: str
    control: str
    metrics: str


@asynccontextmanager
async def running(speed: float, cooldown: float) -> AsyncIterator[Addresses]:
    """The whole product while entered; nothing of it is left behind. It sees nothing of this machine's environment.
    `cooldown` in seconds."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="selfheal-demo-"))
        environ = demo_environ(folder, speed, cooldown)
        parts = find_parts()
        world = World("demo", load(parts[0].settings, environ, embedded=True), environ)
        stack.push_async_callback(world.close)
        await world.migrate()
        await world.open()
        apps: dict[str, Any] = {}
        for part in parts:
            if apps:  # the control plane is the first: by now its port is known
                environ["CONTROLPLANE_ADDR"] = apps["controlplane"].front.rpc.address
            settings = load(part.settings, environ, embedded=True)
            apps[part.name] = await stack.enter_async_context(part.build(settings, world))
        yield Addresses(
            api=apps["jobapi"].front.rpc.address,
            control=apps["controlplane"].front.rpc.address,
            metrics=f"{apps['worker'].front.http.url}/metrics",
        )


def demo_environ(folder: str, speed: float, cooldown: float) -> dict[str, str]:
    """The product's defaults, but for a story that is over in two minutes."""
    ports: Mapping[str, str] = {
        f"{part}_{kind}_PORT": "0"
        for part in ("JOBAPI", "CONTROLPLANE", "WORKER")
        for kind in ("GRPC", "HTTP")
    }
    return {
        **ports,
        "DATABASE_URL": f"sqlite:///{Path(folder) / 'selfheal.db'}",
        "WORKER_HANDLERS": "jobkit.cli.demo.handlers",
        "WORKER_NAME": "demo",
        "WORKER_CONCURRENCY": str(CONCURRENCY),
        "COOLDOWN_PERIOD": f"{cooldown:.2f}",
        "RETRY_DELAY_MS": str(max(round(3000 / speed), 250)),
        "SHUTDOWN_GRACE": "2",
    }
