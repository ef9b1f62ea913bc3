"""Who used the processor: sampled from /proc, so that start-up and shutdown are left out of what is measured.

Where there is no /proc, or the servers run somewhere else, the figures are simply missing.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

PROC = Path("/proc")
PERIOD = 0.1
# Which processes belong to a server is looked at anew every so many samples: the scan is the dearer part.
RESCAN = 5

Pids = Callable[[], Iterable[int]]
Series = dict[str, list[float]]


def cpu_seconds(pid: int) -> float | None:
    """User and system time of a process and of its children that have ended; None once it is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> float | None:
    """The most resident memory so far, in MiB."""
    try:
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    found = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0].split()[1]) / 1024 if found else None


def machine_seconds() -> float:
    """Processor time that the whole machine has spent on anything; 0 where that is not to be known."""
    try:
        fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, _steal = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def processes_with(*words: str) -> list[int]:
    """Processes in whose command line each of `words` stands."""
    found = []
    for entry in PROC.glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(int(entry.name))
    return found


def servers(postgres_url: str, redis_url: str) -> dict[str, Pids]:
    """The servers' processes. Of PostgreSQL only the backends of our database, so that no one else's work is
    counted; RabbitMQ is one process for everybody, so there it is."""
    database = urlsplit(postgres_url).path[1:]
    return {
        "rabbitmq": lambda: processes_with("beam.smp", "rabbit"),
        "postgres": lambda: processes_with("postgres:", f" {database} "),
        "redis": lambda: processes_with("redis-server", str(urlsplit(redis_url).port or 6379)),
    }


class Meter:
    """Samples while entered; `between` tells what was used in any span of that time."""

    def __init__(self, parts: Mapping[str, Pids]) -> None:
        self._parts = {"client": lambda: [os.getpid()], **parts}
        self._pids: dict[str, set[int]] = {name: set() for name in self._parts}
        self._latest: dict[int, float] = {}
        self._times: list[float] = []
        self._series: Series = {name: [] for name in (*self._parts, "machine")}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def __enter__(self) -> Self:
        self._sample(0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, began: float, ended: float) -> dict[str, float]:
        """Seconds of processor time by part from `began` to `ended` (Unix time), and by the whole "machine"."""
        self._sample(0)
        return {name: self._at(name, ended) - self._at(name, began) for name in self._series}

    def memory(self) -> dict[str, float]:
        """Peak MiB by part, over its processes that live."""
        peaks: dict[str, float] = {}
        for name, pids in self._pids.items():
            found = [peak for pid in pids if (peak := peak_memory(pid)) is not None]
            if found:
                peaks[name] = sum(found)
        return peaks

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(PERIOD):
            count += 1
            self._sample(count)

    def _sample(self, count: int) -> None:
        if count % RESCAN == 0:
            for name, find in self._parts.items():
                self._pids[name].update(find())
        for pids in self._pids.values():
            for pid in pids:
                seconds = cpu_seconds(pid)
                if seconds is not None:  # of one that is gone, the last that was seen stays
                    self._latest[pid] = seconds
        for name, pids in self._pids.items():
            self._series[name].append(sum(self._latest.get(pid, 0.0) for pid in pids))
        self._series["machine"].append(machine_seconds())
        self._times.append(time.time())

    def _at(self, name: str, moment: float) -> float:
        """Between two samples as if the use had been even."""
        values = self._series[name]
        right = bisect_left(self._times, moment)
        if right == 0:
            return values[0]
        if right == len(self._times):
            return values[-1]
        left_time, right_time = self._times[right - 1], self._times[right]
        share = (moment - left_time) / (right_time - left_time) if right_time > left_time else 1.0
        return values[right - 1] + (values[right] - values[right - 1]) * share
