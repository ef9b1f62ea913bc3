"""docs/grpcurl.md is run as it is written, but for the addresses; CI runs it against the whole system too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.fake_server import FakeServer

ROOT = Path(__file__).parents[2]
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{ROOT / '.venv-tools/bin'}{os.pathsep}{os.environ['PATH']}"


def script_of(heading: str) -> str:
    text = (ROOT / "docs/grpcurl.md").read_text()
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    return "\n".join(re.findall(r"^```bash$(.*?)^```$", section[1], re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(("heading", "tool"), [("grpcurl", "grpcurl"), ("buf curl", "buf")])
def test_the_page_runs_as_it_is_written(heading: str, tool: str) -> None:
    if shutil.which(tool, path=TOOLS) is None:
        pytest.skip(f"no {tool} here")
    with FakeServer() as server:
        script = re.sub(r"127\.0\.0\.1:5005[12]", server.target, script_of(heading))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env={**os.environ, "PATH": TOOLS},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("BreakerService", "JOB_STATE_SUCCEEDED", "BREAKER_STATE_OPEN", "BREAKER_STATE_CLOSED"):
        assert text in done.stdout
    assert done.stdout.count("refused, exit code") == 2
    assert "google.rpc.BadRequest" in done.stderr
