"""The Lua scripts: three small ones, which store and compare. What follows is decided in Python."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the digest by which the server knows it once it is loaded."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def load(cls, name: str) -> Script:
        """One of the files beside this one, with what they share in front."""
        folder = files(__package__).joinpath("lua")
        return cls.of("\n".join(folder.joinpath(f"{part}.lua").read_text() for part in ("record", name)))
