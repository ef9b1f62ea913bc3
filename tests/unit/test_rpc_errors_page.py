"""docs/errors.md lists every reason that the code gives, and no other, with the codes of the table."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from jobkit.domain import errors
from jobkit.rpc.status import Unimplemented, WrongMethod, codes

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \| (\d+) \|", re.MULTILINE)
PAGE = {
    reason: (code, int(http)) for reason, code, http in ROW.findall((ROOT / "docs/errors.md").read_text())
}
SOON = timedelta(seconds=1)
BY_CODE = {
    "INVALID_ARGUMENT": lambda reason: errors.InvalidJob([], reason=reason),
    "NOT_FOUND": lambda reason: errors.NotFound(reason.removesuffix("_NOT_FOUND").lower(), "x"),
    "ALREADY_EXISTS": lambda reason: errors.AlreadyExists("", reason=reason),
    "ABORTED": lambda reason: errors.Aborted("", reason=reason),
    "FAILED_PRECONDITION": lambda reason: (
        errors.SchemaMismatch("", "")
        if reason == "SCHEMA_MISMATCH"
        else errors.Precondition("", reason=reason)
    ),
    "OUT_OF_RANGE": lambda reason: errors.OutOfRange("", reason=reason),
    "RESOURCE_EXHAUSTED": lambda reason: errors.Exhausted("", reason=reason, retry_after=SOON),
    "UNAVAILABLE": lambda reason: errors.Unavailable("", reason=reason, retry_after=SOON),
    "UNIMPLEMENTED": lambda reason: (
        WrongMethod("", "") if reason == "METHOD_NOT_ALLOWED" else Unimplemented("")
    ),
    "INTERNAL": lambda reason: errors.SelfhealError("", reason=reason),
}


def given_by_the_code() -> set[str]:
    found: set[str] = {"INTERNAL"}
    for package in ("jobkit", "jobapi", "worker", "controlplane"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            found.update(re.findall(r'reason(?:: str)? ?= ?"([A-Z]+(?:_[A-Z]+)+)"', text))
            found.update(f"{kind.upper()}_NOT_FOUND" for kind in re.findall(r'\bNotFound\("(\w+)"', text))
            found.update(
                f"{what.upper()}_UNAVAILABLE" for what in re.findall(r'store_unavailable\("(\w+)"', text)
            )
    return found


@pytest.mark.parametrize("reason", PAGE)
def test_the_page_has_the_codes_of_the_table(reason: str) -> None:
    code, http = PAGE[reason]
    error = BY_CODE[code](reason)
    assert error.reason == reason
    assert (codes(error).grpc.name, codes(error).http) == (code, http)


def test_the_page_lists_every_reason() -> None:
    assert given_by_the_code() - set(PAGE) == set()
