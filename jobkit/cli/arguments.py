"""Arguments that several commands share, and the one that typer cannot express."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

WAIT_SECONDS = 300

AsJson = Annotated[bool, typer.Option("--json", help="Print the protobuf JSON mapping, for programs.")]
Api = Annotated[
    str | None,
    typer.Option("--api", metavar="HOST:PORT", help="Address of the job API; else as for `selfheal`."),
]
Control = Annotated[
    str | None,
    typer.Option(
        "--control", metavar="HOST:PORT", help="Address of the control plane; else as for `selfheal`."
    ),
]


class WaitCommand(TyperCommand):
    """A command whose `--wait` may stand alone: without a number behind it, it means WAIT_SECONDS."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, complete_wait(args))


def complete_wait(args: list[str]) -> list[str]:
    """`--wait` with its value behind it; nothing behind `--` is an option."""
    end = args.index("--") if "--" in args else len(args)
    completed: list[str] = []
    for index, argument in enumerate(args):
        completed.append(argument)
        if argument == "--wait" and index < end and not _is_number(args[index + 1 : end][:1]):
            completed[-1] = f"--wait={WAIT_SECONDS}"
    return completed


def _is_number(following: list[str]) -> bool:
    try:
        return bool(following) and float(following[0]) >= 0
    except ValueError:
        return False
