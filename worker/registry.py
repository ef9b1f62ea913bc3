"""Which handler runs which job type. A plain object, filled at start; nothing registers itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module

from jobkit.handling import Handler, handlers_of


class BadHandlers(ValueError):
    """The handlers cannot be used as configured; `problems` holds one sentence each, all found in one go."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class Registry:
    """Handlers by job type. The `fallback`, if any, serves every type that has none of its own."""

    def __init__(self, handlers: Iterable[Handler] = (), *, fallback: Handler | None = None) -> None:
        self._handlers: dict[str, Handler] = {}
        self._fallback = fallback
        for handler in handlers:
            self.add(handler)

    @property
    def fallback(self) -> Handler | None:
        return self._fallback

    @property
    def job_types(self) -> tuple[str, ...]:
        """The types with a handler of their own, sorted."""
        return tuple(sorted(self._handlers))

    def find(self, job_type: str) -> Handler | None:
        """The handler that runs `job_type`, or None when nothing here does."""
        return self._handlers.get(job_type, self._fallback)

    def needs(self, job_type: str) -> tuple[str, ...]:
        """The dependencies that the type's handler declares."""
        handler = self.find(job_type)
        return handler.depends_on if handler is not None else ()

    def add(self, handler: Handler) -> None:
        """Raises BadHandlers when another handler has the type. Adding the same one again changes nothing."""
        known = self._handlers.setdefault(handler.job_type, handler)
        if known != handler:
            raise BadHandlers(
                [f"job type '{handler.job_type}' has two handlers: {_name(known)} and {_name(handler)}"]
            )

    def load(self, modules: Iterable[str]) -> None:
        """Add what `job_handler` marked in these modules. Raises BadHandlers with every problem of all of them."""
        problems: list[str] = []
        for name in modules:
            try:
                for handler in collect(name):
                    self.add(handler)
            except BadHandlers as bad:
                problems += bad.problems
        if problems:
            raise BadHandlers(problems)


def collect(module_name: str) -> list[Handler]:
    """The handlers of one module, in order of appearance. Raises BadHandlers if it has none or does not import."""
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadHandlers([f"handler module '{module_name}' cannot be imported: {reason}"]) from error
    # A module may name one function twice, or import it from another: it is still one handler.
    found = dict.fromkeys(handler for value in vars(module).values() for handler in handlers_of(value))
    if not found:
        raise BadHandlers([f"handler module '{module_name}' has no function marked with @job_handler"])
    return list(found)


def _name(handler: Handler) -> str:
    run = handler.run
    return f"{getattr(run, '__module__', '?')}.{getattr(run, '__qualname__', type(run).__name__)}"
