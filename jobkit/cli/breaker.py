"""`selfheal breaker …`: seeing breakers and moving them, over gRPC. Every move asks for a reason."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from selfheal.control.v1 import breaker_pb2, breaker_service_pb2_grpc
from selfheal.control.v1 import breaker_service_pb2 as api

from jobkit.cli.arguments import AsJson, Control
from jobkit.cli.breaker_view import print_breaker, print_breakers
from jobkit.cli.output import print_json, print_json_lines
from jobkit.cli.session import converse
from jobkit.cli.values import parse_until
from jobkit.client.calls import Caller
from jobkit.rpc.convert import to_timestamp

if TYPE_CHECKING:
    from selfheal.control.v1.breaker_service_pb2_grpc import BreakerServiceAsyncStub

app = typer.Typer(
    help="See breakers and move them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="BREAKER", help="The breaker: a job type.")]
Reason = Annotated[str, typer.Option(help="Why; recorded. Asked for when not given.")]
Actor = Annotated[str | None, typer.Option(help="Who; recorded. The login name when not given.")]
Until = Annotated[str, typer.Option(metavar="TIME", help="A duration such as 10m, or an RFC 3339 time.")]
Work = Callable[["BreakerServiceAsyncStub", Caller], Awaitable[breaker_pb2.Breaker]]


@app.command("list")
def list_breakers(ctx: typer.Context, as_json: AsJson = False, address: Control = None) -> None:
    """List all breakers by name; --json prints one document a line."""

    async def read(channel: grpc.aio.Channel, call: Caller) -> list[breaker_pb2.Breaker]:
        stub: BreakerServiceAsyncStub = breaker_service_pb2_grpc.BreakerServiceStub(channel)
        breakers: list[breaker_pb2.Breaker] = []
        token = ""
        while True:
            page = await call(stub.ListBreakers, api.ListBreakersRequest(page_token=token))
            breakers += page.breakers
            token = page.next_page_token
            if not token:
                return breakers

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
    request = api.ResetBreakerRequest(
        breaker=breaker, reason=reason_or_ask(reason), actor=actor_or_login(actor)
    )

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
    end = _until(until)
    request = api.OpenBreakerRequest(
        breaker=breaker, reason=reason_or_ask(reason), actor=actor_or_login(actor), until=end
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
    end = _until(until)
    request = api.CloseBreakerRequest(
        breaker=breaker, reason=reason_or_ask(reason), actor=actor_or_login(actor), until=end
    )

    async def work(stub: BreakerServiceAsyncStub, call: Caller) -> breaker_pb2.Breaker:
        return (await call(stub.CloseBreaker, request, repeatable=False)).breaker

    _run(ctx, address, work, as_json)


def _run(ctx: typer.Context, address: str | None, work: Work, as_json: bool) -> None:
    async def talk(channel: grpc.aio.Channel, call: Caller) -> breaker_pb2.Breaker:
        return await work(breaker_service_pb2_grpc.BreakerServiceStub(channel), call)

    breaker = converse(address or ctx.obj.control, talk)
    (print_json if as_json else print_breaker)(breaker)


def reason_or_ask(given: str) -> str:
    """What was given, or what a person at the terminal answers. Raises BadParameter where there is none."""
    if given.strip():
        return given
    if not sys.stdin.isatty():
        raise typer.BadParameter("say why with --reason TEXT", param_hint="--reason")
    answer: str = typer.prompt("Reason", err=True)
    return answer


def actor_or_login(given: str | None) -> str:
    """The login name, or nothing where the process has none: the server then records "anonymous"."""
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def _until(given: str) -> Timestamp | None:
    if not given:
        return None
    return to_timestamp(parse_until(given, datetime.now(UTC)))
