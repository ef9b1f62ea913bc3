"""The threads of one lane, for its blocking handlers.

Not `concurrent.futures`: its threads are joined when the interpreter exits, so one handler that hangs would keep a
worker from ever stopping. These are daemons; a run that they take down is delivered again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

Work = Callable[[], None]


class LaneThreads:
    """At most `size` threads, started as they are needed. Work beyond that waits its turn."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    def submit(self, work: Work) -> None:
        """Call `work`, which must not raise, in a thread. Call this from one thread only. Raises RuntimeError when
        not even a first thread can be started."""
        self._queue.put(work)
        if self._idle.acquire(blocking=False) or self._started >= self._size:
            return
        name = f"lane-{self._name}-{self._started + 1}"
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except RuntimeError:  # the system has no more threads to give
            if not self._started:
                self._queue.get_nowait()
                raise
        else:
            self._started += 1

    def close(self) -> None:
        """Let the threads end, busy ones after their work. Safe to repeat."""
        for _ in range(self._started):
            self._queue.put(None)
        self._started = 0

    def _serve(self) -> None:
        while True:
            try:
                work = self._queue.get_nowait()
            except Empty:
                self._idle.release()
                work = self._queue.get()
            if work is None:
                return
            work()
            del work  # or an idle thread would keep the last job's payload alive
