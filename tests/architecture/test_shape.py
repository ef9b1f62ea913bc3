"""Sizes that keep the code readable, and the two rules that import-linter cannot see."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.tree import PRODUCT, literals, parse, python_files, relative

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_CONSTRUCTOR_ARGUMENTS = 6

# Settings are values that a composition root is given; only the outermost files may look around.
READS_THE_ENVIRONMENT = {
    "jobapi/__main__.py",
    "worker/__main__.py",
    "controlplane/__main__.py",
    "jobkit/cli/main.py",  # the console script: the __main__ of `selfheal`
    "jobkit/cli/dev.py",  # the __main__ of all three in one process
    "jobkit/cli/migrate.py",  # the __main__ of `selfheal migrate`
    "jobkit/forks.py",  # writes what gRPC reads
}

# A name that two programs must agree on has one owner.
SPELLED_ONCE = ("jobs.main", "jobs.retry", "jobs.quarantine", "breaker:", "failure:")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(path: Path) -> list[_Function]:
    return [node for node in ast.walk(parse(path)) if isinstance(node, _Function)]


def _ids(path: Path) -> str:
    return relative(path)


@pytest.mark.parametrize("path", python_files(*PRODUCT, "tests", "scripts"), ids=_ids)
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", python_files(*PRODUCT), ids=_ids)
def test_functions_and_constructors_stay_small(path: Path) -> None:
    if "migrations/versions" in relative(path):
        return  # a schema is one long list, read once
    for function in _functions(path):
        # From the docstring on: a command's signature is as long as it has options.
        lines = (function.end_lineno or 0) - function.body[0].lineno + 1
        assert lines <= MAX_FUNCTION_LINES, f"{function.name} has {lines} lines"
        if function.name == "__init__":
            arguments = function.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) - 1
            assert count <= MAX_CONSTRUCTOR_ARGUMENTS, f"line {function.lineno} takes {count} arguments"


_ENVIRONMENT = {"environ", "environb", "getenv"}


def _reads_environment(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in _ENVIRONMENT:
                return True
            case ast.ImportFrom(module="os", names=names) if {n.name for n in names} & _ENVIRONMENT:
                return True
    return False


@pytest.mark.parametrize("path", python_files(*PRODUCT), ids=_ids)
def test_the_environment_is_read_at_the_outermost_only(path: Path) -> None:
    if _reads_environment(parse(path)):
        assert relative(path) in READS_THE_ENVIRONMENT


@pytest.mark.parametrize("name", SPELLED_ONCE)
def test_a_shared_name_is_spelled_in_one_module(name: str) -> None:
    """As the beginning of a literal; a sentence such as "breaker: …" is not a key."""
    owners = {
        relative(path)
        for path in python_files(*PRODUCT)
        if any(text.startswith(name) and not text.startswith(f"{name} ") for text in literals(parse(path)))
    }
    assert len(owners) <= 1, f"{name!r} is spelled in {sorted(owners)}"
