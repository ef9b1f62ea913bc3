"""Settings: read from the environment, every mistake told at once, no secret shown."""

from __future__ import annotations

from datetime import timedelta

import pytest

from controlplane.settings import ControlPlaneSettings
from jobapi.settings import JobApiSettings
from jobkit.runtime.settings import BadSettings, Settings, load
from worker.settings import WorkerSettings

DATABASE = {"DATABASE_URL": "sqlite:///x.db"}
PRODUCTION = {
    "SELFHEAL_ENV": "production",
    "DATABASE_URL": "postgresql://db/x",
    "RABBITMQ_URL": "amqp://mq",
    "REDIS_URL": "redis://r",
}
ALL = [JobApiSettings, WorkerSettings, ControlPlaneSettings]


def problems(kind: type[Settings], environ: dict[str, str], *, embedded: bool = False) -> list[str]:
    with pytest.raises(BadSettings) as raised:
        load(kind, environ, embedded=embedded)
    return raised.value.problems


def test_the_defaults_are_the_documented_ones() -> None:
    worker = load(WorkerSettings, DATABASE)
    assert worker.retry_policy.max_attempts == 4
    assert worker.retry_policy.base_delay == timedelta(seconds=5)
    assert worker.retry_policy.max_delay == timedelta(seconds=30)
    policy = worker.breaker_policy
    assert (policy.failure_threshold, policy.failure_rate, policy.failure_sample) == (5, 0.5, 50)
    assert (policy.failure_window, policy.cooldown, policy.max_cooldown) == (60_000, 60_000, 600_000)
    assert (worker.concurrency, worker.max_concurrency, worker.bind) == (16, 256, "127.0.0.1")
    assert (worker.grpc_port, worker.http_port) == (50053, 3001)
    api, control = load(JobApiSettings, DATABASE), load(ControlPlaneSettings, DATABASE)
    assert (api.grpc_port, api.http_port, api.max_payload_bytes) == (50051, 3000, 262_144)
    assert (control.grpc_port, control.http_port) == (50052, 3002)


@pytest.mark.parametrize("kind", ALL)
def test_development_has_default_urls_for_all_but_the_database(kind: type[Settings]) -> None:
    settings = load(kind, DATABASE)
    assert settings.rabbitmq_url == "amqp://guest:guest@localhost:5672"
    assert settings.redis_url == "redis://localhost:6379"
    assert problems(kind, {}) == ["DATABASE_URL is missing"]


@pytest.mark.parametrize("kind", ALL)
def test_production_takes_no_default_url_and_names_each_that_is_missing(kind: type[Settings]) -> None:
    missing = [f"{name} is missing" for name in ("DATABASE_URL", "RABBITMQ_URL", "REDIS_URL")]
    assert problems(kind, {"SELFHEAL_ENV": "production"}) == missing
    assert load(kind, PRODUCTION).env == "production"


def test_embedded_parts_need_no_url() -> None:
    settings = load(WorkerSettings, {}, embedded=True)
    assert (settings.database_url, settings.rabbitmq_url, settings.redis_url) == (None, None, None)


def test_a_variable_that_is_set_to_nothing_counts_as_unset() -> None:
    assert load(WorkerSettings, {**DATABASE, "WORKER_CONCURRENCY": "", "REDIS_URL": ""}).concurrency == 16


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKER_HTTP_PORT", "65536"), ("WORKER_GRPC_PORT", "x"), ("WORKER_CONCURRENCY", "0"),
        ("FAILURE_THRESHOLD", "-1"), ("FAILURE_RATE", "0"), ("FAILURE_RATE", "1.5"), ("FAILURE_RATE", "nan"),
        ("COOLDOWN_PERIOD", "0"), ("COOLDOWN_PERIOD", "inf"), ("MAX_RETRIES", "-1"), ("MAX_RETRIES", "2.5"),
        ("RETRY_DELAY_MS", "0"), ("RETRY_PERMANENT", "maybe"), ("SIMULATE", "yes"), ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"), ("SELFHEAL_ENV", "staging"), ("SELFHEAL_NAMESPACE", "a b"), ("JOB_LEASE", "0.5"),
        ("SIMULATED_FAILURE_RATE", "2"), ("ALLOW_INSECURE", "2"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_what_was_given(name: str, value: str) -> None:
    found = [problem for problem in problems(WorkerSettings, {**DATABASE, name: value}) if name in problem]
    assert len(found) == 1
    assert found[0].startswith(f"{name}={value}: ")


@pytest.mark.parametrize("kind", [Settings, *ALL])
def test_what_is_not_built_is_refused_by_name_and_never_ignored(kind: type[Settings]) -> None:
    unbuilt = {"AUTH_MODE": "api-key", "RATE_LIMIT_PER_MINUTE": "600", "LOG_LEVEL": "loud"}
    auth, rate, level = problems(kind, {**DATABASE, **unbuilt})
    assert auth == "AUTH_MODE=api-key: this release has no authentication"
    assert rate == "RATE_LIMIT_PER_MINUTE=600: this release has no rate limit"
    assert level.startswith("LOG_LEVEL=loud: ")
    assert load(kind, {**DATABASE, "AUTH_MODE": "none", "RATE_LIMIT_PER_MINUTE": ""}).auth_mode == "none"


def test_every_bad_value_is_told_at_once() -> None:
    bad = {"FAILURE_RATE": "2", "MAX_RETRIES": "x", "LOG_LEVEL": "loud", "WORKER_HTTP_PORT": "-1"}
    assert len(problems(WorkerSettings, bad)) == len(bad) + 1  # and the missing DATABASE_URL


CONTRADICTIONS = [
    ({"COOLDOWN_PERIOD": "60", "MAX_COOLDOWN": "10"}, "MAX_COOLDOWN: must not be below COOLDOWN_PERIOD"),
    (
        {"RETRY_DELAY_MS": "50", "MAX_RETRY_DELAY_MS": "10"},
        "MAX_RETRY_DELAY_MS: must not be below RETRY_DELAY_MS",
    ),
    ({**PRODUCTION, "SIMULATE": "1"}, "SIMULATE: production runs real handlers only"),
    ({**PRODUCTION, "GAME_DAY": "1"}, "GAME_DAY: nobody injects faults into production"),
]


@pytest.mark.parametrize(
    ("environ", "on"),
    [({}, True), ({"GAME_DAY": "0"}, False), (PRODUCTION, False), ({**PRODUCTION, "GAME_DAY": "0"}, False)],
)
def test_faults_may_be_injected_unless_it_is_production(environ: dict[str, str], on: bool) -> None:
    assert load(WorkerSettings, {**DATABASE, **environ}).game_day_on is on


@pytest.mark.parametrize(("environ", "said"), CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused(environ: dict[str, str], said: str) -> None:
    assert problems(WorkerSettings, {**DATABASE, **environ}) == [said]


def test_contradictions_are_told_together_and_beside_bad_values() -> None:
    environ = {name: value for one, _ in CONTRADICTIONS for name, value in one.items()}
    found = problems(WorkerSettings, {**environ, "BIND": "0.0.0.0", "FAILURE_RATE": "2"})
    assert {said for _, said in CONTRADICTIONS} < set(found)
    assert [problem.partition(":")[0] for problem in found[:2]] == ["FAILURE_RATE=2", "BIND=0.0.0.0"]
    assert len(found) == len(CONTRADICTIONS) + 2


def test_a_value_that_is_bad_by_itself_contradicts_nothing() -> None:
    (problem,) = problems(WorkerSettings, {**DATABASE, "MAX_COOLDOWN": "10", "COOLDOWN_PERIOD": "x"})
    assert problem.startswith("COOLDOWN_PERIOD=x: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "nonsense"), ("DATABASE_URL", "mysql://h/x"), ("DATABASE_URL", "postgresql://h:port/x"),
        ("DATABASE_URL", "sqlite://"), ("RABBITMQ_URL", "http://h"), ("RABBITMQ_URL", "amqp://u:hunter2@h:99999"),
        ("REDIS_URL", "nonsense"), ("REDIS_URL", "redis://u:hunter2@h:port"),
    ],
)  # fmt: skip
def test_an_url_that_cannot_be_one_is_named_and_not_shown(name: str, value: str) -> None:
    (problem,) = problems(WorkerSettings, {**DATABASE, name: value})
    assert problem.startswith(f"{name}: ")
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "url",
    ["postgresql://h/x", "postgresql+asyncpg://u:p@h:1/x?ssl=true", "sqlite:///x.db", "sqlite:////abs/x.db"],
)
def test_database_urls_may_name_their_driver(url: str) -> None:
    assert load(WorkerSettings, {"DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_production_listens_on_loopback_only_unless_the_network_is_trusted(bind: str) -> None:
    (problem,) = problems(JobApiSettings, {**PRODUCTION, "BIND": bind})
    assert problem.startswith(f"BIND={bind}: ")
    assert "ALLOW_INSECURE=1" in problem
    assert load(JobApiSettings, {**PRODUCTION, "BIND": bind, "ALLOW_INSECURE": "1"}).bind == bind
    assert load(JobApiSettings, {**DATABASE, "BIND": bind}).bind == bind


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_production_may_listen_on_loopback(bind: str) -> None:
    assert load(JobApiSettings, {**PRODUCTION, "BIND": bind}).bind == bind


def test_no_secret_is_shown() -> None:
    environ = {**DATABASE, "SMTP_PASSWORD": "hunter2", "SMTP_PORT": "x", "WEBHOOK_SECRET": "hunter2"}
    assert "hunter2" not in "".join(problems(WorkerSettings, environ))
    assert "hunter2" not in repr(load(WorkerSettings, {**environ, "SMTP_PORT": "25"}))


def test_lists_are_separated_by_commas() -> None:
    assert load(WorkerSettings, {**DATABASE, "WORKER_HANDLERS": "a, b.c,,"}).handlers == ("a", "b.c")


def test_flags_are_zero_or_one() -> None:
    for word, expected in (("1", True), ("0", False), ("true", True), ("FALSE", False)):
        assert load(WorkerSettings, {**DATABASE, "RETRY_PERMANENT": word}).retry_permanent is expected
