"""`selfheal demo`: the story happens for real, and leaving it leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
FIGURE = re.compile(r"^  ([a-z ]+?)  +([\d.]+)( s| of (\d+))?   ", re.MULTILINE)


def _environ(folder: Path) -> Mapping[str, str]:
    """With servers named that do not exist: the demo must not look at them."""
    away = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "RABBITMQ_URL": "amqp://127.0.0.1:1", "PORT": "1"}
    return {"PATH": os.environ["PATH"], "TMPDIR": str(folder), **away}


def _command(*more: str) -> list[str]:
    return [sys.executable, "-m", "jobkit.cli.main", "demo", *more]


def test_the_story_happens(tmp_path: Path) -> None:
    told = subprocess.run(
        _command("--speed", "6"),
        env=_environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert not told.stderr
    assert "\x1b" not in told.stdout  # plain by itself: nobody is at a terminal here
    figures = {name: (float(figure), whole) for name, figure, _, whole in FIGURE.findall(told.stdout)}
    assert figures["jobs held"][0] > 0
    assert figures["attempts burned by being held"][0] == 0
    assert figures["attempts saved"][0] >= figures["calls avoided"][0] > 0
    assert 0 < figures["time to detect"][0] < 5 < figures["time to recover"][0] + 3
    for done in ("payments done", "thumbnails done"):
        number, whole = figures[done]
        assert number == int(whole) > 0
    order = ["CLOSED -> OPEN", "HALF_OPEN -> OPEN", "HALF_OPEN -> CLOSED", "the backlog is gone"]
    places = [told.stdout.index(step) for step in order]
    assert places == sorted(places)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_cleanly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        _command("--plain"), env=_environ(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        while "two kinds of jobs" not in (line := process.stdout.readline()):
            assert line, "it ended by itself"
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Nothing of it is left behind" in said
    assert not errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("speed", ["0", "nan", "11", "fast"])
def test_a_speed_that_makes_no_story_is_refused(speed: str, tmp_path: Path) -> None:
    told = subprocess.run(
        _command("--speed", speed),
        env=_environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 2
    assert "must be a number from 0.25 to 10" in told.stderr
