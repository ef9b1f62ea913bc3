"""Payloads on their way out: what has no exact form on the wire is refused by path, as the server would."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.struct_pb2 import Struct

from jobkit.client.errors import InvalidRequest
from jobkit.domain.errors import FieldViolation
from jobkit.rpc.convert import dict_to_struct
from jobkit.rpc.strict_json import find_unsafe


def to_struct(payload: Mapping[str, object]) -> Struct:
    """Raises InvalidRequest for what a Struct would change or cannot carry back, TypeError for what is not
    JSON at all."""
    refused = find_unsafe(dict(payload), "payload")
    if refused is not None:
        raise InvalidRequest(
            "INVALID_ARGUMENT",
            f"{refused.path}: {refused.message}",
            reason="INVALID_FIELD",
            violations=[FieldViolation(refused.path, refused.message)],
        )
    return dict_to_struct(payload)
