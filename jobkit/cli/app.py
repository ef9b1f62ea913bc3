"""The root of the command line: its help, its options, and the way to the commands, loaded when called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from jobkit.cli.arguments import command_group
from jobkit.cli.targets import DEFAULT_API, DEFAULT_CONTROL, Targets

COMPONENT_HELP = {
    "jobapi": "Run the job API.",
    "worker": "Run a worker; or list, get and drain those of the fleet.",
    "controlplane": "Run the control plane.",
    "demo": "See an outage heal, live, in two minutes; needs nothing but this terminal.",
    "dev": "Run all three components in one process.",
    "migrate": "Bring the database to the current schema.",
}


class Forwarding(TyperCommand):
    """A name whose line is read by somebody else: options, `--help` and `--` are passed on as they are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return []


def run(
    arguments: list[str],
    commands: Mapping[str, tuple[str, str]],
    components: Mapping[str, EntryPoint],
    steered: Callable[[list[str]], str | None],
) -> int:
    """Run the line to its exit code. `steered` names the module for a component's line that is the operator's."""
    app = command_group(name="selfheal", callback=_root)
    for name, (module, text) in commands.items():
        app.command(name, help=text, cls=Forwarding)(_command(name, module))
    for name, component in sorted(components.items()):
        text = COMPONENT_HELP.get(name, f"Run {name}.")
        app.command(name, help=text, cls=Forwarding)(_component(name, component, steered))
    return exit_code(lambda: app(args=arguments, prog_name="selfheal"))


def exit_code(program: Callable[[], object]) -> int:
    try:
        program()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("selfheal"))
        raise typer.Exit


def _root(
    ctx: typer.Context,
    api: Annotated[str, typer.Option(envvar="SELFHEAL_API", help="Address of the job API.")] = DEFAULT_API,
    control: Annotated[
        str, typer.Option(envvar="SELFHEAL_CONTROL", help="Address of the control plane.")
    ] = DEFAULT_CONTROL,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A job queue that heals itself. Exit codes: 0, 1 (the answer was an error), 2 (usage)."""
    ctx.obj = Targets(api, control)


def _command(name: str, module: str) -> Callable[[typer.Context], None]:
    def forward(ctx: typer.Context) -> None:
        app: typer.Typer = import_module(module).app
        app(args=ctx.args, prog_name=f"selfheal {name}", obj=ctx.obj)

    return forward


def _component(
    name: str, component: EntryPoint, steered: Callable[[list[str]], str | None]
) -> Callable[[typer.Context], None]:
    def forward(ctx: typer.Context) -> None:
        module = steered([name, *ctx.args])
        if module is not None:
            _command(name, module)(ctx)
            return
        raise typer.Exit(component.load()(list(ctx.args)))

    return forward
