"""The jobs of an outage come from a process of their own, with a job API of its own: what submitting them costs must
not slow the workers that are measured. `python -m tests.drills.flood TYPE COUNT SECONDS` prints the jobs' ids."""

from __future__ import annotations

import asyncio
import os
import sys
from uuid import UUID

import orjson
import uvloop

from tests.drills.traffic import submit_over
from tests.integration.stage import Place, Stage

PLACE = "DRILL_PLACE"
BATCH = 10


class Flood:
    """A process that is ready to submit once `ready` has returned; `submit` lets it go and gives the ids."""

    def __init__(self, place: Place, job_type: str, count: int, seconds: float) -> None:
        self._place = place
        self._arguments = (job_type, str(count), str(seconds))
        self._process: asyncio.subprocess.Process | None = None

    async def ready(self) -> None:
        told = orjson.dumps({"environ": dict(self._place.environ), "prefix": self._place.prefix}).decode()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.drills.flood", *self._arguments),
            env={**os.environ, PLACE: told},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        assert self._process.stdout is not None
        assert (await self._process.stdout.readline()).strip() == b"ready", "nothing can be submitted"

    async def submit(self) -> list[UUID]:
        assert self._process is not None
        said, _ = await self._process.communicate(b"go\n")
        assert self._process.returncode == 0, "not everything was submitted"
        return [UUID(job_id) for job_id in orjson.loads(said)]


async def _submit(job_type: str, count: int, seconds: float) -> None:
    async with Stage(Place(**orjson.loads(os.environ[PLACE]))) as stage:
        await stage.jobapi()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        ids = await submit_over(stage, job_type, count, seconds, batch=BATCH)
    sys.stdout.buffer.write(orjson.dumps([str(job_id) for job_id in ids]))


if __name__ == "__main__":
    uvloop.run(_submit(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
