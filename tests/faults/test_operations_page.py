"""docs/operations.md says that its commands were run: here they are, as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from scripts.doc_blocks import blocks
from tests.faults.kit import Servers, make_fleet
from tests.servers import wait_for
from tests.system.client import Client
from tests.system.fleet import Fleet

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()
PORTS = {
    3000: ("http", "jobapi"),
    3001: ("http", "worker"),
    3002: ("http", "controlplane"),
    50051: ("grpc", "jobapi"),
}
SESSION = (
    "PGAPPNAME=forgotten psql $DATABASE_URL -c BEGIN -c 'SELECT count(*) FROM jobs' -c 'SELECT pg_sleep(60)'"
)


class Shell:
    """bash with the names that the page uses; `localhost` is the fleet."""

    def __init__(self, fleet: Fleet, servers: Servers, directory: Path) -> None:
        self._fleet = fleet
        tools = directory / "tools"
        tools.mkdir()
        rabbit = servers.rabbit
        script = "".join(
            f"export {name}='{value}'\n" for name, value in rabbit.environment.items() if name != "PATH"
        )
        (tools / "rabbitmqctl").write_text(f'#!/bin/sh\n{script}exec {rabbit.script("rabbitmqctl")} "$@"\n')
        (tools / "rabbitmqctl").chmod(0o755)
        path = [tools, Path(sys.executable).parent, ROOT / ".venv-tools/bin"]
        self.environ = {
            **os.environ,
            "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]]),
            "DATABASE_URL": fleet.environ["DATABASE_URL"],
            "ADMIN_URL": servers.postgres.url,
            "REDIS_URL": servers.redis.url,
            "VHOST": urlsplit(fleet.environ["RABBITMQ_URL"]).path.strip("/"),
            "SELFHEAL_API": fleet.ports.grpc("jobapi"),
            "SELFHEAL_CONTROL": fleet.ports.grpc("controlplane"),
        }
        self._directory = directory

    def run(self, script: str) -> str:
        """What it prints; it must succeed."""
        for port, (kind, component) in PORTS.items():
            address = getattr(self._fleet.ports, kind)(component).removeprefix("http://")
            script = script.replace(f"localhost:{port}", address)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=self.environ,
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


def script_of(heading: str) -> str:
    """The blocks below a heading of any level."""
    return "\n".join(blocks(re.sub("^#+ ", "## ", PAGE, flags=re.MULTILINE), "sh", heading))


async def test_its_commands_run_as_they_are_written(own_servers: Servers, tmp_path: Path) -> None:
    if shutil.which("psql") is None or shutil.which("redis-cli") is None:
        pytest.skip("no psql or no redis-cli here")
    fleet = make_fleet(tmp_path, own_servers.room(), SIMULATE="1")
    try:
        fleet.start()
        shell = Shell(fleet, own_servers, tmp_path)
        async with Client(fleet) as client:
            await client.settled(await client.submit("sms", {}))
        _health(shell)
        _inside(shell)
        _backup(shell)
        _forgotten_session(shell)
        assert "OK" in shell.run(_inline("redis-cli -u $REDIS_URL flushall"))
        async with Client(fleet) as client:
            await client.settled(await client.submit("mail", {}))
    finally:
        fleet.stop()


def _inline(command: str) -> str:
    """A command that stands in the text."""
    assert f"`{command}`" in PAGE
    return command


def _health(shell: Shell) -> None:
    script = script_of("Health")
    if shutil.which("grpcurl", path=shell.environ["PATH"]) is None:
        script = "\n".join(line for line in script.splitlines() if not line.startswith("grpcurl"))
    said = shell.run(script)
    assert " 200" in said
    assert '"status":"ok"' in said


def _inside(shell: Shell) -> None:
    said = shell.run(script_of("Queues"))
    assert "jobs.main.sms" in said
    assert "SUCCEEDED" in said
    # The watch ends when somebody ends it; the number of the incident is that of the one that the block opens.
    script = script_of("Breakers and the ledger")
    watch = next(line for line in script.splitlines() if line.startswith("selfheal breaker watch"))
    script = script.replace(watch, "timeout --signal=INT 3 selfheal breaker watch || true")
    first, rest = script.split("selfheal breaker incident 4711", 1)
    first = first[: first.rindex("\n")]
    assert "sms" in shell.run(first)
    (incident,) = map(orjson.loads, shell.run("selfheal breaker incidents --open --json").splitlines())
    said = shell.run(f"selfheal breaker incident {incident['incidentId']}{rest}")
    assert "provider asked us to stop" in said
    assert '"state"' in said
    said = shell.run(script_of("Who lives, who runs what"))
    assert {"jobapi", "worker", "controlplane"} <= set(re.findall("[a-z]+", said))
    shell.run("selfheal breaker reset sms --reason 'it is back'")


def _backup(shell: Shell) -> None:
    script = script_of("Back up and restore")
    shell.run(script)
    count = "psql ${DATABASE_URL%/*}/restored -Atc 'SELECT count(*) FROM jobs'"
    assert int(shell.run(count)) == 1


def _forgotten_session(shell: Shell) -> None:
    """Found by the page's statement, ended by the page's function."""
    session = subprocess.Popen(
        ["bash", "-c", f"exec env {SESSION}"],
        env=shell.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        blocks_whom = script_of("Who blocks whom")
        wait_for(lambda: "forgotten" in shell.run(blocks_whom), 10, "it is seen")
        found = "SELECT {} FROM pg_stat_activity WHERE application_name = 'forgotten'"
        _inline_function = "pg_terminate_backend(pid)"
        assert _inline_function in PAGE
        assert shell.run(f'psql $DATABASE_URL -Atc "{found.format(_inline_function)}"').strip() == "t"
        assert session.wait(10) != 0
        assert "forgotten" not in shell.run(blocks_whom)
    finally:
        session.kill()
