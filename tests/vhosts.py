"""RabbitMQ virtual hosts for tests: each test gets an empty one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from tests.servers import run_tool


class Vhosts:
    """A fresh vhost for each test. rabbitmqctl takes two thirds of a second whatever it does, so vhosts are
    made eight at a time, and one call at the end deletes all that are left."""

    _ADD = (
        '[begin rabbit_vhost:add(V, <<"tests">>), rabbit_auth_backend_internal:set_permissions('
        '<<"{user}">>, V, <<".*">>, <<".*">>, <<".*">>, <<"tests">>) end || V <- [{names}]].'
    )
    _DELETE = '[rabbit_vhost:delete(V, <<"tests">>) || V <- [{names}]].'

    def __init__(self, url: str, ctl: Callable[..., str]) -> None:
        self._url = urlsplit(url)
        self.ctl = ctl
        self._ready: list[str] = []
        self._made: list[str] = []
        self._done: list[str] = []

    def take(self) -> str:
        """The URL of a vhost that nobody has used. Raises NotAvailable when rabbitmqctl cannot make one."""
        if not self._ready:
            self._delete(self._done)
            self._done = []
            names = [f"selfheal-test-{uuid.uuid4().hex[:12]}" for _ in range(8)]
            expression = self._ADD.format(user=self._url.username or "guest", names=self._quoted(names))
            self.ctl("eval", expression)
            self._made += names
            self._ready = names
        return self._url._replace(path=f"/{self._ready.pop(0)}").geturl()

    def give_back(self, url: str) -> None:
        """Its test has ended: deleted with the next batch. A broker of release 3.10 wedges at about 120 vhosts."""
        self._done.append(urlsplit(url).path.removeprefix("/"))

    def remove(self) -> None:
        """Delete every vhost that is left."""
        self._delete(self._made)
        self._ready, self._done = [], []

    def _delete(self, names: Sequence[str]) -> None:
        if names:
            self.ctl("eval", self._DELETE.format(names=self._quoted(names)))
            self._made = [name for name in self._made if name not in set(names)]

    @staticmethod
    def _quoted(names: Sequence[str]) -> str:
        return ", ".join(f'<<"{name}">>' for name in names)


def shared_ctl(*arguments: str) -> str:
    """rabbitmqctl against the node that runs on this machine at its usual name."""
    return run_tool(["rabbitmqctl", "-q", *arguments])
