"""Health that tells the truth: every dependency is asked, in the background and with a timeout."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

_log = logging.getLogger(__name__)

Probe = Callable[[], Awaitable[object]]


class NotYet(ConnectionError):
    """Nobody has tried to reach it so far: not up, and no news."""


@dataclass(frozen=True, slots=True)
class Check:
    """`probe` raises when the dependency is away, and NotYet while nobody knows. Without a `required` one the
    component cannot do its work."""

    name: str
    probe: Probe
    required: bool


class Health:
    """Asks every second; `changed` is told whenever the overall answer flips."""

    def __init__(
        self,
        component: str,
        checks: list[Check],
        *,
        changed: Callable[[bool], Awaitable[None]],
        timeout: float = 2,
    ) -> None:
        self._component = component
        self._checks = checks
        self._changed = changed
        self._timeout = timeout
        self._up: dict[str, bool] = {check.name: False for check in checks}
        self._why: dict[str, str] = {}
        self._draining = False
        self._told: bool | None = None

    @property
    def ok(self) -> bool:
        """Whether the component can do its work now."""
        return not self._draining and all(self._up[c.name] for c in self._checks if c.required)

    @property
    def info(self) -> Mapping[str, bool | str]:
        """By name: True, or why it is down."""
        own: bool | str = "draining" if self._draining else self.ok
        down = {check.name: self._why.get(check.name, "not asked yet") for check in self._checks}
        return {self._component: own} | {n: self._up[n] or why for n, why in down.items()}

    async def check(self) -> None:
        """Ask all dependencies once."""
        await asyncio.gather(*(self._ask(check) for check in self._checks))
        await self._tell()

    async def drain(self) -> None:
        """Not ready from now on, whatever the dependencies say."""
        self._draining = True
        await self._tell()

    async def _ask(self, check: Check) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await check.probe()
        except NotYet:
            self._up[check.name] = False
        except Exception as error:
            why = _said(error)
            if self._up[check.name] or check.name not in self._why:
                _log.warning("%s: %s is down: %s", self._component, check.name, _in_full(error))
            self._up[check.name] = False
            self._why[check.name] = why
        else:
            if check.name in self._why:
                _log.info("%s: %s is up again", self._component, check.name)
            self._up[check.name] = True
            self._why.pop(check.name, None)

    async def _tell(self) -> None:
        if self.ok is not self._told:
            self._told = self.ok
            await self._changed(self.ok)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _in_full(error: BaseException) -> str:
    """For the log alone: with what lies at the bottom of it, which may name hosts and users."""
    bottom = error
    while bottom.__cause__ is not None:
        bottom = bottom.__cause__
    return _said(error) if bottom is error else f"{_said(error)} ({_said(bottom)})"
