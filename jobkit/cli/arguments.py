"""Arguments that several commands share, and the one that typer cannot express."""

from __future__ import annotations

import getpass
import sys
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
JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job's id.")]

Reason = Annotated[str, typer.Option(help="Why; recorded. Asked for when not given.")]
Actor = Annotated[str | None, typer.Option(help="Who; recorded. The login name when not given.")]


def command_group(help: str | None = None, **more: Any) -> typer.Typer:
    """A group of commands that looks as all of ours do."""
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **more,
    )


def reason_of(given: str) -> str:
    """Why: as given, or asked for at a terminal. Raises typer.BadParameter."""
    if given.strip():
        return given
    if not sys.stdin.isatty():
        raise typer.BadParameter("say why with --reason TEXT", param_hint="--reason")
    answer: str = typer.prompt("Reason", err=True)
    return answer


def actor_of(given: str | None) -> str:
    """The login name, or nothing where the process has none: the server then records "anonymous"."""
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


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
