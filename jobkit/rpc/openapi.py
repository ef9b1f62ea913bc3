"""`/openapi.json` and `/docs`: the REST door described, from the same descriptors that it is served from."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from aiohttp import web
from google.protobuf.descriptor import Descriptor

from jobkit.rpc.binding import Binding, read_bindings
from jobkit.rpc.fields import find_field, inner_message, is_map
from jobkit.rpc.schema import Schema, Schemas
from jobkit.rpc.stream import LINES

_DESCRIBABLE = frozenset({"GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"})
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "status", "details"],
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "message": {"type": "string"},
                "status": {"type": "string", "description": "The gRPC code's name."},
                "details": {
                    "type": "array",
                    "description": "google.rpc.ErrorInfo always; BadRequest and RetryInfo where they apply.",
                    "items": {"type": "object", "properties": {"@type": {"type": "string"}}},
                },
            },
        }
    },
}


def describe(services: Sequence[tuple[Any, Any, str]], title: str, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the services' bindings. Raises what `read_bindings` raises."""
    schemas = Schemas()
    schemas.components["Error"] = _ERROR
    paths: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for binding in read_bindings(services):
        if binding.http_method in _DESCRIBABLE:
            operations = paths.setdefault(_path(binding), {})
            operations[binding.http_method.lower()] = _operation(binding, schemas, seen[binding.full_name])
            seen[binding.full_name] += 1
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.components.items()))},
    }


def mount_docs(
    app: web.Application, services: Sequence[tuple[Any, Any, str]], title: str, version: str
) -> None:
    """Serve `/openapi.json` and a page at `/docs` that lists the operations and loads nothing from elsewhere."""
    document = describe(services, title, version)
    encoded = orjson.dumps(document)
    page = _page(document)

    async def openapi(request: web.Request) -> web.Response:
        return web.Response(body=encoded, content_type="application/json")

    async def docs(request: web.Request) -> web.Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": policy})

    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/docs", docs)


def _path(binding: Binding) -> str:
    """OpenAPI knows plain `{name}` only, so `{name=jobs/*}` loses its pattern; the parameter tells it."""
    text = binding.template.text
    for variable in binding.template.variables:
        for spelled in (f"{{{variable.field}={variable.pattern}}}", f"{{{variable.field}}}"):
            text = text.replace(spelled, f"{{{_camel(binding.rpc.input_type, variable.field)}}}")
    return text


def _operation(binding: Binding, schemas: Schemas, ordinal: int) -> dict[str, Any]:
    service = binding.rpc.containing_service.name
    operation: dict[str, Any] = {
        "operationId": f"{service}_{binding.rpc.name}" + (f"_{ordinal}" if ordinal else ""),
        "summary": f"{service}.{binding.rpc.name}",
        "tags": [service],
        "parameters": [*_path_parameters(binding, schemas), *_query_parameters(binding, schemas)],
        "responses": {
            "200": _success(binding, schemas),
            "default": _content("An error.", {"$ref": "#/components/schemas/Error"}),
        },
    }
    if binding.body:
        message = binding.rpc.input_type
        schema = (
            schemas.reference(message)
            if binding.body == "*"
            else schemas.of_field(message.fields_by_name[binding.body])
        )
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def _success(binding: Binding, schemas: Schemas) -> dict[str, Any]:
    schema = _answer(binding, schemas)
    if binding.rpc.server_streaming:
        return {
            "description": "A line for each message, as they come.",
            "content": {LINES: {"schema": schema}},
        }
    return _content("The answer.", schema)


def _answer(binding: Binding, schemas: Schemas) -> Schema:
    message = binding.rpc.output_type
    if binding.response_body:
        return schemas.of_field(message.fields_by_name[binding.response_body])
    return schemas.reference(message)


def _path_parameters(binding: Binding, schemas: Schemas) -> Iterator[dict[str, Any]]:
    for variable in binding.template.variables:
        parameter: dict[str, Any] = {
            "name": _camel(binding.rpc.input_type, variable.field),
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
        }
        if variable.pattern != "*":
            parameter["description"] = f"Of the form {variable.pattern}"
        yield parameter


def _query_parameters(binding: Binding, schemas: Schemas) -> Iterator[dict[str, Any]]:
    if binding.body != "*":
        taken = {variable.field for variable in binding.template.variables} | {binding.body}
        yield from _query_of(binding.rpc.input_type, "", "", taken, schemas)


def _query_of(
    message: Descriptor, names: str, shown: str, taken: set[str], schemas: Schemas
) -> Iterator[dict[str, Any]]:
    if names.count(".") > 4:  # messages may contain themselves
        return
    for field in message.fields:
        inner = inner_message(field)
        if f"{names}{field.name}" in taken or is_map(field) or (inner is not None and field.is_repeated):
            continue
        if inner is not None:
            yield from _query_of(inner, f"{names}{field.name}.", f"{shown}{field.json_name}.", taken, schemas)
        else:
            yield {"name": f"{shown}{field.json_name}", "in": "query", "schema": schemas.of_field(field)}


def _camel(message: Descriptor, dotted: str) -> str:
    names: list[str] = []
    inside: Descriptor | None = message
    for name in dotted.split("."):
        field = find_field(inside, name) if inside is not None else None
        names.append(field.json_name if field is not None else name)
        inside = field.message_type if field is not None else None
    return ".".join(names)


def _content(description: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _page(document: dict[str, Any]) -> str:
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = ", ".join(f"{p['name']} ({p['in']})" for p in operation["parameters"])
            cells = (method.upper(), path, operation["summary"], names)
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    title = html.escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .8rem;"
        "border-bottom:1px solid #ccc}td:nth-child(-n+2){font-family:ui-monospace,monospace}"
        "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}</style>"
        f'<h1>{title}</h1><p>The whole description: <a href="/openapi.json">/openapi.json</a>.</p>'
        "<table><tr><th>Method</th><th>Path</th><th>Call</th><th>Parameters</th></tr>"
        f"{''.join(rows)}</table></html>"
    )
