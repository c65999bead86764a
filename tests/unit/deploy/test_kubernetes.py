"""deploy/kubernetes: valid objects that fit each other, and pods that have no more rights than they need."""

import copy
import re
from typing import Any

import kubernetes_validate
import pytest

from support.deploy import (
    SETTINGS,
    containers,
    is_ours,
    made_by_prepare,
    manifests,
    parse_command,
    pods,
    text,
)

VERSIONS = ("1.29", "1.37")
OBJECTS = manifests()
CONTAINERS = list(containers())
IDS = [f"{name}/{container['name']}" for name, container in CONTAINERS]
WITHOUT_A_PORT = {"operator", "tables"}
"""Nobody can ask these how they are; the file says what shows it instead."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OBJECTS)
def test_the_schema_has_a_place_for_everything(name: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[name], version, strict=True)


def test_the_schema_finds_what_is_misspelt() -> None:
    wrong = copy.deepcopy(OBJECTS["Deployment/dispatcher"])
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_restricted(name: str) -> None:
    pod = pods()[name]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert f"ServiceAccount/{pod['serviceAccountName']}" in OBJECTS


@pytest.mark.parametrize(("name", "container"), CONTAINERS, ids=IDS)
def test_a_container_has_no_rights_and_no_room_to_spare(name: str, container: dict[str, Any]) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for bound in ("requests", "limits"):
        assert set(container["resources"][bound]) == {"cpu", "memory", "ephemeral-storage"}
    volumes = {volume["name"] for volume in pods()[name].get("volumes", ())} | {"data"}
    assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


@pytest.mark.parametrize(("name", "container"), CONTAINERS, ids=IDS)
def test_an_image_is_pinned_by_its_digest(name: str, container: dict[str, Any]) -> None:
    assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", container["image"]), name


@pytest.mark.parametrize(("name", "container"), CONTAINERS, ids=IDS)
def test_probes_ask_what_the_program_answers(name: str, container: dict[str, Any]) -> None:
    if container["name"] in WITHOUT_A_PORT:
        assert not any(key.endswith("Probe") for key in container)
        return
    ports = {port["name"] for port in container["ports"]}
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container[probe].get("httpGet") or container[probe].get("tcpSocket")
        if asked:
            assert asked["port"] in ports
            assert asked.get("path", "/readyz") in {"/readyz", "/healthz"}
    if name == "dispatcher":
        # A restart does not bring a database back: only the answer to "may it get requests" asks for that.
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize(("name", "container"), CONTAINERS, ids=IDS)
def test_our_commands_are_understood_by_our_programs(name: str, container: dict[str, Any]) -> None:
    command = container.get("command", ["postgres"])
    assert is_ours(command) == (name not in {"postgres", "valkey"})
    if is_ours(command):
        parse_command(command)


def test_services_and_policies_speak_of_pods_and_ports_that_there_are() -> None:
    ports = {
        name: {
            port["containerPort"] for container in pod["containers"] for port in container.get("ports", ())
        }
        for name, pod in pods().items()
    }
    for one in OBJECTS.values():
        if one["kind"] == "Service":
            name = one["spec"]["selector"]["app.kubernetes.io/name"]
            assert one["metadata"]["name"] == name
            assert {port["port"] for port in one["spec"]["ports"]} == ports[name]
    allowed: set[tuple[str, str, int]] = set()
    for policy in (one["spec"] for one in OBJECTS.values() if one["kind"] == "NetworkPolicy"):
        name = policy["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
        for rule in policy.get("ingress", ()):
            assert {port["port"] for port in rule["ports"]} == ports[name]
        for rule in policy.get("egress", ()) if name else ():
            for to in rule["to"]:
                target = to["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
                allowed |= {(name, target, port["port"]) for port in rule["ports"]}
                assert {port["port"] for port in rule["ports"]} == ports[target]
    assert allowed >= wanted()


def wanted() -> set[tuple[str, str, int]]:
    """Whom each program connects to, by its settings."""
    return {
        (file.removesuffix(".yaml"), host, int(port))
        for file in SETTINGS
        for host, port in re.findall(
            r"^[^#\n]*://(?:[^@\n]*@)?([a-z]+):(\d+)", text(f"config/{file}"), re.MULTILINE
        )
    }


def test_every_secret_that_is_mounted_is_made_as_the_readme_says() -> None:
    described = dict(
        re.findall(
            r"create secret generic ([\w-]+)((?: \\\n +--from-file=\S+| --from-file=\S+)+)", text("README.md")
        )
    )
    mounted = set()
    for pod in pods().values():
        mounted |= {volume["secret"]["secretName"] for volume in pod.get("volumes", ()) if "secret" in volume}
    for _, container in CONTAINERS:
        mounted |= {
            variable["valueFrom"]["secretKeyRef"]["name"]
            for variable in container.get("env", ())
            if "valueFrom" in variable
        }
    assert set(described) == mounted
    for files in described.values():
        for file in re.findall(r"--from-file=deploy/secrets/(\S+)", files):
            assert file in made_by_prepare()
    for file in SETTINGS:
        for path in re.findall(r"/run/secrets/([\w.-]+)", text(f"config/{file}")):
            assert f"deploy/secrets/{path}" in described[file.removesuffix(".yaml")]


def test_there_is_always_a_dispatcher_and_never_two_of_an_operator() -> None:
    dispatcher, operator = OBJECTS["Deployment/dispatcher"]["spec"], OBJECTS["Deployment/operator"]["spec"]
    assert dispatcher["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert dispatcher["replicas"] > OBJECTS["PodDisruptionBudget/dispatcher"]["spec"]["minAvailable"] == 1
    assert (operator["replicas"], operator["strategy"]) == (1, {"type": "Recreate"})
