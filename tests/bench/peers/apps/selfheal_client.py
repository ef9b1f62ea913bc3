"""Our client: SubmitJob ("one"), BatchSubmitJobs ("many"), POST /jobs ("rest"), and JobClient ("own")."""

from __future__ import annotations

import itertools
import os
from typing import Any

import aiohttp
import client
import grpc
import orjson
import uvloop
from selfheal.jobs.v1 import job_service_pb2 as wire
from selfheal.jobs.v1 import job_service_pb2_grpc

from jobkit import JobClient
from jobkit.rpc.convert import dict_to_struct

PREFIX = os.environ["BENCH_PREFIX"]
TYPES = itertools.cycle(range(int(os.environ.get("BENCH_TYPES", "1"))))
FILLER = "x" * int(os.environ.get("BENCH_FILLER", "0"))  # bytes that a payload is longer
URL = os.environ["BENCH_REST"]
JSON = {"Content-Type": "application/json"}


def _job(task: str, sent: float) -> tuple[str, dict[str, Any]]:
    """Type and payload."""
    return f"{PREFIX}.{task}.{next(TYPES)}", {"sent": sent, "filler": FILLER} if FILLER else {"sent": sent}


def _request(task: str, sent: float) -> wire.SubmitJobRequest:
    job_type, payload = _job(task, sent)
    return wire.SubmitJobRequest(job_type=job_type, payload=dict_to_struct(payload))


async def main() -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        grpc.aio.insecure_channel(os.environ["BENCH_URL"]) as channel,
        aiohttp.ClientSession(connector=connector) as session,
        JobClient(os.environ["BENCH_URL"]) as ours,
    ):
        jobs = job_service_pb2_grpc.JobServiceStub(channel)

        async def one(task: str, sent: float) -> None:
            await jobs.SubmitJob(_request(task, sent), wait_for_ready=True)

        async def many(task: str, moments: list[float]) -> None:
            batch = wire.BatchSubmitJobsRequest(requests=[_request(task, sent) for sent in moments])
            answer = await jobs.BatchSubmitJobs(batch, wait_for_ready=True)
            assert all(result.HasField("job") for result in answer.results), answer

        async def rest(task: str, sent: float) -> None:
            job_type, payload = _job(task, sent)
            body = orjson.dumps({"jobType": job_type, "payload": payload})
            async with session.post(f"{URL}/jobs", data=body, headers=JSON) as answer:
                await answer.read()
                assert answer.status == 202, answer

        async def own(task: str, sent: float) -> None:
            await ours.submit(*_job(task, sent))

        await client.serve_async(one=one, many=many, rest=rest, own=own)


if __name__ == "__main__":
    uvloop.run(main())
