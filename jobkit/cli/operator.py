"""Who does something, and why: recorded with all that an operator moves."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

Reason = Annotated[str, typer.Option(help="Why; recorded. Asked for when not given.")]
Actor = Annotated[str | None, typer.Option(help="Who; recorded. The login name when not given.")]


def ask_reason(given: str) -> str:
    """Raises typer.BadParameter where nobody is there to be asked."""
    if given.strip():
        return given
    if not sys.stdin.isatty():
        raise typer.BadParameter("say why with --reason TEXT", param_hint="--reason")
    answer: str = typer.prompt("Reason", err=True)
    return answer


def ask_actor(given: str | None) -> str:
    """The login name, or nothing where the process has none: the server then records "anonymous"."""
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
