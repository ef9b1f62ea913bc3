"""Settings: read from a mapping of environment variables, checked all at once.

A component's settings derive from `Settings`; a field's alias is the variable's name, documented in
docs/configuration.md. Times are seconds unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

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


class BadSettings(Exception):
    """Some variables have bad values; `problems` has one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseModel):
    """What every component needs. An URL that is None means the embedded part (`selfheal dev` only)."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    env: Literal["development", "production"] = Field("development", alias="SELFHEAL_ENV")
    database_url: str | None = Field(None, alias="DATABASE_URL")
    database_timeout: Seconds = Field(10, alias="DATABASE_TIMEOUT")
    rabbitmq_url: str | None = Field(None, alias="RABBITMQ_URL")
    redis_url: str | None = Field(None, alias="REDIS_URL")
    namespace: str = Field("selfheal", alias="SELFHEAL_NAMESPACE", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    bind: str = Field("127.0.0.1", alias="BIND")
    allow_insecure: Flag = Field(False, alias="ALLOW_INSECURE")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", alias="LOG_LEVEL")
    log_format: Literal["console", "json"] = Field("console", alias="LOG_FORMAT")

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.env == "production" and not self.allow_insecure and not _is_loopback(self.bind):
            raise ValueError(
                f"BIND={self.bind}: this release has no authentication, so production listens on loopback only, "
                "unless ALLOW_INSECURE=1 says that the network is trusted"
            )
        return self


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
    try:
        settings = kind.model_validate({k: v for k, v in values.items() if k in known})
    except ValidationError as error:
        problems += [_sentence(problem) for problem in error.errors()]
    if problems:
        raise BadSettings(problems)
    return settings


def _sentence(problem: Any) -> str:
    """Names the variable and what is wrong, and shows no secret: URLs may hold passwords."""
    name = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    shown = "" if "URL" in name or "PASS" in name or "SECRET" in name else f"={problem['input']}"
    return f"{name}{shown}: {message}"


def _is_loopback(bind: str) -> bool:
    if bind == "localhost":
        return True
    try:
        return ip_address(bind).is_loopback
    except ValueError:
        return False
