"""Each contender's libraries in an environment of its own, `.venv-peers/NAME`, made when they are first asked for and
made anew when the pins change. Nothing of it reaches the project's own environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HOME = ROOT / ".venv-peers"
PATIENCE = 300.0
# The bench and the drill that compares outages share this one.
CELERY_PINS = ("celery[gevent]==5.7.0", "gevent==26.9.0")


class NotInstalled(Exception):
    """The registry has not given what is needed; says why."""


def python_environment(name: str, pins: Sequence[str]) -> Path:
    """The folder with the environment's programs."""
    return _made(name, pins, ["sh", str(ROOT / "scripts" / "venv.sh"), str(HOME / name), *pins]) / "bin"


def node_environment(name: str, pins: Sequence[str]) -> Path:
    """The folder that holds node_modules. Raises NotInstalled where there is no Node."""
    if shutil.which("npm") is None:
        raise NotInstalled("npm is not installed")
    folder = str(HOME / name)
    return _made(name, pins, ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", *pins])


def _made(name: str, pins: Sequence[str], command: Sequence[str]) -> Path:
    folder = HOME / name
    marker, wanted = folder / ".pins", "\n".join(pins)
    if marker.exists() and marker.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    HOME.mkdir(exist_ok=True)
    if command[0] == "npm":
        folder.mkdir()
    environ = {**os.environ, "PYTHON": os.environ.get("PYTHON", sys.executable)}
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{name}: no end after {PATIENCE:.0f} s") from error
    if done.returncode != 0:
        raise NotInstalled(f"{name}: {done.stderr.strip()[-500:]}")
    marker.write_text(wanted)
    return folder
