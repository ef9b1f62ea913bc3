"""What handler authors import: how to declare a handler, what it is given, and what it may raise.

    @job_handler("email", depends_on=["smtp"], max_attempts=4, attempt_timeout=30)
    async def send_email(job: JobContext) -> dict: ...

The decorator leaves the function as it was and only marks it; nothing is registered at import. The worker finds the
marks in the modules that it is told to load.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

JOB_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
MAX_DEPENDENCIES = 16
MARK = "__selfheal_handlers__"
LONGEST_WAIT = timedelta(days=365)
UNNAMED_CODE = "UNKNOWN"

_NOT_IN_A_CODE = re.compile(r"[^A-Za-z0-9_]")
_log = logging.getLogger("selfheal.handler")

HandlerFunction = Callable[["JobContext"], Any]
F = TypeVar("F", bound=HandlerFunction)


# -- declaring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that runs jobs of one type; None leaves a setting to the environment. `depends_on` names what it
    needs besides itself: each has a breaker of its own, `@<name>`. Raises ValueError or TypeError for settings that
    cannot work."""

    job_type: str
    run: HandlerFunction
    max_attempts: int | None = None
    attempt_timeout: timedelta | None = None
    depends_on: tuple[str, ...] = ()
    blocking: bool = field(init=False, compare=False)
    """A plain `def`, which runs in a thread; `async def` runs on the loop."""

    def __post_init__(self) -> None:
        if not isinstance(self.job_type, str):
            raise TypeError(f'job_type must be a string, as in @job_handler("email"), not {self.job_type!r}')
        if not JOB_TYPE.fullmatch(self.job_type):
            raise ValueError(f"job_type {self.job_type!r} must match {JOB_TYPE.pattern}")
        if not callable(self.run) or inspect.isclass(self.run):
            raise TypeError(f"the handler of {self.job_type!r} must be a function, not {self.run!r}")
        if inspect.isgeneratorfunction(self.run) or inspect.isasyncgenfunction(self.run):
            raise TypeError(f"the handler of {self.job_type!r} must return its result, not yield")
        if self.max_attempts is not None:
            _check_attempts(self.max_attempts)
        if self.attempt_timeout is not None and self.attempt_timeout <= timedelta(0):
            raise ValueError(f"attempt_timeout must be positive, not {self.attempt_timeout}")
        _check_dependencies(self.depends_on)
        # An object with `async def __call__` is not itself a coroutine function.
        call = getattr(self.run, "__call__", None)  # noqa: B004
        waits = inspect.iscoroutinefunction(self.run) or inspect.iscoroutinefunction(call)
        object.__setattr__(self, "blocking", not waits)  # looked at with each run


def job_handler(
    job_type: str,
    *,
    depends_on: Iterable[str] = (),
    max_attempts: int | None = None,
    attempt_timeout: float | timedelta | None = None,
) -> Callable[[F], F]:
    """Mark a function as the handler of `job_type`.

    `depends_on` names what the handler calls, such as `["smtp"]`: several types may name the same, and are held
    together while it is down.
    `max_attempts` counts runs, the first included; `attempt_timeout` is in seconds. They win over the worker's
    settings, and what a submit asks for wins over both. May be repeated to serve several types.
    """
    timeout = None if attempt_timeout is None else _duration("attempt_timeout", attempt_timeout)
    if isinstance(depends_on, str):
        raise TypeError(f'depends_on must be a list of names, as in depends_on=["smtp"], not {depends_on!r}')
    needs = tuple(dict.fromkeys(depends_on))

    def mark(function: F) -> F:
        handler = Handler(job_type, function, max_attempts, timeout, needs)
        setattr(function, MARK, (*handlers_of(function), handler))
        return function

    if not isinstance(job_type, str):  # `@job_handler` without its parentheses
        raise TypeError(f'job_type must be a string, as in @job_handler("email"), not {job_type!r}')
    return mark


def handlers_of(candidate: object) -> tuple[Handler, ...]:
    """The marks that `job_handler` left on a module's attribute; empty for anything else."""
    marks = getattr(candidate, MARK, ()) if callable(candidate) else ()
    # Objects that answer to any attribute name, such as mocks and proxies, are not handlers.
    return marks if isinstance(marks, tuple) and all(isinstance(m, Handler) for m in marks) else ()


def _check_dependencies(names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a dependency's name must be a string, not {name!r}")
        if not JOB_TYPE.fullmatch(name):
            raise ValueError(f"dependency {name!r} must match {JOB_TYPE.pattern}")
    if len(names) > MAX_DEPENDENCIES:
        raise ValueError(f"depends_on has {len(names)} names, more than {MAX_DEPENDENCIES}")


def _check_attempts(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_attempts must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"max_attempts must be at least 1, not {value}")


def _duration(name: str, value: float | timedelta) -> timedelta:
    """Seconds or a timedelta, at most `LONGEST_WAIT`."""
    if isinstance(value, timedelta):
        return min(value, LONGEST_WAIT)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {value!r}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number of seconds, not NaN")
    longest = LONGEST_WAIT.total_seconds()
    return timedelta(seconds=min(max(value, -longest), longest))


# -- running ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class JobContext:
    """One run of one job, as its handler sees it. Safe to use from the handler's own threads.

    `attempt` is from 1; `delivery` rises with every run, so it can fence off a slower run of the same job.
    To test a handler, make one: only the first three are needed.
    """

    job_id: str
    job_type: str
    payload: dict[str, Any]
    attempt: int = 1
    delivery: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    traceparent: str = ""
    deadline: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(seconds=30))
    on_progress: Callable[[int, int], None] | None = field(default=None, repr=False)
    # Plain flags: they only ever turn True, and CPython's attribute writes are atomic.
    _stopping: bool = field(default=False, init=False, repr=False)
    _noticed: bool = field(default=False, init=False, repr=False)

    @property
    def cancelled(self) -> bool:
        """Whether this run should stop: the job was cancelled, its time is up, its worker goes away or lost it.

        Look at it now and then in a plain `def` and return when it is True; an `async def` is cancelled anyway.
        Once it has read True, returning means having stopped: the run is not counted as a success.
        """
        if self._stopping:
            self._noticed = True
        return self._stopping

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Writes lines that carry `job_id`, `job_type` and `trace_id`."""
        trace_id = self.traceparent[3:35]
        return _JobLogger(_log, {"job_id": self.job_id, "job_type": self.job_type, "trace_id": trace_id})

    def progress(self, processed: int, total: int) -> None:
        """Report progress; cheap, as only the newest report is kept. Raises ValueError for negative numbers."""
        if processed < 0 or total < 0:
            raise ValueError(f"progress must not be negative: {processed} of {total}")
        if self.on_progress is not None:
            self.on_progress(int(processed), int(total))

    def stop(self) -> None:
        """For whoever runs the handler: `cancelled` reads True from now on."""
        self._stopping = True

    @property
    def noticed(self) -> bool:
        """For whoever runs the handler: whether it has seen that it should stop."""
        return self._noticed


class _JobLogger(logging.LoggerAdapter[logging.Logger]):
    """Keeps what the handler passes as `extra`, which the standard adapter overwrites before Python 3.13."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs


# -- raising ---------------------------------------------------------------------------------------------------------


def error_code(raw: object) -> str:
    """`raw` as an error code, `[A-Za-z0-9_]{1,64}`: what does not fit is replaced, so that a sloppy code costs
    its spelling and never the report of the failure."""
    text = str(getattr(raw, "value", raw))
    return _NOT_IN_A_CODE.sub("_", text)[:64] or UNNAMED_CODE


class _CodedError(Exception):
    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = error_code(code)
        self.message = str(message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class TransientError(_CodedError):
    """This run failed and another may not: counts towards a breaker, then retried with backoff.

    It counts on the `dependency` that it names, if the handler declares it. Otherwise on the job type, and on its
    dependency too if it declares just one.
    """

    def __init__(self, code: str, message: str = "", *, dependency: str | None = None) -> None:
        super().__init__(code, message)
        self.dependency = dependency or ""


class Permanent(_CodedError):
    """The job itself is bad: quarantined at once, and no evidence against anything but the job."""


class RetryLater(Exception):
    """Run again after `after` (seconds or a timedelta, negative means at once), at the cost of no attempt.

    `scope="type"` speaks for the whole job type, `scope="dependency"` for everything that needs the `dependency`
    that it names (or the handler's only one): that breaker opens until exactly then.
    """

    def __init__(
        self,
        after: float | timedelta,
        scope: Literal["job", "type", "dependency"] = "job",
        message: str = "",
        *,
        dependency: str | None = None,
    ) -> None:
        super().__init__(after, scope, message)
        if scope not in ("job", "type", "dependency"):
            raise ValueError(f"RetryLater scope must be 'job', 'type' or 'dependency', not {scope!r}")
        if dependency and scope != "dependency":
            raise ValueError(f"RetryLater names a dependency, but its scope is {scope!r}")
        self.dependency = dependency or ""
        self.after = max(_duration("after", after), timedelta(0))
        self.scope = scope
        self.message = str(message)

    def __str__(self) -> str:
        return self.message or f"run again in {self.after.total_seconds():g} s"
