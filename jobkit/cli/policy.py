"""`selfheal breaker policy …`: what operators set about breakers, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from selfheal.control.v1 import breaker_policy_pb2 as policy
from selfheal.control.v1 import breaker_service_pb2 as api
from selfheal.control.v1 import breaker_service_pb2_grpc

from jobkit.cli.arguments import Actor, AsJson, Control, Reason, actor_of, reason_of
from jobkit.cli.output import print_details, print_json, print_json_lines, print_table, time_text
from jobkit.cli.session import collect, converse
from jobkit.cli.values import parse_duration
from jobkit.client.calls import Caller

if TYPE_CHECKING:
    from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceAsyncStub

app = typer.Typer(help="See and set what breakers go by.", no_args_is_help=True)

Pattern = Annotated[
    str, typer.Argument(metavar="PATTERN", help="A breaker, or the beginning of names and *: mail.*, @*, *.")
]
DURATIONS = ("failure_window", "cooldown", "max_cooldown", "slow_call_duration")
_ABOUT = ("breaker", "etag", "revision", "update_time", "actor", "reason")
SETTINGS = tuple(field.name for field in policy.BreakerPolicy.DESCRIPTOR.fields if field.name not in _ABOUT)


@app.command("list")
def list_policies(ctx: typer.Context, as_json: AsJson = False, address: Control = None) -> None:
    """List what is set, by pattern; --json prints one document a line."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[policy.BreakerPolicy]:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        request = api.ListBreakerPoliciesRequest()
        return await collect(call, stub.ListBreakerPolicies, request, lambda page: page.policies)

    policies = converse(address or ctx.obj.control, read)
    if as_json:
        print_json_lines(policies)
    else:
        headings = ("PATTERN", "SETTINGS", "UPDATED", "ACTOR", "REASON")
        print_table(headings, map(_row, policies))


@app.command()
def get(ctx: typer.Context, pattern: Pattern, as_json: AsJson = False, address: Control = None) -> None:
    """Show what is set for a name or pattern, and what it comes to with all that it inherits."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> api.GetBreakerPolicyResponse:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        return await call(stub.GetBreakerPolicy, api.GetBreakerPolicyRequest(breaker=pattern))

    found = converse(address or ctx.obj.control, read)
    if as_json:
        print_json(found)
        return
    print_details(
        [
            ("pattern", pattern),
            ("set here", ", ".join(_settings(found.policy))),
            ("in force", ", ".join(_settings(found.effective))),
            ("from", ", ".join(found.patterns)),
            ("etag", found.policy.etag),
        ]
    )


@app.command("set")
def set_policy(  # noqa: PLR0913, PLR0917 - a command line has as many options as it has
    ctx: typer.Context,
    pattern: Pattern,
    settings: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE…", help="Without a value: unset. Durations as 30, 10m, 500ms."),
    ],
    reason: Reason = "",
    actor: Actor = None,
    etag: Annotated[str, typer.Option(help="Only if it is still what was read.")] = "",
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Only check.")] = False,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Set fields, such as mode=SHADOW cooldown=30s ignored_error_codes=NOT_FOUND,GONE."""
    wanted, mask = parse_settings(settings)
    wanted.etag = etag
    request = api.UpdateBreakerPolicyRequest(
        breaker=pattern,
        policy=wanted,
        update_mask=FieldMask(paths=mask),
        validate_only=validate_only,
        reason=reason_of(reason),
        actor=actor_of(actor),
    )

    async def work(channel: grpc.aio.Channel, call: Caller) -> policy.BreakerPolicy:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        return (await call(stub.UpdateBreakerPolicy, request, repeatable=False)).policy

    stored = converse(address or ctx.obj.control, work)
    if as_json:
        print_json(stored)
    else:
        print_table(("PATTERN", "SETTINGS", "UPDATED", "ACTOR", "REASON"), [_row(stored)])


def parse_settings(settings: Iterable[str]) -> tuple[policy.BreakerPolicy, list[str]]:
    """The policy, and which fields of it were named. Raises typer.BadParameter."""
    values: dict[str, Any] = {}
    mask = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in SETTINGS:
            raise typer.BadParameter(f"{setting!r} is not NAME=VALUE, with a name of {', '.join(SETTINGS)}")
        if name in mask:
            raise typer.BadParameter(f"{name} is given twice")
        mask.append(name)
        if text:
            values[name] = _value(name, text)
    message = policy.BreakerPolicy()
    try:
        json_format.ParseDict(values, message)
    except json_format.ParseError as error:
        raise typer.BadParameter(str(error)) from None
    return message, mask


def _value(name: str, text: str) -> Any:
    """As the protobuf JSON mapping wants it."""
    if name == "mode":
        return f"BREAKER_MODE_{text.upper()}"
    if name == "ignored_error_codes":
        return {"codes": [code for code in text.split(",") if code]}
    if name not in DURATIONS:
        return text
    duration = Duration()
    if text not in ("0", "0s"):
        duration.FromTimedelta(parse_duration(text))
    return duration.ToJsonString()


def _row(stored: policy.BreakerPolicy) -> tuple[str, ...]:
    return (
        stored.breaker,
        ", ".join(_settings(stored)),
        time_text(stored, "update_time"),
        stored.actor,
        stored.reason,
    )


def _settings(message: policy.BreakerPolicy) -> Iterable[str]:
    for field, value in message.ListFields():
        if field.name == "mode":
            yield f"mode={policy.BreakerMode.Name(value).removeprefix('BREAKER_MODE_')}"
        elif field.name == "ignored_error_codes":
            yield f"ignored_error_codes={','.join(value.codes)}"
        elif field.name in DURATIONS:
            yield f"{field.name}={value.ToTimedelta().total_seconds():g}s"
        elif field.name in SETTINGS:
            yield f"{field.name}={value:g}"
