"""Compose and Kubernetes say what the contract says, and nothing that the settings do not know."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest
import yaml

from tests.architecture.tree import ROOT

COMPONENTS = {"job-api": (3000, 50051), "worker": (3001, 50053), "control-plane": (3002, 50052)}
SERVERS = {"postgres", "rabbitmq", "redis"}
REPLICAS = {"job-api": 2, "worker": 2, "control-plane": 1}

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MANIFESTS: list[dict[str, Any]] = [
    document
    for path in sorted((ROOT / "k8s" / "base").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]


def _manifest(kind: str, name: str) -> dict[str, Any]:
    found = [m for m in MANIFESTS if m["kind"] == kind and m.get("metadata", {}).get("name") == name]
    assert len(found) == 1, f"{kind}/{name} is there {len(found)} times"
    return found[0]


def _pod(component: str) -> dict[str, Any]:
    spec: dict[str, Any] = _manifest("Deployment", component)["spec"]["template"]["spec"]
    return spec


# -- names and ports -----------------------------------------------------------------------------------------


def test_compose_has_the_services_of_the_contract() -> None:
    assert set(SERVICES) == {*COMPONENTS, *SERVERS, "migrate"}


def test_kubernetes_has_the_names_of_the_contract() -> None:
    for kind, names in (("Deployment", set(COMPONENTS)), ("StatefulSet", SERVERS)):
        assert {m["metadata"]["name"] for m in MANIFESTS if m["kind"] == kind} == names
        for name in names:
            manifest = _manifest(kind, name)
            assert manifest["metadata"]["labels"]["app"] == name
            assert manifest["spec"]["template"]["metadata"]["labels"]["app"] == name
            assert _manifest("Service", name)["spec"]["selector"] == {"app": name}


def test_every_manifest_is_listed() -> None:
    listed = set(yaml.safe_load((ROOT / "k8s/base/kustomization.yaml").read_text())["resources"])
    there = {path.name for path in (ROOT / "k8s" / "base").glob("*.yaml")}
    assert there - {"kustomization.yaml", "secret.example.yaml", "secret.yaml"} == listed


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_has_its_ports_and_replicas(name: str) -> None:
    http, grpc = COMPONENTS[name]
    service = _manifest("Service", name)["spec"]
    assert {p["name"]: p["port"] for p in service["ports"]} == {"http": http, "grpc": grpc}
    assert {p["name"]: p["containerPort"] for p in _pod(name)["containers"][0]["ports"]} == {
        "http": http,
        "grpc": grpc,
    }
    assert _manifest("Deployment", name)["spec"]["replicas"] == REPLICAS[name]
    assert {int(p.rsplit(":", 1)[1]) for p in SERVICES[name]["ports"]} == {http, grpc}
    assert SERVICES[name].get("deploy", {"replicas": 1})["replicas"] == REPLICAS[name]


def test_every_replica_has_host_ports_of_its_own() -> None:
    taken: list[int] = []
    for name in COMPONENTS:
        for port in SERVICES[name]["ports"]:
            found = re.fullmatch(r"127\.0\.0\.1:(?:\$\{[A-Z_]+:-)?(\d+)-?(\d*)}?:\d+", port)
            assert found, port
            ports = range(int(found[1]), int(found[2] or found[1]) + 1)
            assert len(ports) == REPLICAS[name], port
            taken += ports
    assert len(taken) == len(set(taken))
    assert {3000, 50051, 3002, 50052, 50053} <= set(taken)


def test_only_the_api_is_offered_to_the_outside() -> None:
    kinds = {
        m["metadata"]["name"]: m["spec"].get("type", "ClusterIP") for m in MANIFESTS if m["kind"] == "Service"
    }
    assert {name for name, kind in kinds.items() if kind != "ClusterIP"} == {"job-api"}
    assert kinds["job-api"] == "LoadBalancer"


def test_compose_publishes_on_loopback_only() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


# -- how they run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPONENTS)
def test_probes_tell_alive_from_ready(name: str) -> None:
    container = _pod(name)["containers"][0]
    assert container["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
    assert "/health/ready" in " ".join(SERVICES[name]["healthcheck"]["test"])


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_pod_runs_without_privileges(name: str) -> None:
    pod, container = _pod(name), _pod(name)["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert set(container["resources"]) == {"requests", "limits"}
    assert "USER 10001:10001" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_is_given_the_time_to_drain(name: str) -> None:
    grace = int(_manifest("ConfigMap", "selfheal")["data"]["SHUTDOWN_GRACE"])
    pre_stop = int(_pod(name)["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert _pod(name)["terminationGracePeriodSeconds"] > grace + pre_stop
    service = SERVICES[name]
    assert int(service["stop_grace_period"].removesuffix("s")) > int(service["environment"]["SHUTDOWN_GRACE"])


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_a_server_keeps_its_data(name: str) -> None:
    assert _manifest("StatefulSet", name)["spec"]["volumeClaimTemplates"]
    assert any(volume.startswith(f"{name}:") for volume in SERVICES[name]["volumes"])
    assert name in COMPOSE["volumes"]


def test_images_are_named_by_version() -> None:
    images = [service["image"] for service in SERVICES.values()]
    sets = [m for m in MANIFESTS if m["kind"] == "StatefulSet"]
    images += [m["spec"]["template"]["spec"]["containers"][0]["image"] for m in sets]
    for image in images:
        assert ":" in image, image
        assert not image.endswith(":latest"), image


# -- settings and secrets ------------------------------------------------------------------------------------

_URL_PASSWORD = re.compile(r"://[^:/\s]*:(?P<secret>[^@\s]+)@")
_PLACEHOLDER = re.compile(r"change-me|\$[({].*|")  # an empty one is none


def _pairs(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a document with the nearest key above it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _pairs(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner, key)
    elif isinstance(value, str):
        yield key, value


def _committed() -> list[tuple[str, str]]:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    pairs = re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE)
    return [*pairs, *_pairs([COMPOSE, *MANIFESTS])]


def test_no_password_is_committed() -> None:
    for key, value in _committed():
        named = [value] if re.search(r"(PASS|PASSWORD|SECRET)$", key) else []
        for secret in [*named, *(found["secret"] for found in _URL_PASSWORD.finditer(value))]:
            assert _PLACEHOLDER.fullmatch(secret), f"{key} holds {secret!r}"


def test_the_example_environment_is_what_compose_reads() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    read = re.findall(r"\$\{([A-Z_]+)", (ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) == set(read) - {"SELFHEAL_TAG"}


def _known_variables() -> set[str]:
    """The aliases of every field of every settings class."""
    known: set[str] = set()
    for home in ("jobkit.runtime", "jobapi", "worker", "controlplane"):
        module = pytest.importorskip(f"{home}.settings")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, pydantic.BaseModel):
                for name, field in cls.model_fields.items():
                    alias = field.validation_alias or field.alias or name
                    choices = alias.choices if isinstance(alias, pydantic.AliasChoices) else [alias]
                    known.update(str(choice) for choice in choices)
    return known


def _set_by_the_image() -> set[str]:
    """What the Dockerfile's ENV sets, without what is the shell's, Python's or pip's."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    names = re.findall(r"([A-Z_]+)=", " ".join(re.findall(r"^ENV (.*)$", text, re.MULTILINE)))
    return {name for name in names if name != "PATH" and not name.startswith(("PYTHON", "PIP_"))}


def test_every_variable_is_one_that_the_settings_know() -> None:
    given = {
        *_manifest("ConfigMap", "selfheal")["data"],
        *_manifest("Secret", "selfheal-connections")["stringData"],
        *_manifest("Secret", "selfheal-handlers")["stringData"],
        *(key for name in (*COMPONENTS, "migrate") for key in SERVICES[name]["environment"]),
        *_set_by_the_image(),
    }
    assert given - _known_variables() == set()
