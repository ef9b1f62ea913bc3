"""The `/queues/…` routes, which the control plane and the workers answer alike: depth, failed jobs, retrying them.

`name` is a job type (or `jobs.main.<type>`), `jobs.main` for all, `jobs.quarantine` for all that is quarantined.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from aiohttp import web

from jobkit.adapters.rabbitmq.names import MAIN, QUARANTINE
from jobkit.domain.asked import MAX_TEXT
from jobkit.domain.errors import NotFound, Precondition
from jobkit.domain.filter import JobFilter, PageToken
from jobkit.domain.job import Job, JobState
from jobkit.domain.redrive import FOR_A_PERSON
from jobkit.host.channels import NEWS, TYPES
from jobkit.host.jobview import job_view
from jobkit.host.world import World
from jobkit.ports import Dispatch
from jobkit.rpc.shim import ShimError, json_response, read_json
from jobkit.runtime.publisher import Publisher

LIMIT = 100
MAX_LIMIT = 1_000
MAX_BODY = 16 * 1024


class Queues:
    """The use cases behind the routes."""

    def __init__(self, world: World, publisher: Publisher) -> None:
        self._world = world
        self._publisher = publisher

    async def job_type(self, name: str) -> str | None:
        """The type that `name` stands for, None for all. Raises NotFound."""
        if name in (MAIN, QUARANTINE):
            return None
        wanted = name.removeprefix(f"{MAIN}.")
        if wanted not in await self._world.types.all():
            raise NotFound("queue", name)
        return wanted

    async def stats(self, name: str) -> dict[str, Any]:
        job_type = await self.job_type(name)
        counts = await self._world.recovery.count_waiting()
        oldest = await self._world.recovery.oldest_waiting()
        now = await self._world.database.now()

        def total(*states: str) -> int:
            return sum(n for (t, s), n in counts.items() if s in states and job_type in (None, t))

        due = [at for t, at in oldest.items() if job_type in (None, t)]
        return {
            "name": name,
            "waiting": total("PENDING", "QUEUED"),
            "running": total("RUNNING"),
            "held": total("HELD"),
            "retrying": total("RETRYING"),
            "quarantined": total("QUARANTINED"),
            "oldestSeconds": max(now - min(due), 0) / 1000 if due else 0,
            "paused": await self._paused(name, job_type),
        }

    async def _paused(self, name: str, job_type: str | None) -> bool:
        """Of all types: whether every one of them is."""
        types = await self._world.types.all()
        paused = [one for one, info in types.items() if info.pause is not None]
        if job_type is not None:
            return job_type in paused
        return name != QUARANTINE and bool(types) and len(paused) == len(types)

    async def pause(self, name: str, actor: str, reason: str) -> None:
        """Hold the type's jobs, or those of all types. Raises NotFound."""
        for job_type in await self._named(name):
            await self._world.type_steering.pause(job_type, actor or "anonymous", reason, None)
        await self._world.signals.send(TYPES, [NEWS])

    async def resume(self, name: str, actor: str, reason: str) -> None:
        """End the pause. Raises NotFound."""
        for job_type in await self._named(name):
            await self._world.type_steering.resume(job_type, actor or "anonymous", reason)
        await self._world.signals.send(TYPES, [NEWS])

    async def _named(self, name: str) -> list[str]:
        if name == QUARANTINE:
            raise NotFound("queue", name)  # nothing of it runs by itself
        job_type = await self.job_type(name)
        return sorted(await self._world.types.all()) if job_type is None else [job_type]

    async def failed(
        self, name: str, limit: int, after: PageToken | None
    ) -> tuple[list[Job], PageToken | None]:
        """Quarantined for a person, newest first."""
        query = JobFilter(state=JobState.QUARANTINED, job_type=await self.job_type(name))
        pages: list[Job] = []
        for reason in FOR_A_PERSON:
            found, _ = await self._world.reader.page(replace(query, reason=reason), limit + 1, after)
            pages += found
        newest = sorted(pages, key=lambda job: job.job_id, reverse=True)
        revision = after.revision if after else 0
        more = PageToken(newest[limit - 1].job_id, revision) if len(newest) > limit else None
        return newest[:limit], more

    async def retry(self, name: str, job_id: UUID) -> None:
        """Raises NotFound, Precondition."""
        job_type = await self.job_type(name)
        job = (await self._world.reader.get([job_id])).get(job_id)
        if job is None or job_type not in (None, job.job_type):
            raise NotFound("job", str(job_id))
        await self._retry(job_id)

    async def _retry(self, job_id: UUID) -> None:
        async with self._publisher.taking():
            _, token = await self._world.steering.retry(job_id, None, self._publisher.session)
            if token is not None:
                self._publisher.expect([job_id])
        if token is not None:
            self._publisher.send([Dispatch(token)])

    async def retry_failed(self, name: str) -> int:
        """All of them, page by page; returns how many."""
        retried = 0
        after: PageToken | None = None
        while True:
            jobs, after = await self.failed(name, LIMIT, after)
            for job in jobs:
                try:
                    await self._retry(job.job_id)
                    retried += 1
                except (NotFound, Precondition):
                    continue  # somebody else was faster
            if after is None:
                return retried


def add_queue_routes(app: web.Application, queues: Queues) -> None:
    """`GET stats`, `GET failed`, `POST retry/{jobId}`, `POST retry-failed`, `POST pause`, `POST resume` under
    `/queues/{name}`."""

    async def stats(request: web.Request) -> web.Response:
        return json_response(await _or_404(request, queues.stats))

    async def failed(request: web.Request) -> web.Response:
        limit, after = _paging(request)
        jobs, more = await _or_404(request, lambda name: queues.failed(name, limit, after))
        body: dict[str, Any] = {
            "count": len(jobs),
            "jobs": [job_view(job, with_payload=True) for job in jobs],
        }
        if more is not None:
            body["nextPageToken"] = str(more.job_id)
        return json_response(body)

    async def retry(request: web.Request) -> web.Response:
        job_id = _job_id(request.match_info["job_id"])
        try:
            await _or_404(request, lambda name: queues.retry(name, job_id))
        except Precondition as error:
            raise ShimError(409, error.message) from error
        return json_response({"jobId": str(job_id)}, 202)

    async def retry_failed(request: web.Request) -> web.Response:
        return json_response({"retried": await _or_404(request, queues.retry_failed)}, 202)

    app.router.add_get("/queues/{name}/stats", stats)
    app.router.add_get("/queues/{name}/failed", failed)
    app.router.add_post("/queues/{name}/retry/{job_id}", retry)
    app.router.add_post("/queues/{name}/retry-failed", retry_failed)
    _add_pause_routes(app, queues)


def _add_pause_routes(app: web.Application, queues: Queues) -> None:
    async def pause(request: web.Request) -> web.Response:
        actor, reason = await _who_and_why(request)
        await _or_404(request, lambda name: queues.pause(name, actor, reason))
        return json_response({"name": request.match_info["name"], "paused": True})

    async def resume(request: web.Request) -> web.Response:
        actor, reason = await _who_and_why(request)
        await _or_404(request, lambda name: queues.resume(name, actor, reason))
        return json_response({"name": request.match_info["name"], "paused": False})

    app.router.add_post("/queues/{name}/pause", pause)
    app.router.add_post("/queues/{name}/resume", resume)


async def _who_and_why(request: web.Request) -> tuple[str, str]:
    """The body is optional: `{"actor": "ada", "reason": "the provider moves"}`. Raises ShimError."""
    given = await read_json(request, MAX_BODY) if request.can_read_body else {}
    if not isinstance(given, dict):
        raise ShimError(400, "the body must be a JSON object")
    wrong = [f"property {name} should not exist" for name in given if name not in ("actor", "reason")]
    for name in ("actor", "reason"):
        value = given.get(name, "")
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            wrong.append(f"{name} must be a string of at most {MAX_TEXT} characters")
    if wrong:
        raise ShimError(400, wrong)
    return given.get("actor", ""), given.get("reason", "")


async def _or_404(request: web.Request, work: Callable[[str], Awaitable[Any]]) -> Any:
    try:
        return await work(request.match_info["name"])
    except NotFound as error:
        raise ShimError(404, error.message) from error


def _paging(request: web.Request) -> tuple[int, PageToken | None]:
    raw = request.query.get("limit", str(LIMIT))
    if not raw.isascii() or not raw.isdigit() or not 1 <= int(raw) <= MAX_LIMIT:
        raise ShimError(400, [f"limit must be a whole number from 1 to {MAX_LIMIT}"])
    token = request.query.get("pageToken")
    if not token:
        return int(raw), None
    try:
        return int(raw), PageToken(UUID(token), 0)
    except ValueError:
        raise ShimError(400, ["pageToken is not one that this service gave out"]) from None


def _job_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ShimError(404, f"Job '{text[:64]}' not found") from None
