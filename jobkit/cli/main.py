"""`selfheal`: the components by their entry points, the operator's commands by their modules.

A component's name is looked for first and gets the rest of the line as it is, so that a long-lived process
carries none of the command line with it.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

GROUP = "selfheal.components"
COMMANDS = {
    "job": ("jobkit.cli.job", "Submit jobs, follow and steer them."),
    "breaker": ("jobkit.cli.breaker", "See breakers and move them."),
    "type": ("jobkit.cli.type", "See job types, pause and limit them."),
    "gameday": ("jobkit.cli.gameday", "Inject failures on purpose, to see the fleet heal."),
    "quarantine": ("jobkit.cli.quarantine", "Redrive or discard the jobs that wait for a person."),
}
# Names that are components too: these words behind them are the operator's.
STEERED = {"worker": ("jobkit.cli.worker", frozenset({"list", "get", "drain"}))}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 (the answer was an error) or 2 (usage)."""
    arguments = sys.argv[1:] if argv is None else argv
    components = find_components()
    if arguments and arguments[0] in components and steered(arguments) is None:
        return run_component(components[arguments[0]], arguments[1:])
    from jobkit.cli.app import run  # noqa: PLC0415 - see above: components must not pay for it

    return run(arguments, COMMANDS, components, steered)


def steered(arguments: list[str]) -> str | None:
    """The module of the operator's commands, where the line is one of them and does not start a component."""
    module, words = STEERED.get(arguments[0], ("", frozenset[str]())) if arguments else ("", frozenset())
    return module if arguments[1:2] and arguments[1] in words else None


def find_components() -> dict[str, EntryPoint]:
    """What is installed, by name; none of it is imported yet."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in COMMANDS}


def run_component(component: EntryPoint, arguments: list[str]) -> int:
    code: int = component.load()(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
