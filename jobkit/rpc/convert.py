"""Between protobuf's well-known types and Python's: Struct, Timestamp, Duration."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from jobkit.domain.errors import FieldViolation, InvalidJob

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SAFE_INTEGER = 2**53  # up to here doubles and integers say the same


def struct_to_dict(struct: Struct) -> dict[str, Any]:
    """A Struct as a dict. Whole doubles within ± 2^53 become integers, because the caller most likely meant
    them; the wire cannot tell 1 from 1.0."""
    return {key: _from_value(value) for key, value in struct.fields.items()}


def dict_to_struct(value: Mapping[str, Any]) -> Struct:
    """A JSON object as a Struct. Raises TypeError for what JSON does not have, and ValueError for integers
    that a double cannot hold at all; those beyond ± 2^53 lose digits, so check with `unsafe` first."""
    struct = Struct()
    _fill(struct, value)
    return struct


def _from_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return whole(value.number_value)
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return struct_to_dict(value.struct_value)
        case "list_value":
            return [_from_value(item) for item in value.list_value.values]
        case _:
            return None


def whole(number: float) -> int | float:
    """`number` as an integer where that changes nothing. Beyond ± 2^53 it stays a float: as an integer it would
    print digits that nobody wrote. -0.0 stays as well."""
    if -SAFE_INTEGER <= number <= SAFE_INTEGER and number.is_integer():
        integer = int(number)
        return integer if integer or str(number) == "0.0" else number
    return number


def _fill(struct: Struct, value: Mapping[str, Any]) -> None:
    fields = struct.fields
    for key, item in value.items():
        _set(fields[key], item)


def _fill_list(target: ListValue, items: Sequence[Any]) -> None:
    add = target.values.add
    for item in items:
        _set(add(), item)


def _set(target: Value, item: Any) -> None:
    if isinstance(item, str):
        target.string_value = item
    elif isinstance(item, bool):
        target.bool_value = item
    elif isinstance(item, int | float):
        try:
            target.number_value = float(item)
        except OverflowError as error:
            raise ValueError("integer is too large for a double") from error
    elif item is None:
        target.null_value = NULL_VALUE
    elif isinstance(item, Mapping):
        target.struct_value.SetInParent()  # an empty object is not an absent one
        _fill(target.struct_value, item)
    elif isinstance(item, list | tuple):
        target.list_value.SetInParent()
        _fill_list(target.list_value, item)
    else:
        raise TypeError(f"{type(item).__name__} has no place in JSON")


# -- page tokens ---------------------------------------------------------------------------------------------------


def to_token(raw: bytes) -> str:
    """Bytes as a page token: opaque to callers, and safe in a URL."""
    return base64.urlsafe_b64encode(raw).decode()


def from_token(text: str, size: int) -> bytes | None:
    """The `size` bytes of a token; None for "", the first page's. Raises InvalidJob for one that we did not make."""
    if not text:
        return None
    try:
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        raise not_our_token()
    return raw


def not_our_token() -> InvalidJob:
    return InvalidJob([FieldViolation("page_token", "is not one that this service gave out")])


# -- times -------------------------------------------------------------------------------------------------------


def to_timestamp(moment: datetime) -> Timestamp:
    """From an aware datetime. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("a datetime without a zone names no moment")
    since = moment - _EPOCH  # what Timestamp.FromDatetime does, in a third of its time
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def from_timestamp(timestamp: Timestamp) -> datetime:
    """To an aware datetime in UTC, cut to microseconds. Raises ValueError outside of years 1 to 9999."""
    return timestamp.ToDatetime(tzinfo=UTC)


def to_duration(length: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(length)
    return duration


def from_duration(duration: Duration) -> timedelta:
    """Cut to microseconds. Raises ValueError or OverflowError beyond Duration's range of 10,000 years."""
    return duration.ToTimedelta()
