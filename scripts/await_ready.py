"""await_ready.py URL PID: waits until URL answers 200, at most 60 s, and no longer than the process PID lives."""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request

PATIENCE = 60.0  # seconds


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - a URL of our own making
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main(url: str, pid: int) -> int:
    deadline = time.monotonic() + PATIENCE
    while not answers(url):
        if not alive(pid):
            sys.stderr.write(f"the process ended before {url} was ready\n")
            return 1
        if time.monotonic() > deadline:
            sys.stderr.write(f"{url} was not ready within {PATIENCE:.0f} s\n")
            return 1
        time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
