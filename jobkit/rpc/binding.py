"""Which HTTP method and path calls which RPC: read from the `google.api.http` options of the descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.api.annotations_pb2 import http as http_option
from google.api.http_pb2 import HttpRule
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from jobkit.rpc.httprule import Template, parse

_PATTERNS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Binding:
    """One way to call `rpc` over HTTP. `body` is "*", a field's name or ""; so is `response_body`, but for "*"."""

    rpc: MethodDescriptor
    servicer: Any
    http_method: str
    template: Template
    body: str
    response_body: str

    @property
    def full_name(self) -> str:
        """`package.Service/Method`."""
        return f"{self.rpc.containing_service.full_name}/{self.rpc.name}"


def read_bindings(services: Sequence[tuple[Any, Any, str]]) -> list[Binding]:
    """The bindings of all services (add function, servicer, `package.Service`), the more specific first.

    Raises KeyError for an unknown service, BadTemplate for a bad path, and ValueError for a client's stream with a
    binding: REST asks once. A server's stream is answered line by line.
    """
    found = [binding for _, servicer, name in services for binding in _of_service(servicer, name)]
    return sorted(found, key=lambda binding: binding.template.rank)


def _of_service(servicer: Any, name: str) -> Iterator[Binding]:
    service = descriptor_pool.Default().FindServiceByName(name)
    for rpc in service.methods:
        options = rpc.GetOptions()
        if not options.HasExtension(http_option):
            continue
        if rpc.client_streaming:
            raise ValueError(f"{rpc.full_name} takes a stream and cannot be bound to HTTP")
        rule = options.Extensions[http_option]
        for each in (rule, *rule.additional_bindings):
            yield _of_rule(rpc, servicer, each)


def _of_rule(rpc: MethodDescriptor, servicer: Any, rule: HttpRule) -> Binding:
    kind = rule.WhichOneof("pattern")
    if kind in _PATTERNS:
        method, path = kind.upper(), getattr(rule, kind)
    elif kind == "custom":
        method, path = rule.custom.kind.upper(), rule.custom.path
    else:
        raise ValueError(f"{rpc.full_name} has a binding without a path")
    return Binding(rpc, servicer, method, parse(path), rule.body, rule.response_body)
