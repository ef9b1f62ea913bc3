"""A bare grpc.aio server that answers SubmitJob with a job of the same size and does nothing else: what a unary
call costs by itself. `python -m tests.bench.echo PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop
from selfheal.jobs.v1 import job_pb2, job_service_pb2

JOB_ID = "0198c0de-0000-7000-8000-000000000000"


async def echo(request: job_service_pb2.SubmitJobRequest, context: Any) -> job_service_pb2.SubmitJobResponse:
    job = job_pb2.Job(job_id=JOB_ID, job_type=request.job_type, payload=request.payload)
    return job_service_pb2.SubmitJobResponse(job=job)


async def serve(port: int) -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        echo,
        request_deserializer=job_service_pb2.SubmitJobRequest.FromString,
        response_serializer=job_service_pb2.SubmitJobResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("selfheal.jobs.v1.JobService", {"SubmitJob": handler})
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
