"""An HTTP request as a protobuf message, and a message as JSON, by the rules of `google.api.http`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from jobkit.domain.errors import FieldViolation, InvalidJob
from jobkit.rpc.binding import Binding
from jobkit.rpc.convert import whole
from jobkit.rpc.fields import SHOULD_NOT_EXIST, blame, find_field, inner_message, is_map, normalise
from jobkit.rpc.strict_json import MalformedJson, decode, find_unsafe

Pairs = Sequence[tuple[str, str]]
_NOT_IN_QUERY = frozenset({"Struct", "Value", "ListValue", "Any", "Empty"})


def read_request(binding: Binding, path: Mapping[str, str], query: Pairs, body: bytes) -> Message:
    """The RPC's request. Raises InvalidJob naming every field that is unknown, given twice or of the wrong kind."""
    message = binding.rpc.input_type
    violations: list[FieldViolation] = []
    tree = _read_body(binding, body, violations)
    for name, text in path.items():
        _place(tree, name.split("."), _from_text(message, name, text), violations)
    _read_query(binding, query, tree, violations)
    if violations:
        unknown = any(violation.message == SHOULD_NOT_EXIST for violation in violations)
        raise InvalidJob(violations, reason="UNKNOWN_FIELD" if unknown else "INVALID_FIELD")
    request: Message = message_factory.GetMessageClass(message)()
    try:
        return ParseDict(tree, request)
    except (ParseError, ValueError, TypeError, OverflowError) as error:
        bad = list(blame(message, tree)) or [FieldViolation("body", "does not fit the message")]
        raise InvalidJob(bad) from error


def write_response(message: Message, field: str = "") -> bytes:
    """JSON with lowerCamelCase names; fields without presence are always there, and whole doubles are integers."""
    tree: Any = MessageToDict(message, always_print_fields_with_no_presence=True)
    if field:
        tree = tree.get(message.DESCRIPTOR.fields_by_name[field].json_name)
    return orjson.dumps(_whole_numbers(tree))


def _read_body(binding: Binding, body: bytes, violations: list[FieldViolation]) -> dict[str, Any]:
    if not body.strip():
        return {}
    if not binding.body:
        raise _invalid("body", "must be empty")
    try:
        value = decode(body)
    except MalformedJson as error:
        raise _invalid("body", str(error)) from None
    tree = value if binding.body == "*" else {binding.body: value}
    if not isinstance(tree, dict):
        raise _invalid("body", "must be a JSON object")
    if (unsafe := find_unsafe(tree)) is not None:
        raise _invalid(unsafe.path, unsafe.message)
    return normalise(binding.rpc.input_type, tree, "", violations)


def _read_query(
    binding: Binding, query: Pairs, tree: dict[str, Any], violations: list[FieldViolation]
) -> None:
    lists: dict[str, list[Any]] = {}
    for key, text in query:
        names = None if binding.body == "*" else _resolve(binding.rpc.input_type, key)
        if names is None:
            violations.append(FieldViolation(key, SHOULD_NOT_EXIST))
            continue
        leaf = names[-1]
        dotted = [field.name for field in names]
        if not _fits_query(leaf):
            violations.append(FieldViolation(".".join(dotted), "cannot be given in the query"))
        elif leaf.is_repeated:
            values = lists.setdefault(".".join(dotted), [])
            values.append(_leaf_from_text(leaf, text))
            if len(values) == 1:
                _place(tree, dotted, values, violations)
        else:
            _place(tree, dotted, _leaf_from_text(leaf, text), violations, once=True)


def _resolve(message: Descriptor, dotted: str) -> list[FieldDescriptor] | None:
    """The fields along `a.b.c`; None where there is no such field."""
    found: list[FieldDescriptor] = []
    inside: Descriptor | None = message
    for name in dotted.split("."):
        field = find_field(inside, name) if inside is not None else None
        if field is None:
            return None
        found.append(field)
        inside = None if field.is_repeated else inner_message(field)
    return found


def _fits_query(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is None or not (is_map(field) or inner_message(field) or kind.name in _NOT_IN_QUERY)


def _from_text(message: Descriptor, dotted: str, text: str) -> Any:
    fields = _resolve(message, dotted)
    return _leaf_from_text(fields[-1], text) if fields else text


def _leaf_from_text(field: FieldDescriptor, text: str) -> Any:
    """Text as the JSON value that protobuf takes for this field: it reads numbers and enums from strings itself."""
    kind = field.message_type
    boolean = field.cpp_type == FieldDescriptor.CPPTYPE_BOOL or (
        kind is not None and kind.name == "BoolValue"
    )
    return {"true": True, "false": False}.get(text, text) if boolean else text


def _place(
    tree: dict[str, Any],
    dotted: list[str],
    value: Any,
    violations: list[FieldViolation],
    once: bool = False,
) -> None:
    """Put `value` at its place; a different value that is there already, or with `once` any, is a violation."""
    for name in dotted[:-1]:
        inner = tree.setdefault(name, {})
        if not isinstance(inner, dict):
            violations.append(FieldViolation(name, "must be an object"))
            return
        tree = inner
    there = tree.setdefault(dotted[-1], value)
    if there is not value and (once or there != value):
        violations.append(FieldViolation(".".join(dotted), "must be given once"))


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return whole(value)
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return value


def _invalid(path: str, message: str) -> InvalidJob:
    return InvalidJob([FieldViolation(path, message)])
