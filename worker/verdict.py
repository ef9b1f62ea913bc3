"""What a handler's return value or exception means, as an outcome. Pure: nothing is logged or written here."""

from __future__ import annotations

import errno
import inspect
import socket
import ssl

import orjson

from jobkit.domain.job import JobError
from jobkit.domain.outcome import API_TIMEOUT, NETWORK_ERROR, Deferred, Failed, Outcome, Succeeded
from jobkit.handling import Permanent, RetryLater, TransientError, error_code
from jobkit.rpc.strict_json import find_unsafe_number

MAX_MESSAGE = 1_000  # characters
MAX_RESULT_BYTES = 256 * 1024
INVALID_RESULT = "INVALID_RESULT"

_NETWORK_ERRNOS = frozenset(
    {
        errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL,
        errno.ENOTCONN,
    }
)  # fmt: skip

# HTTP clients whose errors are not the builtin ones. By name, so that none of them needs to be installed.
_NETWORK_CLASSES = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "requests.exceptions.ConnectionError",
        "httpx.NetworkError",
        "httpcore.NetworkError",
        "urllib.error.URLError",
        "urllib3.exceptions.NewConnectionError",
        "urllib3.exceptions.ProtocolError",
    }
)
_TIMEOUT_CLASSES = frozenset(
    {
        "requests.exceptions.Timeout",
        "httpx.TimeoutException",
        "httpcore.TimeoutException",
        "urllib3.exceptions.TimeoutError",
    }
)


def failed(
    code: str, message: str, *, retryable: bool = True, counts: bool = True, dependency: str = ""
) -> Failed:
    """A failure whose message is bounded and can be stored anywhere: no NUL, no lone surrogates."""
    clean = message.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return Failed(JobError(code, clean[:MAX_MESSAGE], retryable), counts, dependency)


def outcome_of_result(value: object) -> Outcome:
    """A handler's result: None or a dict that JSON can carry. Anything else is the handler's mistake, which
    another run would only repeat."""
    if value is None:
        return Succeeded()
    if not isinstance(value, dict):
        if inspect.iscoroutine(value):
            value.close()
            return _invalid("a coroutine was returned: declare the handler with `async def`")
        return _invalid(f"a handler returns a dict or None, not {type(value).__name__}")
    try:
        encoded = _encoded(value)
    except TypeError as error:  # orjson's own error is one
        return _invalid(f"the result cannot be written as JSON: {error}")
    if len(encoded) > MAX_RESULT_BYTES:
        return _invalid(f"the result is {len(encoded)} bytes of JSON, more than {MAX_RESULT_BYTES}")
    return Succeeded(encoded)


def _encoded(value: dict[str, object]) -> bytes:
    """Readers get results as JSON numbers, where larger integers would silently lose digits: TypeError for those,
    and for what JSON does not have."""
    try:
        return orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    except TypeError:
        # orjson stops one short of ± 2^53, which payloads may hold, and does not say where.
        path = find_unsafe_number(value, "result")
        if path is not None:
            raise TypeError(f"{path} is beyond ±2^53") from None
        return orjson.dumps(value)


def outcome_of_error(error: BaseException) -> Outcome:
    """What an exception from a handler's own code says. `BaseException`s that would end a process are failures
    of the job like any other."""
    error = _only_leaf(error)
    match error:
        case TransientError(code=code, message=message, dependency=dependency):
            return failed(code, message, dependency=dependency)
        case Permanent(code=code, message=message):
            return failed(code, message, retryable=False, counts=False)
        case RetryLater(after=after, scope=scope, message=message, dependency=named):
            spoken_for = named if scope == "dependency" else None
            return Deferred(after, message[:MAX_MESSAGE], scope != "job", spoken_for)
    if _is_timeout(error):
        return failed(API_TIMEOUT, _describe(error))
    if _is_network(error):
        return failed(NETWORK_ERROR, _describe(error))
    return failed(error_code(type(error).__name__), _describe(error))


def is_deliberate(error: BaseException) -> bool:
    """Whether the handler raised it to say something, so that its traceback would tell nothing more."""
    return isinstance(_only_leaf(error), TransientError | Permanent | RetryLater)


def _only_leaf(error: BaseException) -> BaseException:
    """What a TaskGroup wraps when just one of its tasks failed; a group of several stays a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or _descends(error, _TIMEOUT_CLASSES)


def _is_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | socket.gaierror | socket.herror | ssl.SSLError):
        return True
    if isinstance(error, OSError) and error.errno in _NETWORK_ERRNOS:
        return True
    # asyncio joins the refusals of a host's several addresses into an OSError without an errno.
    if type(error) is OSError and str(error).startswith("Multiple exceptions:"):
        return True
    return _descends(error, _NETWORK_CLASSES)


def _descends(error: BaseException, names: frozenset[str]) -> bool:
    return any(f"{cls.__module__}.{cls.__qualname__}" in names for cls in type(error).__mro__)


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return text or type(error).__name__


def _invalid(message: str) -> Failed:
    return failed(INVALID_RESULT, message, retryable=False, counts=False)
