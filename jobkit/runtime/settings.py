"""Settings: read from a mapping of environment variables, checked all at once.

A component's settings derive from `Settings`; a field's alias is the variable's name, documented in
docs/configuration.md. Times are seconds unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

S = TypeVar("S", bound="Settings")

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400 * 365)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


def _strict_bool(value: object) -> object:
    """`0` and `1`, `true` and `false`; nothing that a typo could mean."""
    if isinstance(value, str):
        words = {"0": False, "1": True, "false": False, "true": True}
        if value.lower() not in words:
            raise ValueError("must be 0 or 1")
        return words[value.lower()]
    return value


Flag = Annotated[bool, BeforeValidator(_strict_bool)]


def _url(*schemes: str) -> AfterValidator:
    """An URL that begins with one of `schemes`; what lies behind it is found out by connecting."""
    said = " or ".join(f"{scheme}://" for scheme in schemes)

    def check(value: str) -> str:
        scheme, _, rest = value.partition("://")
        if scheme.partition("+")[0] not in schemes or not rest:
            raise ValueError(f"must be an URL that begins with {said}")
        try:
            urlsplit(value).port  # noqa: B018 - raises for what is no port
        except ValueError:
            raise ValueError("has a port that is no number from 0 to 65535") from None
        return value

    return AfterValidator(check)


def _not_built(what: str, *accepted: str) -> BeforeValidator:
    """For names that are spoken for: a limit that is set and not kept would be worse than a refusal at start."""

    def check(value: object) -> object:
        if value not in accepted:
            raise ValueError(f"this release has no {what}")
        return value

    return BeforeValidator(check)


class BadSettings(Exception):
    """Some variables have bad values; `problems` has one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseModel):
    """What every component needs. An URL that is None means the embedded part (`selfheal dev` only)."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    env: Literal["development", "production"] = Field("development", alias="SELFHEAL_ENV")
    database_url: Annotated[str, _url("postgresql", "postgres", "sqlite")] | None = Field(
        None, alias="DATABASE_URL"
    )
    database_timeout: Seconds = Field(10, alias="DATABASE_TIMEOUT")
    database_connections: Annotated[int, Field(ge=3, le=1000)] = Field(12, alias="DATABASE_CONNECTIONS")
    rabbitmq_url: Annotated[str, _url("amqp", "amqps")] | None = Field(None, alias="RABBITMQ_URL")
    redis_url: Annotated[str, _url("redis", "rediss", "unix")] | None = Field(None, alias="REDIS_URL")
    namespace: str = Field("selfheal", alias="SELFHEAL_NAMESPACE", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    bind: str = Field("127.0.0.1", alias="BIND")
    allow_insecure: Flag = Field(False, alias="ALLOW_INSECURE")
    auth_mode: Annotated[str, _not_built("authentication", "none")] = Field("none", alias="AUTH_MODE")
    rate_limit: Annotated[None, _not_built("rate limit")] = Field(None, alias="RATE_LIMIT_PER_MINUTE")
    game_day: Flag | None = Field(None, alias="GAME_DAY")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", alias="LOG_LEVEL")
    log_format: Literal["console", "json"] = Field("console", alias="LOG_FORMAT")

    @property
    def game_day_on(self) -> bool:
        """Whether faults may be injected: unless somebody says otherwise, but never in production."""
        return self.env != "production" and self.game_day is not False

    def contradictions(self) -> Iterator[tuple[set[str], str]]:
        """Values that are right by themselves and wrong together: the variables, and a sentence."""
        if self.env == "production" and not self.allow_insecure and not _is_loopback(self.bind):
            yield (
                {"SELFHEAL_ENV", "BIND", "ALLOW_INSECURE"},
                f"BIND={self.bind}: this release has no authentication, so production listens on loopback only, "
                "unless ALLOW_INSECURE=1 says that the network is trusted",
            )
        if self.env == "production" and self.game_day:
            yield {"SELFHEAL_ENV", "GAME_DAY"}, "GAME_DAY: nobody injects faults into production"


DEVELOPMENT_URLS = {
    "RABBITMQ_URL": "amqp://guest:guest@localhost:5672",
    "REDIS_URL": "redis://localhost:6379",
}
URLS = {"DATABASE_URL": "database_url", "RABBITMQ_URL": "rabbitmq_url", "REDIS_URL": "redis_url"}


def load(kind: type[S], environ: Mapping[str, str], *, embedded: bool = False) -> S:
    """Raises BadSettings with every problem at once. With `embedded`, missing URLs mean the embedded parts;
    without, production takes no default and says which is missing."""
    values: dict[str, Any] = {name: value for name, value in environ.items() if value != ""}
    problems: list[str] = []
    if not embedded:
        if values.get("SELFHEAL_ENV", "development") == "development":
            values = {**DEVELOPMENT_URLS, **values}
        problems += [f"{name} is missing" for name in URLS if name not in values]
    known = {field.alias for field in kind.model_fields.values()}
    given = {name: value for name, value in values.items() if name in known}
    bad: set[str] = set()
    try:
        settings = kind.model_validate(given)
    except ValidationError as error:
        problems += [_sentence(problem) for problem in error.errors()]
        bad = {str(problem["loc"][0]) for problem in error.errors()}
        settings = kind.model_validate({name: value for name, value in given.items() if name not in bad})
    problems += [sentence for names, sentence in settings.contradictions() if not names & bad]
    if problems:
        raise BadSettings(problems)
    return settings


def _sentence(problem: Any) -> str:
    """Names the variable and what is wrong, and shows no secret: URLs may hold passwords."""
    name = str(problem["loc"][0])
    message = str(problem["msg"]).removeprefix("Value error, ")
    shown = "" if "URL" in name or "PASS" in name or "SECRET" in name else f"={problem['input']}"
    return f"{name}{shown}: {message}"


def _is_loopback(bind: str) -> bool:
    if bind == "localhost":
        return True
    try:
        return ip_address(bind).is_loopback
    except ValueError:
        return False
