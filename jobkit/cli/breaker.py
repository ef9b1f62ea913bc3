"""`selfheal breaker …`: seeing breakers and moving them, over gRPC. Every move asks for a reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2_grpc
from selfheal.control.v1 import breaker_service_pb2 as api

from jobkit.cli import breaker_history, policy, simulate
from jobkit.cli.arguments import Actor, AsJson, Control, Reason, actor_of, command_group, reason_of
from jobkit.cli.breaker_view import print_breaker, print_breakers
from jobkit.cli.output import print_json, print_json_lines
from jobkit.cli.session import collect, converse
from jobkit.cli.values import parse_until
from jobkit.client.calls import Caller
from jobkit.rpc.convert import to_timestamp

if TYPE_CHECKING:
    from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceAsyncStub

app = command_group("See breakers and move them.")
breaker_history.add_to(app)
app.command()(simulate.simulate)

app.add_typer(policy.app, name="policy")

Name = Annotated[
    str, typer.Argument(metavar="BREAKER", help="The breaker: a job type, or a dependency such as @smtp.")
]
Until = Annotated[str, typer.Option(metavar="TIME", help="A duration such as 10m, or an RFC 3339 time.")]
Work = Callable[["BreakerServiceAsyncStub", Caller], Awaitable[breaker_pb2.Breaker]]


@app.command("list")
def list_breakers(ctx: typer.Context, as_json: AsJson = False, address: Control = None) -> None:
    """List all breakers by name; --json prints one document a line."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[breaker_pb2.Breaker]:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        return await collect(call, stub.ListBreakers, api.ListBreakersRequest(), lambda page: page.breakers)

    breakers = converse(address or ctx.obj.control, read)
    (print_json_lines if as_json else print_breakers)(breakers)


@app.command()
def get(ctx: typer.Context, breaker: Name, as_json: AsJson = False, address: Control = None) -> None:
    """Show one breaker and its latest transitions."""

    async def read(stub: BreakerServiceAsyncStub, call: Caller) -> breaker_pb2.Breaker:
        return (await call(stub.GetBreaker, api.GetBreakerRequest(breaker=breaker))).breaker

    _run(ctx, address, read, as_json)


@app.command()
def reset(
    ctx: typer.Context,
    breaker: Name,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Close a breaker and forget its evidence."""
    request = api.ResetBreakerRequest(breaker=breaker, reason=reason_of(reason), actor=actor_of(actor))

    async def work(stub: BreakerServiceAsyncStub, call: Caller) -> breaker_pb2.Breaker:
        return (await call(stub.ResetBreaker, request, repeatable=False)).breaker

    _run(ctx, address, work, as_json)


@app.command("open")
def open_breaker(
    ctx: typer.Context,
    breaker: Name,
    reason: Reason = "",
    actor: Actor = None,
    until: Until = "",
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Hold the jobs behind a breaker, until a time or until somebody closes it."""
    end = until_of(until)
    request = api.OpenBreakerRequest(
        breaker=breaker, reason=reason_of(reason), actor=actor_of(actor), until=end
    )

    async def work(stub: BreakerServiceAsyncStub, call: Caller) -> breaker_pb2.Breaker:
        return (await call(stub.OpenBreaker, request, repeatable=False)).breaker

    _run(ctx, address, work, as_json)


@app.command("close")
def close_breaker(
    ctx: typer.Context,
    breaker: Name,
    reason: Reason = "",
    actor: Actor = None,
    until: Until = "",
    as_json: AsJson = False,
    address: Control = None,
) -> None:
    """Let jobs flow whatever the evidence says, until a time or until somebody resets it."""
    end = until_of(until)
    request = api.CloseBreakerRequest(
        breaker=breaker, reason=reason_of(reason), actor=actor_of(actor), until=end
    )

    async def work(stub: BreakerServiceAsyncStub, call: Caller) -> breaker_pb2.Breaker:
        return (await call(stub.CloseBreaker, request, repeatable=False)).breaker

    _run(ctx, address, work, as_json)


def _run(ctx: typer.Context, address: str | None, work: Work, as_json: bool) -> None:
    async def talk(channel: grpc.aio.Channel, call: Caller) -> breaker_pb2.Breaker:
        return await work(breaker_service_pb2_grpc.BreakerServiceStub(channel), call)

    breaker = converse(address or ctx.obj.control, talk)
    (print_json if as_json else print_breaker)(breaker)


def until_of(given: str) -> Timestamp | None:
    if not given:
        return None
    return to_timestamp(parse_until(given, datetime.now(UTC)))
