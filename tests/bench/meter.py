"""Who used the processor: sampled from /proc, so that start-up and shutdown are left out of what is measured.

Where there is no /proc, or the servers run somewhere else, the figures are simply missing.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

PROC = Path("/proc")
PERIOD = 0.05
LOOKS = 3

Match = Callable[[str], bool]
"""Whether a command line is that of a part's process."""


def cpu_seconds(pid: int) -> float | None:
    """User and system time of a process and of its children that have ended; None once it is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> float | None:
    """The most resident memory so far, in MiB."""
    return _status(pid, "VmHWM")


def own_memory(pid: int) -> float | None:
    """Resident memory that no file is behind, in MiB."""
    return _status(pid, "RssAnon")


def _status(pid: int, field: str) -> float | None:
    try:
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    found = [line for line in status.splitlines() if line.startswith(field)]
    return int(found[0].split()[1]) / 1024 if found else None


def shared_memory(pid: int) -> float | None:
    """Resident memory, of what is shared only its part (PostgreSQL's buffers are in all of its processes), in MiB."""
    try:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return None
    found = [line for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(found[0].split()[1]) / 1024 if found else None


def resident(pid: int) -> int:
    """Bytes of memory that the process has now."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine_seconds() -> float:
    """Processor time that the whole machine has spent on anything; 0 where that is not to be known."""
    try:
        fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, _steal = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def servers(postgres_url: str, redis_url: str) -> dict[str, Match]:
    """How the servers' processes look. Of PostgreSQL only the backends of our database, so that no one else's
    work is counted; RabbitMQ and Redis are one process for everybody, so there it is."""
    database = f" {urlsplit(postgres_url).path[1:]} "
    port = f":{urlsplit(redis_url).port or 6379}"
    return {
        "rabbitmq": lambda line: "beam.smp" in line and "rabbit" in line,
        "postgres": lambda line: line.startswith("postgres:") and database in line,
        "redis": lambda line: "redis-server" in line.split(" ", 1)[0] and port in line,
    }


class Processes:
    """Looks through /proc again and again, and at most three times at one that is a stranger: a forked process
    takes a moment to say who it is."""

    def __init__(self, matches: Mapping[str, Match]) -> None:
        self._matches = matches
        self._looks: Counter[int] = Counter()
        self._kin: dict[int, str] = {}

    def follow(self, part: str, leader: int) -> None:
        """`leader`, whatever runs in its session, and what any of these starts are of `part`."""
        self._kin[leader] = part

    def fresh(self) -> Iterator[tuple[str, int]]:
        """Parts and pids that were not told before."""
        for pid in self._listed():
            if self._looks[pid] >= LOOKS:
                continue
            self._looks[pid] += 1
            if self._kin and (followed := self._followed(pid)):
                self._looks[pid] = LOOKS
                self._kin[pid] = followed
                yield followed, pid
                continue
            line = _command_line(pid)
            for part, matches in self._matches.items():
                if matches(line):
                    self._looks[pid] = LOOKS
                    yield part, pid

    def _followed(self, pid: int) -> str | None:
        session, parent = _session_and_parent(pid)
        return self._kin.get(pid) or self._kin.get(session) or self._kin.get(parent)

    @staticmethod
    def _listed() -> list[int]:
        try:
            return [int(name) for name in os.listdir(PROC) if name.isdigit()]
        except OSError:
            return []


def _command_line(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _session_and_parent(pid: int) -> tuple[int, int]:
    """Both 0 once it is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[3]), int(fields[1])


class Meter:
    """Samples while entered; `between` tells what was used in any span of that time."""

    def __init__(self, parts: Sequence[str], matches: Mapping[str, Match]) -> None:
        names = ("client", *parts, *matches)
        self.servers = frozenset(matches)
        self._processes = Processes(matches)
        self._pids: dict[str, set[int]] = {name: set() for name in names}
        self._latest: dict[int, float] = {}
        self._times: list[float] = []
        self._series: dict[str, list[float]] = {name: [] for name in (*names, "machine")}
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def watch(self, part: str, pid: int) -> None:
        """A process of `part`, from now on."""
        self._pids[part].add(pid)

    def follow(self, part: str, leader: int) -> None:
        """The process that leads a session, and all that it starts there."""
        self._processes.follow(part, leader)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, began: float, ended: float) -> dict[str, float]:
        """Seconds of processor time by part from `began` to `ended` (Unix time), and by the whole "machine"."""
        self._sample()
        return {name: self._at(name, ended) - self._at(name, began) for name in self._series}

    def memory(self) -> dict[str, float]:
        """Peak MiB by part, over its processes that live; of servers what they have now: it may have been more."""
        told: dict[str, float] = {}
        for name, pids in self._known().items():
            look = shared_memory if name in self.servers else peak_memory
            found = [size for pid in pids if (size := look(pid)) is not None]
            if found:
                told[name] = sum(found)
        return told

    def own_memory(self) -> dict[str, float]:
        """MiB by part, of its processes that live, now."""
        return {
            name: sum(size for pid in pids if (size := own_memory(pid)) is not None)
            for name, pids in self._known().items()
        }

    def _known(self) -> dict[str, list[int]]:
        """The sampler goes on finding more."""
        with self._busy:
            return {name: list(pids) for name, pids in self._pids.items()}

    def _run(self) -> None:
        while not self._stop.wait(PERIOD):
            self._sample()

    def _sample(self) -> None:
        with self._busy:
            for name, pid in self._processes.fresh():
                self._pids[name].add(pid)
            for name, pids in self._pids.items():
                for pid in list(pids):
                    seconds = cpu_seconds(pid)
                    if seconds is not None:  # of one that is gone, the last that was seen stays
                        self._latest[pid] = seconds
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
