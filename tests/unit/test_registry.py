"""Which handler runs which type."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobkit import JobContext
from jobkit.handling import Handler
from worker.registry import BadHandlers, Registry


async def one(job: JobContext) -> None: ...


async def two(job: JobContext) -> None: ...


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to import handler modules from; their names must be unique to a test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(f"from jobkit import job_handler\n{text}")


def test_handlers_are_found_in_modules(modules: Path) -> None:
    write(
        modules,
        "reg_mail",
        "@job_handler('email')\nasync def a(job): ...\n@job_handler('sms')\ndef b(job): ...",
    )
    write(
        modules, "reg_more", "from reg_mail import a\n@job_handler('push')\nasync def c(job): ...\nalias = c"
    )
    registry = Registry()
    registry.load(["reg_mail", "reg_more"])  # what one imports from the other is no second handler
    assert registry.job_types == ("email", "push", "sms")
    email = registry.find("email")
    assert email is not None
    assert not email.blocking
    assert registry.find("unknown") is None


def test_loading_a_module_twice_changes_nothing(modules: Path) -> None:
    write(modules, "reg_twice", "@job_handler('email')\nasync def a(job): ...")
    registry = Registry()
    registry.load(["reg_twice", "reg_twice"])
    assert registry.job_types == ("email",)


def test_every_problem_is_reported_at_once_and_names_its_module(modules: Path) -> None:
    write(modules, "reg_none", "def plain(job): ...")
    write(modules, "reg_broken", "raise RuntimeError('no config')")
    write(modules, "reg_exits", "raise SystemExit(3)")
    with pytest.raises(BadHandlers) as bad:
        Registry().load(["reg_none", "reg_broken", "reg_exits", "reg_missing"])
    assert list(bad.value.problems) == [
        "handler module 'reg_none' has no function marked with @job_handler",
        "handler module 'reg_broken' cannot be imported: RuntimeError: no config",
        "handler module 'reg_exits' cannot be imported: SystemExit: 3",
        "handler module 'reg_missing' cannot be imported: ModuleNotFoundError: No module named 'reg_missing'",
    ]


def test_two_handlers_for_one_type_are_refused_and_both_named() -> None:
    with pytest.raises(BadHandlers, match=r"'email' has two handlers: .*\.one and .*\.two"):
        Registry([Handler("email", one), Handler("email", two)])


def test_the_fallback_serves_only_types_without_a_handler() -> None:
    fallback = Handler("simulator", two)
    registry = Registry([Handler("email", one)], fallback=fallback)
    assert registry.find("email") == Handler("email", one)
    assert registry.find("anything") is fallback is registry.fallback
    assert registry.job_types == ("email",)
