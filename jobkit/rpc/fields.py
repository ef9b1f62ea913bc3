"""JSON trees against message descriptors: known names, and what each field must look like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError

from jobkit.domain.errors import FieldViolation

SHOULD_NOT_EXIST = "should not exist"  # what is wrong with every unknown field
_WELL_KNOWN = "google.protobuf."
_EXPECTED_MESSAGES = {
    "google.protobuf.Timestamp": 'must be a time such as "2026-01-01T00:00:00Z"',
    "google.protobuf.Duration": 'must be a duration such as "1.5s"',
    "google.protobuf.FieldMask": 'must be a list of paths such as "state,labels"',
    "google.protobuf.ListValue": "must be a list",
}
_EXPECTED = {
    FieldDescriptor.CPPTYPE_STRING: "must be a string",
    FieldDescriptor.CPPTYPE_BOOL: "must be true or false",
    FieldDescriptor.CPPTYPE_INT32: "must be an integer of 32 bits",
    FieldDescriptor.CPPTYPE_UINT32: "must be an unsigned integer of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "must be an integer of 64 bits",
    FieldDescriptor.CPPTYPE_UINT64: "must be an unsigned integer of 64 bits",
    FieldDescriptor.CPPTYPE_DOUBLE: "must be a number",
    FieldDescriptor.CPPTYPE_FLOAT: "must be a number",
}


def find_field(message: Descriptor, name: str) -> FieldDescriptor | None:
    """By proto name or lowerCamelCase name."""
    field: FieldDescriptor | None = message.fields_by_name.get(name)
    return field or message.fields_by_camelcase_name.get(name)


def is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def inner_message(field: FieldDescriptor) -> Descriptor | None:
    """The message whose fields the JSON object has: None for scalars, maps and well-known types."""
    kind: Descriptor | None = field.message_type
    if kind is None or is_map(field) or kind.full_name.startswith((_WELL_KNOWN, "google.rpc.")):
        return None
    return kind


def normalise(
    message: Descriptor, tree: dict[str, Any], path: str, violations: list[FieldViolation]
) -> dict[str, Any]:
    """`tree` with proto names for keys. Names that the message does not have, and fields given under both of
    their names, are added to `violations`."""
    known: dict[str, Any] = {}
    for key, value in tree.items():
        field = find_field(message, key)
        if field is None:
            violations.append(FieldViolation(f"{path}{key}", SHOULD_NOT_EXIST))
        elif field.name in known:
            violations.append(FieldViolation(f"{path}{field.name}", "must be given once"))
        else:
            known[field.name] = _normalise_value(field, value, f"{path}{field.name}", violations)
    return known


def _normalise_value(field: FieldDescriptor, value: Any, path: str, violations: list[FieldViolation]) -> Any:
    kind = inner_message(field)
    if kind is None:
        return value
    if isinstance(value, dict):
        return normalise(kind, value, f"{path}.", violations)
    if isinstance(value, list):
        return [
            normalise(kind, item, f"{path}[{index}].", violations) if isinstance(item, dict) else item
            for index, item in enumerate(value)
        ]
    return value


def blame(message: Descriptor, tree: dict[str, Any], path: str = "") -> Iterator[FieldViolation]:
    """Which fields of a normalised tree protobuf refuses, and what they must be. It parses field by field, so
    it is for trees that were already refused as a whole."""
    for name, value in tree.items():
        field = message.fields_by_name[name]
        try:
            ParseDict({name: value}, message_factory.GetMessageClass(message)())
        except (ParseError, ValueError, TypeError, OverflowError):
            deeper = list(_blame_inside(field, value, f"{path}{name}"))
            yield from deeper or [FieldViolation(f"{path}{name}", expectation(field))]


def _blame_inside(field: FieldDescriptor, value: Any, path: str) -> Iterator[FieldViolation]:
    kind = inner_message(field)
    if kind is None:
        return
    if isinstance(value, dict) and not field.is_repeated:
        yield from blame(kind, value, f"{path}.")
    if isinstance(value, list) and field.is_repeated:
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield from blame(kind, item, f"{path}[{index}].")
            else:
                yield FieldViolation(f"{path}[{index}]", "must be an object")


def expectation(field: FieldDescriptor) -> str:
    """What the field must be, as the end of a sentence about it."""
    if is_map(field):
        entry: Any = field.message_type
        value = entry.fields_by_name["value"]
        return f"must be an object whose values {expectation(value).replace('must be', 'are', 1)}"
    single = _single_expectation(field)
    return (
        f"must be a list whose items {single.replace('must be', 'are', 1)}" if field.is_repeated else single
    )


def _single_expectation(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return f"must be one of {', '.join(value.name for value in field.enum_type.values)}"
    if field.message_type is not None:
        kind = field.message_type
        if (
            kind.full_name.startswith(_WELL_KNOWN)
            and kind.full_name.endswith("Value")
            and len(kind.fields) == 1
        ):
            wrapped = kind.fields_by_name.get("value")
            if wrapped is not None:
                return expectation(wrapped)
        return _EXPECTED_MESSAGES.get(kind.full_name, "must be an object")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "must be base64"
    return _EXPECTED[field.cpp_type]
