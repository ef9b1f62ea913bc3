"""What the demo's worker runs: handlers such as anybody writes them."""

from __future__ import annotations

import asyncio
from typing import Any

from jobkit import JobContext, TransientError, job_handler
from jobkit.cli.demo.bank import BUSY

PAYMENT, THUMBNAIL = "payment", "thumbnail"


@job_handler(PAYMENT, attempt_timeout=5)
async def pay(job: JobContext) -> dict[str, Any]:
    """Calls the bank that the payload names. A connection that breaks is a NETWORK_ERROR by itself."""
    host, _, port = str(job.payload["bank"]).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"PAY\n")
        await writer.drain()
        answer = await reader.readline()
    finally:
        writer.close()
    if not answer:
        raise ConnectionResetError("the bank hung up")
    if answer == BUSY:
        raise TransientError("BANK_BUSY", "the bank takes no more calls just now")
    return {"answer": answer.decode().strip()}


@job_handler(THUMBNAIL)
async def draw(job: JobContext) -> dict[str, Any]:
    """Needs nobody."""
    await asyncio.sleep(0.02)
    return {}
