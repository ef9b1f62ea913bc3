"""A handler may start processes while its worker talks gRPC."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FORKING = """
import asyncio, importlib, subprocess, sys
importlib.import_module(sys.argv[1])
import grpc

async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channels = [grpc.insecure_channel("127.0.0.1:1") for _ in range(5)]
    for channel in channels:
        channel.subscribe(lambda _: None, try_to_connect=True)
    # With preexec_fn Python has to fork.
    codes = [subprocess.Popen([sys.executable, "-V"], preexec_fn=lambda: None).wait() for _ in range(60)]
    print(sum(code != 0 for code in codes), "died")
    await server.stop(0)

asyncio.run(main())
"""


@pytest.mark.parametrize("entry", ["worker", "jobkit.cli"])
def test_no_started_process_dies_of_grpc(entry: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run(
        [sys.executable, "-c", FORKING, entry],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "0 died" in done.stdout, done.stdout + done.stderr
    assert "fork" not in done.stderr
