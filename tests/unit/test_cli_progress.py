"""How a redrive's progress is shown while somebody waits."""

from __future__ import annotations

import io

from selfheal.control.v1 import quarantine_pb2 as wire

from jobkit.cli.quarantine_view import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def redrive(redriven: int, *, held: bool = False) -> wire.Redrive:
    progress = wire.RedriveProgress(total=9, redriven=redriven, failed=1)
    part = wire.RedriveType(job_type="e\x1bmail", rate=0 if held else 2.5, held=held)
    return wire.Redrive(redrive_id="r", progress=progress, types=[part])


def test_a_pipe_gets_a_line_for_each_change() -> None:
    out = io.StringIO()
    line = ProgressLine(out)
    for count in (1, 1, 2):
        line.tell(redrive(count))
    line.tell(redrive(2, held=True))
    line.leave()
    assert out.getvalue().splitlines() == [
        "redrive r: 1 of 9 sent, 1 failed again, at 2.5/s",
        "redrive r: 2 of 9 sent, 1 failed again, at 2.5/s",
        "redrive r: 2 of 9 sent, 1 failed again (held: e\\x1bmail)",
    ]


def test_a_terminal_gets_one_line_that_leaves() -> None:
    out = Terminal()
    line = ProgressLine(out)
    line.leave()
    assert out.getvalue() == ""
    line.tell(redrive(1))
    line.leave()
    assert out.getvalue() == "\r\x1b[Kredrive r: 1 of 9 sent, 1 failed again, at 2.5/s\r\x1b[K"
