"""Prints N distinct TCP ports of 127.0.0.1 that nobody listens on now."""

from __future__ import annotations

import contextlib
import socket
import sys


def free_ports(count: int) -> list[int]:
    """All are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    sys.stdout.write(" ".join(map(str, free_ports(int(sys.argv[1])))) + "\n")
